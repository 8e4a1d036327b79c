//! A box whose memory is wiped when it is dropped: for values of other crates that hold keys and do not wipe them.
#![expect(unsafe_code, reason = "the memory of a value can only be wiped after the value's own end")]

use std::mem::MaybeUninit;
use std::ops::Deref;

use zeroize::Zeroize as _;

/// A value on the heap. Other memory that the value owns is not wiped, nor are copies that were made on the stack when it was moved
/// here.
pub(crate) struct Wiped<T>(Box<MaybeUninit<T>>);

impl<T> Wiped<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Box::new(MaybeUninit::new(value)))
    }
}

impl<T> Deref for Wiped<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: initialised by `new`, and ended by `drop` alone.
        unsafe { self.0.assume_init_ref() }
    }
}

impl<T> Drop for Wiped<T> {
    fn drop(&mut self) {
        // SAFETY: initialised by `new`, and never used again.
        unsafe { end(&mut self.0) };
    }
}

/// Drops the value and wipes its memory.
///
/// # Safety
/// The memory holds a value, and is uninitialised afterwards.
unsafe fn end<T>(place: &mut MaybeUninit<T>) {
    // SAFETY: the caller guarantees that there is a value.
    unsafe { place.assume_init_drop() };
    place.zeroize();
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_value_is_dropped_once_and_its_memory_is_wiped() {
        struct Key<'a>([u8; 32], &'a Cell<u32>);
        impl Drop for Key<'_> {
            fn drop(&mut self) {
                self.1.set(self.1.get() + 1);
            }
        }
        let drops = Cell::new(0);
        let wiped = Wiped::new(Key([7; 32], &drops));
        let key: &Key<'_> = &wiped;
        assert_eq!((key.0, drops.get()), ([7; 32], 0));
        drop(wiped);
        assert_eq!(drops.get(), 1);

        let mut place = MaybeUninit::new([7_u8; 32]);
        // SAFETY: it holds a value, for which all zeros are valid too.
        let left = unsafe {
            end(&mut place);
            place.assume_init()
        };
        assert_eq!(left, [0; 32]);
    }
}
