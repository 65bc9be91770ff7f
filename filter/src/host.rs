//! What the filter asks of the proxy it runs in: one port, so that everything behind it runs natively in tests.
//!
//! The only implementation besides the tests' is the module `abi`, Envoy's side of proxy-wasm ABI 0.2.1.

use std::ops::Deref;

/// A moment on the host's monotonic clock, in nanoseconds. Only differences mean something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mono(pub u64);

impl Mono {
    /// The time from `earlier` to this moment in microseconds; 0 if `earlier` is later.
    pub fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000
    }

    /// This moment, `millis` later.
    #[must_use]
    pub fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis.saturating_mul(1_000_000)))
    }
}

/// A gRPC stream that the host opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamToken(pub u32);

/// A metric that the host knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetricId(pub u32);

/// What a metric does with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows, by increments.
    Counter,
    /// Holds the last value that was recorded.
    Gauge,
}

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Normal, and rare.
    Info,
    /// Something is not as it should be; the filter goes on.
    Warn,
    /// What was asked for is refused.
    Error,
}

/// The host did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the proxy answered with status {0}")]
pub struct Refused(pub u32);

/// The proxy. Calls act on the context (plugin or request) whose callback is running.
pub trait Host {
    /// Bytes that the host handed over.
    type Bytes: Deref<Target = [u8]>;

    /// The plugin's configuration; only while it is being configured.
    fn plugin_configuration(&mut self) -> Result<Self::Bytes, Refused>;
    /// Envoy's `node.id`, where the bootstrap has one.
    fn node_id(&mut self) -> Option<String>;
    /// Asks for a tick of the running plugin each `millis`.
    fn set_tick(&mut self, millis: u32);
    /// Writes one line to the proxy's log.
    fn log(&mut self, level: LogLevel, line: &str);

    /// The monotonic clock.
    fn mono(&mut self) -> Mono;
    /// The wall clock, in milliseconds since 1970.
    fn wall_millis(&mut self) -> u64;
    /// 16 bytes that nobody can guess.
    fn random(&mut self) -> Result<[u8; 16], Refused>;

    /// Makes a metric known, or finds the one of that name.
    fn define_metric(&mut self, kind: MetricKind, name: &str) -> Result<MetricId, Refused>;
    /// Adds to a counter; `by` is above 0.
    fn increment(&mut self, metric: MetricId, by: u64);
    /// Sets a gauge.
    fn record(&mut self, metric: MetricId, value: u64);

    /// All request headers in the form that [`crate::pairs`] reads.
    fn request_headers(&mut self) -> Result<Self::Bytes, Refused>;
    /// Deletes every value of a request header.
    fn remove_request_header(&mut self, name: &[u8]);
    /// Adds a request header that the request does not have.
    fn add_request_header(&mut self, name: &str, value: &str);
    /// The first URI that the verified certificate of the connection's peer names it by.
    fn peer_uri_san(&mut self) -> Option<String>;
    /// Answers the request here; it goes no further.
    fn respond(&mut self, status: u32, details: &str, headers: &[(&str, &str)], body: &str);
    /// The answer's `:status`; only when the request is logged. `None` if there was no answer.
    fn logged_status(&mut self) -> Option<u16>;
    /// The first value of a header of the answer; only when the request is logged. The name's case does not
    /// count.
    fn logged_header(&mut self, name: &str) -> Option<Self::Bytes>;
    /// How Envoy says the answer came about (`response.code_details`), once the request is over.
    fn answer_details(&mut self) -> Option<String>;
    /// The answer's status at any other time; slower.
    fn response_status(&mut self) -> Option<u16>;

    /// Opens a gRPC stream from the running plugin. An unreachable peer shows later, as a close.
    fn open_stream(&mut self, cluster: &str, service: &str, method: &str) -> Result<StreamToken, Refused>;
    /// Sends one message.
    fn send(&mut self, stream: StreamToken, message: &[u8]) -> Result<(), Refused>;
    /// Ends this side of a stream that the peer has closed, so that the host forgets it.
    fn close(&mut self, stream: StreamToken);
    /// Resets a stream at once, whatever the peer does.
    fn cancel(&mut self, stream: StreamToken);
    /// The message that just arrived; only in its callback.
    fn received(&mut self) -> Result<Self::Bytes, Refused>;
}
