//! The callbacks that Envoy makes. What is not exported is not called, and a call costs a switch between Envoy and
//! the VM: so nothing is exported that has nothing to do.

use std::cell::RefCell;

use super::{Envoy, memory};
use crate::host::StreamToken;
use crate::in_flight::ContextId;
use crate::vm::Vm;

thread_local! {
    /// The VM's state. It outlives plugin configurations, and so do the snapshot and the counts in it.
    static VM: RefCell<Vm> = const { RefCell::new(Vm::new()) };
}

/// Runs a callback. Envoy never calls back into the module while a callback runs (but for memory); should a host do
/// so, that callback finds the state in use and does nothing.
fn with_vm<R>(idle: R, callback: impl FnOnce(&mut Vm, &mut Envoy) -> R) -> R {
    VM.with(|vm| match vm.try_borrow_mut() {
        Ok(mut vm) => callback(&mut vm, &mut Envoy),
        Err(_) => idle,
    })
}

/// Says which version of the interface this module speaks.
#[unsafe(no_mangle)]
extern "C" fn proxy_abi_version_0_2_1() {}

/// Memory for what Envoy hands over.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    memory::lend(size)
}

/// A plugin (`parent` is 0) or a request begins.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(context: u32, parent: u32) {
    if parent != 0 {
        with_vm((), |vm, _| vm.on_request(ContextId(context), ContextId(parent)));
    }
}

/// A plugin gets its configuration; 0 refuses it.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(context: u32, _size: usize) -> u32 {
    with_vm(0, |vm, host| u32::from(vm.on_configure(host, ContextId(context))))
}

/// The period that the filter asked for has passed.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(context: u32) {
    with_vm((), |vm, host| vm.on_tick(host, ContextId(context)));
}

/// A request's headers came. 0 lets it go on; after a local answer the host stops it whatever is returned.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(context: u32, _headers: u32, _end_of_stream: u32) -> u32 {
    with_vm((), |vm, host| vm.on_request_headers(host, ContextId(context)));
    0
}

/// A request is over.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_log(context: u32) {
    with_vm((), |vm, host| vm.on_log(host, ContextId(context)));
}

/// A plugin or a request goes away.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_delete(context: u32) {
    with_vm((), |vm, host| vm.on_delete(host, ContextId(context)));
}

/// A message came on a stream.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_receive(context: u32, stream: u32, _size: usize) {
    with_vm((), |vm, host| {
        vm.on_receive(host, ContextId(context), StreamToken(stream));
    });
}

/// The peer closed a stream, or it broke.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_grpc_close(context: u32, stream: u32, status: u32) {
    with_vm((), |vm, host| {
        vm.on_close(host, ContextId(context), StreamToken(stream), status);
    });
}
