//! The listeners' door: what is answered while the service starts, and from when it is whole.

use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tower::ServiceExt;

use super::{Access, ApiError, error, not_for_web_pages, regions};
use crate::api::Readiness;
use crate::app::Ground;
use crate::app::regions::start::Waiting;

/// Routes that are exchanged while connections stay. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Front(Arc<RwLock<Router>>);

impl Front {
    pub(crate) fn new(routes: Router) -> Self {
        Self(Arc::new(RwLock::new(routes)))
    }

    /// From now on these answer.
    pub(crate) fn exchange(&self, routes: Router) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = routes;
    }

    /// What a listener serves.
    pub(crate) fn routes(&self) -> Router {
        Router::new().fallback(pass_on).with_state(self.clone())
    }
}

async fn pass_on(State(front): State<Front>, request: Request) -> Response {
    let routes = front.0.read().unwrap_or_else(PoisonError::into_inner).clone();
    match routes.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// What there is before the log is open.
pub(crate) struct Early<'a> {
    pub(crate) ground: &'a Ground,
    pub(crate) waiting: &'a Waiting,
}

impl Early<'_> {
    /// `/healthz`, and `/readyz`, which says what the start waits for.
    pub(crate) fn probe_routes(&self) -> Router {
        Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(not_ready))
            .with_state(self.waiting.clone())
            .fallback(not_yet)
    }

    /// The same, and what other regions ask.
    pub(crate) fn api_routes(&self, access: &Access) -> Router {
        let peers = match &self.ground.regions {
            Some(regions) => regions::peer_routes(regions, &self.ground.refusals, access),
            None => Router::new(),
        };
        let routes = peers
            .merge(self.probe_routes())
            .layer(map_response(error::in_our_form));
        not_for_web_pages(routes, access)
    }
}

async fn not_ready(State(waiting): State<Waiting>) -> Response {
    let readiness = Readiness {
        ready: false,
        detail: vec![waiting.for_what()],
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(readiness)).into_response()
}

async fn not_yet() -> ApiError {
    let message = "the service starts: it asks its peers for its log; see /readyz, and ask again";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "starting", message)
}
