//! What proxies talk to: the Gate stream of the filters, Envoy's `ext_authz` and `ext_proc`.

mod check;
mod decided;
mod downlink;
mod gate;
mod headers;
mod process;
mod recording;
mod route_options;
mod seldom;

pub(crate) use check::CheckService;
pub(crate) use gate::GateService;
pub(crate) use process::{MAX_MESSAGE_BYTES, ProcessService};
pub(crate) use recording::Recording;
