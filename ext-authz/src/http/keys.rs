//! The keys that verify this region's log, and their rotation.

use axum::Json;
use axum::extract::State;

use super::{Api, ApiError, Caller};
use crate::api::{KeyInfo, KeySet};

pub(super) async fn list(State(api): State<Api>) -> Json<KeySet> {
    let acknowledges_with = api.app.regions.as_ref().map(|regions| regions.ack_info());
    Json(KeySet {
        acknowledges_with,
        ..api.app.keys.set()
    })
}

/// Answers with the key that signs from now on.
pub(super) async fn rotate(State(api): State<Api>, caller: Caller) -> Result<Json<KeyInfo>, ApiError> {
    Ok(Json(api.app.keys.rotate(caller.0).await?))
}
