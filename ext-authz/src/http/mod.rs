//! The HTTP API: reads for everybody who can reach it and writes for operators; over mutual TLS each by their roles.

mod access;
mod error;
mod flags;
mod front;
mod identity;
mod keys;
mod log;
mod probe;
mod receipts;
mod regions;
mod rollouts;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state, map_response};
use axum::routing::{get, post, put};
use knhk_flags::limits::MAX_FLAGS_BYTES;
use tokio::sync::Semaphore;

pub(crate) use access::{Access, Caller, PeerIdentity};
use access::{Guard, Need};
pub(crate) use error::ApiError;
pub(crate) use front::{Early, Front};
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
    pub(crate) readers: Arc<Semaphore>,
}

/// Every route of the contract that this version has.
pub(crate) fn api_routes(app: &Arc<App>, access: &Access) -> Router {
    let api = Api {
        app: Arc::clone(app),
        readers: Arc::new(Semaphore::new(MAX_READERS)),
    };
    let guarded = |need, routes: Router<Api>| {
        let guard = Guard {
            refusals: app.refusals.clone(),
            access: access.clone(),
            need,
        };
        routes.route_layer(from_fn_with_state(guard, access::guard))
    };
    let routes = guarded(Need::Look, look())
        .merge(guarded(Need::Deploy, deploy()))
        .merge(guarded(Need::RotateKeys, rotate_keys()))
        .merge(guarded(Need::ReadReceipts, read_receipts()))
        .merge(guarded(Need::ReadLog, read_log()))
        .merge(guarded(Need::Look, regions::look()))
        .merge(guarded(Need::ClearRegion, regions::clear_routes()))
        .merge(guarded(Need::Replicate, regions::told()))
        .layer(DefaultBodyLimit::max(MAX_SPEC_BYTES))
        .with_state(api)
        .merge(peers(app, access))
        .layer(from_fn_with_state(Arc::clone(&app.metrics), error::count))
        .merge(probe_routes(Arc::clone(app)))
        .fallback(error::no_such_route)
        .layer(map_response(error::in_our_form));
    not_for_web_pages(routes, access)
}

/// What other regions ask, where there are any.
fn peers(app: &App, access: &Access) -> Router {
    match &app.regions {
        Some(regions) => regions::peer_routes(regions, &app.refusals, access),
        None => Router::new(),
    }
}

fn not_for_web_pages(routes: Router, access: &Access) -> Router {
    match access {
        Access::Operators | Access::LocalReaders => routes,
        Access::Workloads(_) => routes.layer(from_fn(access::not_from_a_web_page)),
        Access::Readers | Access::AnybodyWrites => routes
            .layer(from_fn(access::not_by_another_name))
            .layer(from_fn(access::not_from_a_web_page)),
    }
}

fn look() -> Router<Api> {
    Router::new()
        .route("/v1/flags", get(flags::show))
        .route("/v1/rollouts", get(rollouts::list))
        .route("/v1/rollouts/{name}", get(rollouts::status))
        .route("/v1/rollouts/{name}/history", get(rollouts::history))
        .route("/v1/keys", get(keys::list))
        .route("/v1/identity", get(identity::show))
}

fn deploy() -> Router<Api> {
    Router::new()
        .route(
            "/v1/flags",
            put(flags::apply).layer(DefaultBodyLimit::max(MAX_FLAGS_BYTES)),
        )
        .route(
            "/v1/rollouts/{name}",
            put(rollouts::apply).delete(rollouts::delete),
        )
        .route("/v1/rollouts/{name}/promote", post(rollouts::promote))
        .route("/v1/rollouts/{name}/approve", post(rollouts::approve))
        .route("/v1/rollouts/{name}/pause", post(rollouts::pause))
        .route("/v1/rollouts/{name}/resume", post(rollouts::resume))
        .route("/v1/rollouts/{name}/abort", post(rollouts::abort))
        .route("/v1/rollouts/{name}/retry", post(rollouts::retry))
        .route("/v1/rollouts/{name}/adopt", post(rollouts::adopt))
}

fn rotate_keys() -> Router<Api> {
    Router::new().route("/v1/keys/rotate", post(keys::rotate))
}

fn read_receipts() -> Router<Api> {
    Router::new()
        .route("/v1/receipts", get(receipts::list))
        .route("/v1/receipts/{region}/{index}", get(receipts::get))
        .route("/v1/policies/{id}", get(receipts::policy))
}

fn read_log() -> Router<Api> {
    Router::new()
        .route("/v1/log/{region}/checkpoint", get(log::checkpoint))
        .route("/v1/log/{region}/consistency/{from}", get(log::consistency))
        .route("/v1/log/{region}/checkpoints/{n}", get(log::kept_checkpoints))
        .route("/v1/log/{region}/tile/{*path}", get(log::tile))
        .route("/v1/log/{region}/payloads/{*path}", get(log::payloads))
}

#[cfg(test)]
mod tests;
