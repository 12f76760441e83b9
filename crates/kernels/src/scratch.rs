//! Each thread's scratch memory, kept from call to call so that packing costs no page faults.
//!
//! A buffer is taken out of its slot while in use and goes back when dropped. Should the same thread come by again
//! meanwhile (rayon lets a waiting thread run other work), it finds the slot empty and gets a fresh buffer; of the two
//! the larger is kept.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

/// One cache line, so that buffers begin on a line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; Line::FLOATS]);

impl Line {
    const FLOATS: usize = 16;
}

#[derive(Clone, Copy)]
pub(crate) enum Slot {
    /// What all threads of one call read: the packed input rows.
    Call,
    /// What one thread packs for itself.
    Thread,
}

thread_local! {
    static SLOTS: [Cell<Vec<Line>>; 2] = const { [Cell::new(Vec::new()), Cell::new(Vec::new())] };
}

/// `len` f32 that begin on a cache line. They hold whatever an earlier use left.
pub(crate) struct Buffer {
    lines: Vec<Line>,
    len: usize,
    slot: Slot,
}

impl Buffer {
    pub(crate) fn take(slot: Slot, len: usize) -> Self {
        let mut lines = SLOTS.with(|slots| slots[slot as usize].take());
        if lines.len() * Line::FLOATS < len {
            lines.resize(len.div_ceil(Line::FLOATS), Line([0.0; Line::FLOATS]));
        }
        Self { lines, len, slot }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `Line` is exactly 16 f32 without padding (repr(C), 64 bytes), so the lines are one run of initialised
        // f32, no fewer than `len`, borrowed from `self`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        // At a thread's end the slots may be gone already; then the memory is simply freed.
        let _ = SLOTS.try_with(|slots| {
            let slot = &slots[self.slot as usize];
            let other = slot.take();
            slot.set(if other.len() > lines.len() {
                other
            } else {
                lines
            });
        });
    }
}

/// The same memory as bytes, four a value.
pub(crate) fn as_bytes(values: &mut [f32]) -> &mut [u8] {
    // SAFETY: any f32 is four initialised bytes and any four bytes are an f32; the borrow is passed on.
    unsafe {
        std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), std::mem::size_of_val(values))
    }
}

/// The same memory as halves of words, two a value.
pub(crate) fn as_halves(values: &mut [f32]) -> &mut [u16] {
    // SAFETY: any f32 is two initialised u16, which need less alignment, and the reverse; the borrow is passed on.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), 2 * values.len()) }
}

/// The same memory as words.
pub(crate) fn as_words(values: &mut [f32]) -> &mut [u32] {
    // SAFETY: any f32 is an initialised u32 of the same size and alignment, and the reverse; the borrow is passed on.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nested_use_of_a_slot_gets_memory_of_its_own_and_the_larger_is_kept() {
        let mut outer = Buffer::take(Slot::Thread, 100);
        outer.fill(1.0);
        assert_eq!(outer.as_ptr() as usize % 64, 0);
        let mut inner = Buffer::take(Slot::Thread, 200);
        inner.fill(2.0);
        drop(inner);
        assert!(outer.iter().all(|x| *x == 1.0));
        drop(outer);
        assert_eq!(Buffer::take(Slot::Thread, 200)[199], 2.0);
    }
}
