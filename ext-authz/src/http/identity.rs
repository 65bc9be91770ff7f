//! The service's own identity.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use knhk_identity::Status;

use super::{Api, ApiError};

pub(super) async fn show(State(api): State<Api>) -> Result<Json<Status>, ApiError> {
    match &api.app.identity {
        Some(identity) => Ok(Json(identity.status())),
        None => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "no_identity",
            "the service has no identity: knhk.yaml has no `spiffe`; see docs/spire.md",
        )),
    }
}
