//! The floor of the benchmark: a wasm filter that does nothing.
//!
//! It exports the callbacks that the real filter exports for a request, with empty bodies, so that what is left
//! between the two is the work.

// Exported symbols are what makes a library a filter.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc};

/// Says which version of the interface this module speaks.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_abi_version_0_2_1() {}

/// Memory for what Envoy hands over; an empty filter is never handed anything, but Envoy insists on the export.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    match Layout::from_size_align(size, 1) {
        // SAFETY: the layout has a size above zero.
        Ok(layout) if size > 0 => unsafe { alloc(layout) },
        _ => std::ptr::null_mut(),
    }
}

/// A plugin or a request begins.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_context_create(_context: u32, _parent: u32) {}

/// A request's headers came; 0 lets it go on.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_headers(_context: u32, _headers: u32, _end_of_stream: u32) -> u32 {
    0
}

/// A request is over.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_log(_context: u32) {}

/// A request's context goes away.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_delete(_context: u32) {}
