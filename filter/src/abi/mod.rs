//! Envoy's side of the host port: proxy-wasm ABI 0.2.1, and nothing else of it than what the filter uses.
//!
//! Total by construction: every status that the host can answer becomes a [`Refused`] or a `None`, bytes are never
//! assumed to be UTF-8, and a callback that comes at a time it should not is ignored. Why not the SDK:
//! `docs/decisions/0002-own-proxy-wasm-abi.md`.

// The interface consists of raw pointers into this module's own memory and of exported symbols; both are unsafe by
// nature. No other module of the crate has unsafe code.
#![allow(unsafe_code)]

mod exports;
mod externs;
mod memory;

use std::ptr::{null, null_mut};

use crate::host::{Host, LogLevel, MetricId, MetricKind, Mono, Refused, StreamToken};
use crate::pairs;
use externs as env;
pub(crate) use memory::HostBytes;

/// `proxy_status_t` and WASI's errno: done.
const OK: u32 = 0;
/// `proxy_map_type_t`.
const REQUEST_HEADERS: u32 = 0;
const RESPONSE_HEADERS: u32 = 2;
/// `proxy_buffer_type_t`.
const GRPC_MESSAGE: u32 = 5;
const PLUGIN_CONFIGURATION: u32 = 7;
/// `clockid_t`.
const WALL_CLOCK: u32 = 0;
const MONOTONIC_CLOCK: u32 = 1;
/// A local response without `grpc-status`.
const NO_GRPC_STATUS: u32 = u32::MAX;

/// The Envoy that this module runs in.
#[derive(Debug)]
pub(crate) struct Envoy;

/// `Ok` if a status says so.
fn check(status: u32) -> Result<(), Refused> {
    if status == OK {
        Ok(())
    } else {
        Err(Refused(status))
    }
}

