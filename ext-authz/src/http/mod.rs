//! The HTTP API: reads for everybody who can reach it, writes for operators.

mod access;
mod error;
mod keys;
mod log;
mod probe;
mod receipts;
mod rollouts;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::routing::{get, post};
use tokio::sync::Semaphore;

pub(crate) use access::{Access, Caller, PeerIdentity};
pub(crate) use error::ApiError;
pub(crate) use probe::probe_routes;

use crate::app::App;

/// Largest rollout that is read, in bytes.
pub(crate) const MAX_SPEC_BYTES: usize = knhk_promotion::spec::MAX_SPEC_BYTES;

/// Requests that read the log's disk at once, on one listener.
const MAX_READERS: usize = 8;

/// What a handler needs.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) app: Arc<App>,
    pub(crate) access: Access,
    pub(crate) readers: Arc<Semaphore>,
}

/// Every route of the contract that this version has.
pub(crate) fn api_routes(app: Arc<App>, access: Access) -> Router {
    let probes = probe_routes(Arc::clone(&app));
    let api = Router::new()
        .route("/v1/rollouts", get(rollouts::list))
        .route(
            "/v1/rollouts/{name}",
            get(rollouts::status)
                .put(rollouts::apply)
                .delete(rollouts::delete),
        )
        .route("/v1/rollouts/{name}/history", get(rollouts::history))
        .route("/v1/rollouts/{name}/promote", post(rollouts::promote))
        .route("/v1/rollouts/{name}/pause", post(rollouts::pause))
        .route("/v1/rollouts/{name}/resume", post(rollouts::resume))
        .route("/v1/rollouts/{name}/abort", post(rollouts::abort))
        .route("/v1/rollouts/{name}/retry", post(rollouts::retry))
        .route("/v1/receipts", get(receipts::list))
        .route("/v1/receipts/{region}/{index}", get(receipts::get))
        .route("/v1/policies/{id}", get(receipts::policy))
        .route("/v1/log/{region}/checkpoint", get(log::checkpoint))
        .route("/v1/log/{region}/consistency/{from}", get(log::consistency))
        .route("/v1/log/{region}/checkpoints/{n}", get(log::kept_checkpoints))
        .route("/v1/log/{region}/tile/{*path}", get(log::tile))
        .route("/v1/log/{region}/payloads/{*path}", get(log::payloads))
        .route("/v1/keys", get(keys::list))
        .route("/v1/keys/rotate", post(keys::rotate))
        .layer(DefaultBodyLimit::max(MAX_SPEC_BYTES))
        .layer(from_fn_with_state(Arc::clone(&app), error::count))
        .with_state(Api {
            app,
            access,
            readers: Arc::new(Semaphore::new(MAX_READERS)),
        });
    let routes = api
        .merge(probes)
        .fallback(error::no_such_route)
        .layer(map_response(error::in_our_form));
    match access {
        Access::Operators => routes,
        Access::Readers | Access::AnybodyWrites => routes.layer(from_fn(access::not_from_a_web_page)),
    }
}

#[cfg(test)]
mod tests;
