//! What proxies talk to: the Gate stream of the filters, and Envoy's `ext_authz`.

mod check;
mod downlink;
mod gate;
mod route_options;

pub(crate) use check::CheckService;
pub(crate) use gate::GateService;
