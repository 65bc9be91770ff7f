//! One mapping from errors to the wire.

use std::sync::Arc;

use axum::Json;
use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use knhk_receipts::LogError;

use crate::api::ErrorBody;
use crate::app::App;
use crate::app::rollouts::CommandError;

/// A refusal: status, stable label, one line.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    label: String,
    message: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, label: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            label: label.to_owned(),
            message: message.into(),
        }
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid", message)
    }

    pub(crate) fn read_only() -> Self {
        let message =
            "this listener is read-only: send operators' actions to data/knhk.sock (--server unix:PATH)";
        Self::new(StatusCode::FORBIDDEN, "read_only", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody {
            error: self.label,
            message: self.message,
        };
        (self.status, Json(body)).into_response()
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        let status = match &error {
            CommandError::NoSuchRollout(_) => StatusCode::NOT_FOUND,
            CommandError::Refused { .. } | CommandError::Overtaken(_) => StatusCode::CONFLICT,
            CommandError::Policy(_) | CommandError::TooMany(_) => StatusCode::UNPROCESSABLE_ENTITY,
            CommandError::NotRecorded(_) | CommandError::Behind | CommandError::Stopping => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Self::new(status, error.label(), error.to_string())
    }
}

impl From<LogError> for ApiError {
    fn from(error: LogError) -> Self {
        let status = match &error {
            LogError::NotFound { .. } | LogError::NoTile { .. } => StatusCode::NOT_FOUND,
            LogError::NotCovered { .. } => StatusCode::SERVICE_UNAVAILABLE,
            LogError::Full => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.label(), error.to_string())
    }
}

/// Counts every answer by its route.
pub(super) async fn count(
    State(app): State<Arc<App>>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    let route = route.as_ref().map_or("unknown", MatchedPath::as_str);
    app.metrics.http_request(route, response.status().as_u16());
    response
}

pub(super) async fn no_such_route() -> ApiError {
    ApiError::not_found("no such route; see docs/operations.md for the API")
}

/// Runs what reads the disk, off the threads that serve.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, ApiError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(error) => {
            let message = format!("the service failed while it read the log: {error}; see its own log");
            Err(ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                message,
            ))
        }
    }
}