/// Runs a host call that hands bytes over.
fn take(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Result<HostBytes, Refused> {
    let mut data = null_mut();
    let mut size = 0;
    let status = call(&raw mut data, &raw mut size);
    // SAFETY: the host wrote an address that it got from `proxy_on_memory_allocate` with that size, or nothing (then
    // the address is null). Each address is wrapped once, here.
    let bytes = unsafe { HostBytes::from_host(data, size) };
    check(status)?;
    Ok(bytes)
}

fn buffer(kind: u32) -> Result<HostBytes, Refused> {
    // SAFETY: both pointers are to live variables of `take`.
    take(|data, size| unsafe { env::proxy_get_buffer_bytes(kind, 0, usize::MAX / 2, data, size) })
}

/// Reads a property; `path` has its segments separated by NUL.
fn property(path: &str) -> Result<HostBytes, Refused> {
    // SAFETY: `path` outlives the call; both pointers are to live variables of `take`.
    take(|data, size| unsafe { env::proxy_get_property(path.as_ptr(), path.len(), data, size) })
}

/// A property that is text. Text that is not UTF-8 or is empty counts as absent.
fn text_property(path: &str) -> Option<String> {
    let bytes = property(path).ok()?;
    std::str::from_utf8(&bytes)
        .ok()
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

/// A clock in nanoseconds. Envoy has both clocks; should a host lack one, time stands still at 0.
fn clock(id: u32) -> u64 {
    let mut nanos = 0_u64;
    // SAFETY: the pointer is to a live variable.
    let _status = unsafe { env::clock_time_get(id, 1, &raw mut nanos) };
    nanos
}

impl Host for Envoy {
    type Bytes = HostBytes;

    fn plugin_configuration(&mut self) -> Result<HostBytes, Refused> {
        buffer(PLUGIN_CONFIGURATION)
    }

    fn node_id(&mut self) -> Option<String> {
        // Envoy 1.40 has it among the xDS attributes; older ones at the root.
        text_property("xds\0node\0id").or_else(|| text_property("node\0id"))
    }

    fn set_tick(&mut self, millis: u32) {
        // SAFETY: takes no pointers. It cannot fail in a plugin's callback.
        let _status = unsafe { env::proxy_set_tick_period_milliseconds(millis) };
    }

    fn log(&mut self, level: LogLevel, line: &str) {
        let level = match level {
            LogLevel::Info => 2,
            LogLevel::Warn => 3,
            LogLevel::Error => 4,
        };
        // SAFETY: `line` outlives the call. There is nowhere to report a failed log line to.
        let _status = unsafe { env::proxy_log(level, line.as_ptr(), line.len()) };
    }

    fn mono(&mut self) -> Mono {
        Mono(clock(MONOTONIC_CLOCK))
    }

    fn wall_millis(&mut self) -> u64 {
        clock(WALL_CLOCK) / 1_000_000
    }

    fn random(&mut self) -> Result<[u8; 16], Refused> {
        let mut bytes = [0; 16];
        // SAFETY: the pointer is to a live array of that size.
        check(unsafe { env::random_get(bytes.as_mut_ptr(), bytes.len()) })?;
        Ok(bytes)
    }

    fn define_metric(&mut self, kind: MetricKind, name: &str) -> Result<MetricId, Refused> {
        let kind = match kind {
            MetricKind::Counter => 0,
            MetricKind::Gauge => 1,
        };
        let mut id = 0;
        // SAFETY: `name` outlives the call; the pointer is to a live variable.
        check(unsafe { env::proxy_define_metric(kind, name.as_ptr(), name.len(), &raw mut id) })?;
        Ok(MetricId(id))
    }

    fn increment(&mut self, metric: MetricId, by: u64) {
        // SAFETY: takes no pointers. It fails only for an id that was never defined.
        let _status = unsafe { env::proxy_increment_metric(metric.0, i64::try_from(by).unwrap_or(i64::MAX)) };
    }

    fn record(&mut self, metric: MetricId, value: u64) {
        // SAFETY: as above.
        let _status = unsafe { env::proxy_record_metric(metric.0, value) };
    }

    fn request_headers(&mut self) -> Result<HostBytes, Refused> {
        // SAFETY: both pointers are to live variables of `take`.
        take(|data, size| unsafe { env::proxy_get_header_map_pairs(REQUEST_HEADERS, data, size) })
    }

    fn remove_request_header(&mut self, name: &[u8]) {
        // SAFETY: `name` outlives the call. It cannot fail while a request's headers are being handled.
        let _status =
            unsafe { env::proxy_remove_header_map_value(REQUEST_HEADERS, name.as_ptr(), name.len()) };
    }

    fn add_request_header(&mut self, name: &str, value: &str) {
        // SAFETY: both outlive the call. It cannot fail while a request's headers are being handled.
        let _status = unsafe {
            env::proxy_add_header_map_value(
                REQUEST_HEADERS,
                name.as_ptr(),
                name.len(),
                value.as_ptr(),
                value.len(),
            )
        };
    }

    fn peer_uri_san(&mut self) -> Option<String> {
        text_property("connection\0uri_san_peer_certificate")
    }

    fn respond(&mut self, status: u32, details: &str, headers: &[(&str, &str)], body: &str) {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        let headers = pairs::serialize(&headers);
        // SAFETY: all outlive the call. It cannot fail while a request's headers are being handled.
        let _status = unsafe {
            env::proxy_send_local_response(
                status,
                details.as_ptr(),
                details.len(),
                body.as_ptr(),
                body.len(),
                headers.as_ptr(),
                headers.len(),
                NO_GRPC_STATUS,
            )
        };
    }

    fn logged_status(&mut self) -> Option<u16> {
        std::str::from_utf8(&self.logged_header(":status")?)
            .ok()?
            .parse()
            .ok()
    }

    fn logged_header(&mut self, name: &str) -> Option<HostBytes> {
        // SAFETY: `name` outlives the call; both pointers are to live variables of `take`.
        let value = take(|data, size| unsafe {
            env::proxy_get_header_map_value(RESPONSE_HEADERS, name.as_ptr(), name.len(), data, size)
        });
        value.ok()
    }

    fn answer_details(&mut self) -> Option<String> {
        text_property("response\0code_details")
    }

    fn response_status(&mut self) -> Option<u16> {
        // An i64, little-endian; 0 stands for no answer.
        let bytes = property("response\0code").ok()?;
        let code = u64::from_le_bytes(bytes.as_ref().try_into().ok()?);
        code.try_into().ok().filter(|code| *code > 0)
    }

    fn open_stream(&mut self, cluster: &str, service: &str, method: &str) -> Result<StreamToken, Refused> {
        // Envoy takes either a serialised GrpcService or a bare name, and tries the first one first. A short name can
        // happen to parse as a message, so the message is what it gets.
        let target = grpc_service(cluster);
        let mut token = 0;
        // SAFETY: all outlive the call; the pointer is to a live variable. No metadata is null with size 0.
        check(unsafe {
            env::proxy_grpc_stream(
                target.as_ptr(),
                target.len(),
                service.as_ptr(),
                service.len(),
                method.as_ptr(),
                method.len(),
                null(),
                0,
                &raw mut token,
            )
        })?;
        Ok(StreamToken(token))
    }

    fn send(&mut self, stream: StreamToken, message: &[u8]) -> Result<(), Refused> {
        const MORE_FOLLOWS: u32 = 0;
        // SAFETY: `message` outlives the call.
        check(unsafe { env::proxy_grpc_send(stream.0, message.as_ptr(), message.len(), MORE_FOLLOWS) })
    }

    fn close(&mut self, stream: StreamToken) {
        // SAFETY: takes no pointers. A stream that the host has forgotten already is what is wanted.
        let _status = unsafe { env::proxy_grpc_close(stream.0) };
    }

    fn cancel(&mut self, stream: StreamToken) {
        // SAFETY: as above.
        let _status = unsafe { env::proxy_grpc_cancel(stream.0) };
    }

    fn received(&mut self) -> Result<HostBytes, Refused> {
        buffer(GRPC_MESSAGE)
    }
}

/// Envoy's `envoy.config.core.v3.GrpcService` with `envoy_grpc.cluster_name`, as protobuf.
fn grpc_service(cluster: &str) -> Vec<u8> {
    const ENVOY_GRPC: u32 = 1;
    const CLUSTER_NAME: u32 = 1;
    let mut inner = Vec::new();
    prost::encoding::string::encode(CLUSTER_NAME, &cluster.to_owned(), &mut inner);
    let mut outer = Vec::new();
    prost::encoding::bytes::encode(ENVOY_GRPC, &inner, &mut outer);
    outer
}
