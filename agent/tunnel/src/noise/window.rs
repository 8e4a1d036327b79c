//! Which messages of a session were received already (paper, section 5.4.6; the algorithm is RFC 6479's).

const WORDS: usize = 128;
const BITS: u64 = u64::BITS as u64;

/// How far behind the greatest counter a message may be: as far as the kernel's WireGuard lets it.
pub(super) const SIZE: u64 = (WORDS as u64 - 1) * BITS;

/// The counters received so far, as far back as [`SIZE`].
pub(super) struct Window {
    /// One more than the greatest.
    next: u64,
    /// A bit for each counter, in a ring. A word is cleared when the greatest counter enters it.
    words: [u64; WORDS],
}

impl Window {
    pub(super) const fn new() -> Self {
        Self { next: 0, words: [0; WORDS] }
    }

    /// Whether a message with this counter may be new. To be called before opening it; [`Self::mark`] follows if it is authentic.
    pub(super) fn is_new(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        let (word, bit) = place(counter);
        self.next - 1 - counter < SIZE && self.words[word] & bit == 0
    }

    /// Marks an authentic message as received. The caller has checked that `counter` [`Self::is_new`].
    pub(super) fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            let (from, to) = (self.next.saturating_sub(1) / BITS, counter / BITS);
            for word in from + 1..=to.min(from + WORDS as u64) {
                self.words[(word % WORDS as u64) as usize] = 0;
            }
            self.next = counter + 1;
        }
        let (word, bit) = place(counter);
        self.words[word] |= bit;
    }
}

fn place(counter: u64) -> (usize, u64) {
    ((counter / BITS % WORDS as u64) as usize, 1 << (counter % BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_counter_is_new_once_and_the_window_has_an_end() {
        let mut window = Window::new();
        for counter in [0, 3, 1, SIZE + 3] {
            assert!(window.is_new(counter), "{counter}");
            window.mark(counter);
            assert!(!window.is_new(counter), "{counter}");
        }
        assert!(window.is_new(4), "the oldest that fits");
        assert!(!window.is_new(2), "too old, although it was never received");
        for greatest in [4 * SIZE, 1 << 40, (1 << 41) + 77] {
            window.mark(greatest);
            let is_new = |counter| window.is_new(counter);
            assert!((greatest - SIZE + 1..greatest).all(is_new), "no bit of an earlier round is left");
            assert!(!window.is_new(greatest - SIZE));
            (greatest - SIZE + 1..greatest).for_each(|counter| window.mark(counter));
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set(steps in prop::collection::vec((0_u64..3, 0_u64..20_000), 1..400)) {
            let (mut window, mut seen, mut greatest) = (Window::new(), BTreeSet::new(), 0_u64);
            for (far, step) in steps {
                let counter = match far {
                    0 => greatest.saturating_sub(step % 200),
                    1 => greatest.saturating_sub(step),
                    _ => greatest + step % 300,
                };
                let expected = !seen.contains(&counter) && greatest.saturating_sub(counter) < SIZE;
                prop_assert_eq!(window.is_new(counter), expected, "{} after {}", counter, greatest);
                if expected {
                    window.mark(counter);
                    seen.insert(counter);
                    greatest = greatest.max(counter);
                }
            }
        }
    }
}
