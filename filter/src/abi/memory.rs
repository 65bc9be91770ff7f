//! Memory for what the host hands over.
//!
//! The host asks for memory before each value it passes, several times a request. Values that are short (all of them,
//! as a rule) share one block that is lent out again and again; only what does not fit is allocated.

use std::alloc::{Layout, alloc, dealloc};
use std::cell::{Cell, UnsafeCell};
use std::ops::Deref;
use std::ptr::{NonNull, null_mut};

/// The size of the block that is lent out: a request's headers fit, unless they are unusually long.
const BLOCK_BYTES: usize = 16 * 1024;

/// `lent` stands first, beside the bytes that are used: one page of memory is touched, not two.
#[repr(C)]
struct Block {
    lent: Cell<bool>,
    bytes: UnsafeCell<[u8; BLOCK_BYTES]>,
}

// SAFETY: a proxy-wasm module has one thread; this crate builds its ABI for wasm32 without threads only.
unsafe impl Sync for Block {}

static BLOCK: Block = Block {
    bytes: UnsafeCell::new([0; BLOCK_BYTES]),
    lent: Cell::new(false),
};

/// Memory for the host to write `size` bytes to; null if there is none.
pub(super) fn lend(size: usize) -> *mut u8 {
    if size <= BLOCK_BYTES && !BLOCK.lent.replace(true) {
        return BLOCK.bytes.get().cast();
    }
    match Layout::array::<u8>(size) {
        // SAFETY: the layout's size is not zero.
        Ok(layout) if size > 0 => unsafe { alloc(layout) },
        _ => null_mut(),
    }
}

/// Bytes in memory that [`lend`] gave to the host. Given back when dropped.
#[derive(Debug)]
pub(crate) struct HostBytes {
    data: NonNull<u8>,
    size: usize,
}

impl HostBytes {
    /// # Safety
    /// `data` is null, or came from [`lend`] with `size`, holds that many bytes, and was not wrapped before.
    pub(super) unsafe fn from_host(data: *mut u8, size: usize) -> Self {
        match NonNull::new(data) {
            Some(data) => Self { data, size },
            None => Self {
                data: NonNull::dangling(),
                size: 0,
            },
        }
    }
}

impl Deref for HostBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `from_host` was promised `size` bytes there; nobody writes to them while they are lent.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.size) }
    }
}

impl Drop for HostBytes {
    fn drop(&mut self) {
        if std::ptr::eq(self.data.as_ptr(), BLOCK.bytes.get().cast()) {
            BLOCK.lent.set(false);
        } else if let (Ok(layout), true) = (Layout::array::<u8>(self.size), self.size > 0) {
            // SAFETY: it came from `alloc` in `lend` with this very layout.
            unsafe { dealloc(self.data.as_ptr(), layout) };
        }
    }
}
