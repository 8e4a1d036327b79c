//! Secrets of 32 bytes. Each stays at one address as long as it exists: it is shared, never copied, and wiped when the last handle
//! is dropped. They are in pages that hold nothing else, which are kept out of swap where the system allows it, and out of core
//! files.
#![expect(unsafe_code, reason = "pages are taken from the system and locked by system calls")]

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, Once, PoisonError};

use zeroize::{Zeroize as _, Zeroizing};

use crate::sys;

/// 32 secret bytes. A clone is another handle to the same bytes, and the last handle wipes them. Cannot be printed.
#[derive(Clone)]
pub struct Secret(Arc<Place>);

impl Secret {
    /// A secret that `fill` writes at its final address: it gets 32 zeros. Copies that `fill` leaves elsewhere are not wiped; see
    /// [`leave_no_trace`].
    ///
    /// # Errors
    /// Those of `fill`; the bytes that it wrote are wiped.
    pub fn fill<E>(fill: impl FnOnce(&mut [u8; 32]) -> Result<(), E>) -> Result<Self, E> {
        let mut place = Place::take();
        fill(place.bytes_mut())?;
        Ok(Self(Arc::new(place)))
    }

    /// As [`Self::fill`], where writing cannot fail.
    #[must_use]
    pub fn write(write: impl FnOnce(&mut [u8; 32])) -> Self {
        let written: Result<Self, Infallible> = Self::fill(|bytes| {
            write(bytes);
            Ok(())
        });
        match written {
            Ok(secret) => secret,
            Err(never) => match never {},
        }
    }

    /// The bytes, borrowed: callers must not copy them.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        self.0.bytes()
    }
}

