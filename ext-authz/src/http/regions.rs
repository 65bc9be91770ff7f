//! What regions ask each other, and what operators ask about them.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use knhk_receipts::DecodeError;
use knhk_regions::wire::{Answer, Batch, MAX_BATCH_BYTES, MAX_MESSAGE_BYTES, Message};

use super::access::{self, Guard, Need};
use super::{Access, Api, ApiError, Caller};
use crate::api::{Cleared, RegionsInfo};
use crate::app::refusals::Refusals;
use crate::app::regions::{PeerRequestError, Regions};

const CBOR: &str = "application/cbor";

/// What a region answers before its own log is open as well: two that start at once wait for each other.
pub(super) fn peer_routes(regions: &Arc<Regions>, refusals: &Refusals, access: &Access) -> Router {
    let guard = Guard {
        refusals: refusals.clone(),
        access: access.clone(),
        need: Need::Replicate,
    };
    Router::new()
        .route("/v1/receipts", post(receive))
        .route("/v1/log/{region}/held", get(held))
        .route("/v1/log/{region}/entries/{from}", get(entries))
        .layer(DefaultBodyLimit::max(MAX_BATCH_BYTES))
        .route_layer(from_fn_with_state(guard, access::guard))
        .with_state(Arc::clone(regions))
}

/// Rollouts of other regions.
pub(super) fn told() -> Router<Api> {
    Router::new()
        .route("/v1/replicate", post(replicate))
        .layer(DefaultBodyLimit::max(MAX_MESSAGE_BYTES))
}

pub(super) fn look() -> Router<Api> {
    Router::new().route("/v1/regions", get(list))
}

pub(super) fn clear_routes() -> Router<Api> {
    Router::new().route("/v1/regions/{region}/clear", post(clear))
}

async fn receive(State(regions): State<Arc<Regions>>, body: Bytes) -> Result<Response, ApiError> {
    let taking = tokio::task::spawn_blocking(move || {
        let batch = Batch::from_bytes(&body).map_err(|error| malformed(&error))?;
        Ok::<_, ApiError>(regions.receive(&batch)?)
    });
    Ok(answered(&taking.await.map_err(broken)??))
}

async fn held(State(regions): State<Arc<Regions>>, Path(region): Path<String>) -> Result<Response, ApiError> {
    Ok(answered(&blocking(move || regions.held(&region)).await?))
}

async fn entries(
    State(regions): State<Arc<Regions>>,
    Path((region, from)): Path<(String, u64)>,
) -> Result<Response, ApiError> {
    let batch = blocking(move || regions.entries(&region, from)).await?;
    Ok(([(header::CONTENT_TYPE, CBOR)], batch).into_response())
}

async fn replicate(State(api): State<Api>, body: Bytes) -> Result<Response, ApiError> {
    let regions = in_regions(&api)?;
    let message = Message::from_bytes(&body).map_err(|error| malformed(&error))?;
    let answer = regions.replicated(message, &api.app).await?;
    Ok(([(header::CONTENT_TYPE, CBOR)], answer.to_bytes()).into_response())
}

async fn list(State(api): State<Api>) -> Result<Json<RegionsInfo>, ApiError> {
    let regions = Arc::clone(in_regions(&api)?);
    Ok(Json(blocking(move || Ok(regions.info())).await?))
}

async fn clear(
    State(api): State<Api>,
    Path(region): Path<String>,
    caller: Caller,
) -> Result<Json<Cleared>, ApiError> {
    let regions = Arc::clone(in_regions(&api)?);
    let was_alarmed = {
        let region = region.clone();
        blocking(move || regions.clear(&region)).await?
    };
    if was_alarmed {
        api.app.region_cleared(&region, caller.0).await?;
    }
    Ok(Json(Cleared { region, was_alarmed }))
}

fn in_regions(api: &Api) -> Result<&Arc<Regions>, ApiError> {
    api.app.regions.as_ref().ok_or_else(|| {
        ApiError::not_found("this service has no other regions; `regions` in its configuration names them")
    })
}

/// A refusal says in its body why, and what is held.
fn answered(answer: &Answer) -> Response {
    let status = match answer.refused {
        Some(_) => StatusCode::CONFLICT,
        None => StatusCode::OK,
    };
    (status, [(header::CONTENT_TYPE, CBOR)], answer.to_bytes()).into_response()
}

fn malformed(error: &DecodeError) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "malformed", error.to_string())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PeerRequestError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(broken)?;
    Ok(done?)
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn broken(error: tokio::task::JoinError) -> ApiError {
    let message = format!("the service failed at a mirror: {error}; see its own log");
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
}
