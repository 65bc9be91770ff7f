//! Whether Check has recorded a request: metadata claims it, the log knows it.

use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::ProcessingRequest;
use knhk_receipts::{Log, Payload, Via};
use tokio::task::spawn_blocking;

use super::wire;

/// The ID of the receipt that Check has given this request, if its entry in the log is a decision asked for through
/// `ext_authz`. That is one read of one entry, mostly of the newest; where it fails, Check has recorded nothing: a decision
/// with two receipts is better than one with none.
///
/// Whether the entry is of this request and not of another that Check has seen is for Envoy to keep apart.
pub(super) async fn receipt(log: &Log, message: &ProcessingRequest) -> Option<String> {
    let (receipt, index) = wire::claimed_of_check(message, log.region())?;
    if index >= log.size() {
        return None;
    }
    let (receipt, log) = (receipt.to_owned(), log.clone());
    let reading = spawn_blocking(move || log.payload(index));
    match reading.await {
        Ok(Ok(Payload::Decision(decision))) if decision.via == Via::ExtAuthz => Some(receipt),
        _ => None,
    }
}