/// From bytes in other memory, which is wiped. Earlier moves of those bytes have left copies that are not.
impl From<Zeroizing<[u8; 32]>> for Secret {
    fn from(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self::write(|place| place.copy_from_slice(bytes.as_slice()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Runs `work` and wipes the part of the stack that it used: calculations with secrets leave them there, in variables, spilled
/// registers and moved values. Secrets in the result of `work` must be on the heap.
#[inline(never)]
pub fn leave_no_trace<R>(work: impl FnOnce() -> R) -> R {
    #[inline(never)]
    fn run<R>(work: impl FnOnce() -> R) -> R {
        work()
    }
    let result = run(work);
    wipe_below();
    result
}

/// More stack than any calculation with a key uses, in bytes; a thread's stack has 2 MiB.
const WIPED_STACK: usize = 32 << 10;

/// Its stack frame overlaps that of the function called before.
#[inline(never)]
fn wipe_below() {
    let mut stack = [0_u64; WIPED_STACK / 8];
    stack.zeroize();
    // As if it were read, so that the compiler does not leave it out.
    std::hint::black_box(&stack);
}

/// Room for one secret in a page.
struct Place(NonNull<[u8; 32]>);

// SAFETY: a place belongs to the one handle that took it, as a box does, until it is dropped.
unsafe impl Send for Place {}
// SAFETY: as above; behind a shared reference it is only read.
unsafe impl Sync for Place {}

impl Place {
    fn take() -> Self {
        let mut pages = PAGES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = pages.iter_mut().find_map(Page::take) {
            return place;
        }
        let mut page = Page::map();
        #[expect(clippy::expect_used, reason = "a new page is empty")]
        let place = page.take().expect("a place in a new page");
        pages.push(page);
        place
    }

    fn bytes(&self) -> &[u8; 32] {
        // SAFETY: it points into a page that is never unmapped, and no other handle has this place.
        unsafe { self.0.as_ref() }
    }

    fn bytes_mut(&mut self) -> &mut [u8; 32] {
        // SAFETY: as above, and it is borrowed exclusively.
        unsafe { self.0.as_mut() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.bytes_mut().zeroize();
        let mut pages = PAGES.lock().unwrap_or_else(PoisonError::into_inner);
        // Every place belongs to one of them.
        let _ = pages.iter_mut().any(|page| page.give_back(self.0));
    }
}

/// Empty pages are kept for the next secrets: they are few, 32 KiB for a thousand peers.
static PAGES: Mutex<Vec<Page>> = Mutex::new(Vec::new());

/// The smallest page size of any machine: where pages are larger, the rest of each is unused.
const PAGE: usize = 4096;
const PLACES: usize = PAGE / size_of::<[u8; 32]>();

/// A page, and a bit for each of its places that says whether it is taken.
struct Page {
    places: NonNull<[u8; 32]>,
    taken: u128,
}

// SAFETY: it holds the address of the page and a bit for each place, and no thread owns either.
unsafe impl Send for Page {}

const _: () = assert!(PLACES == u128::BITS as usize);

impl Page {
    fn map() -> Self {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the system chooses the address, of memory that is not in use.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, access, kind, -1, 0) };
        let places = NonNull::new(page.cast()).filter(|_| page != libc::MAP_FAILED);
        #[expect(clippy::expect_used, reason = "the allocator too ends the process without memory")]
        let places = places.expect("the system has no page of memory");
        // SAFETY: the page is ours and not used yet; neither call changes what is in it.
        let locked = unsafe {
            // Core files are off by default; this is for processes that turn them on.
            libc::madvise(page, PAGE, libc::MADV_DONTDUMP);
            sys::check(libc::mlock(page, PAGE))
        };
        report_once(locked);
        Self { places, taken: 0 }
    }

    fn take(&mut self) -> Option<Place> {
        let free = self.taken.trailing_ones() as usize;
        if free == PLACES {
            return None;
        }
        self.taken |= 1 << free;
        // SAFETY: the place lies in the page.
        Some(Place(unsafe { self.places.add(free) }))
    }

    /// False where the place is not in this page.
    fn give_back(&mut self, place: NonNull<[u8; 32]>) -> bool {
        let offset = place.addr().get().wrapping_sub(self.places.addr().get());
        let is_ours = offset < PAGE;
        if is_ours {
            self.taken &= !(1 << (offset / size_of::<[u8; 32]>()));
        }
        is_ours
    }
}

fn report_once(locked: io::Result<libc::c_int>) {
    static REPORTED: Once = Once::new();
    if let Err(error) = locked {
        REPORTED.call_once(|| {
            tracing::warn!(%error, "keys cannot be locked in memory (RLIMIT_MEMLOCK): where this machine swaps, they may reach its disk");
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_where_it_was_written_and_is_wiped_with_its_last_handle() {
        let secret = Secret::write(|bytes| bytes.fill(7));
        let (other, at) = (secret.clone(), secret.bytes().as_ptr());
        assert_eq!((other.bytes().as_ptr(), other.bytes()), (at, &[7; 32]));
        drop(secret);
        assert_eq!(other.bytes(), &[7; 32], "there is a handle left");
        assert_eq!(format!("{other:?}"), "[redacted]");
        let page = at.map_addr(|at| at & !(PAGE - 1));
        drop(other);
        // SAFETY: pages stay mapped; other tests may write there, but none writes these bytes.
        let left = unsafe { std::slice::from_raw_parts(page, PAGE) };
        assert!(!left.windows(32).any(|window| window == [7; 32]));
        assert_eq!(
            Secret::fill(|bytes| {
                bytes.fill(7);
                Err("no")
            })
            .unwrap_err(),
            "no"
        );
        assert!(!left.windows(32).any(|window| window == [7; 32]));
    }

    #[test]
    fn more_secrets_than_fit_into_a_page_overlap_nowhere() {
        let secrets: Vec<Secret> =
            (0..300_u16).map(|at| Secret::write(|bytes| bytes[..2].copy_from_slice(&at.to_le_bytes()))).collect();
        for (secret, at) in secrets.iter().zip(0_u16..) {
            assert_eq!(secret.bytes()[..2], at.to_le_bytes());
            assert_eq!(secret.bytes()[2..], [0; 30]);
        }
    }

    #[test]
    fn nothing_of_a_calculation_is_left_on_the_stack() {
        #[inline(never)]
        fn leaves(depth: usize) -> u8 {
            let mut bytes = [0x5a_u8; 64];
            std::hint::black_box(&mut bytes);
            let deepest = if depth > 0 { leaves(depth - 1) } else { bytes[7] };
            // Used after the call as well: otherwise an optimised build turns the recursion into a loop with only one of these
            // arrays.
            std::hint::black_box(&bytes);
            deepest
        }
        #[inline(never)]
        fn left_below() -> usize {
            let here = 0_u8;
            // An address, not a pointer to the variable, beside which an optimised build may take it that nothing is read.
            let top = std::hint::black_box(std::ptr::from_ref(&here).expose_provenance());
            let mut found = 0;
            for below in 128..(32 << 10) {
                let at = std::ptr::with_exposed_provenance::<u8>(top - below);
                // SAFETY: the stack below was in use a moment ago; one byte is read, whatever it is.
                let byte = unsafe { at.read_volatile() };
                found += usize::from(byte == 0x5a);
            }
            found
        }
        leaves(100);
        assert!(left_below() > 3200, "the bytes are not found even without wiping, so the test proves nothing");
        assert_eq!(leave_no_trace(|| leaves(100)), 0x5a);
        assert!(left_below() < 64, "{} bytes are left", left_below());
    }
}
