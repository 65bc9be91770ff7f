//! Feature flags over HTTP.

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::{Api, ApiError, Caller};
use crate::api::FlagsApplied;

/// The definitions in force, in flagd's schema: what `PUT` takes.
pub(super) async fn show(State(api): State<Api>) -> impl IntoResponse {
    let document = api.app.rollouts.flags().to_bytes();
    ([(CONTENT_TYPE, "application/json")], document)
}

/// The body is all definitions, as JSON or YAML.
pub(super) async fn apply(
    State(api): State<Api>,
    caller: Caller,
    body: String,
) -> Result<Json<FlagsApplied>, ApiError> {
    let document = crate::flags::read(&body).map_err(|error| ApiError::invalid(error.to_string()))?;
    let flags = document.keys().count();
    api.app.rollouts.apply_flags(document, caller.0).await?;
    Ok(Json(FlagsApplied {
        flags,
        policy: api.app.snapshots.newest().id.to_string(),
    }))
}
