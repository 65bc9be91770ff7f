//! One mapping from errors to the wire.

use std::sync::Arc;

use axum::Json;
use axum::body::to_bytes;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use knhk_flags::limits::MAX_FLAGS_BYTES;
use knhk_receipts::LogError;
use knhk_telemetry::ServiceMetrics;

use super::Api;
use crate::api::ErrorBody;
use crate::app::history::HistoryError;
use crate::app::keys::RotateError;
use crate::app::regions::PeerRequestError;
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

    pub(crate) fn identity_needed() -> Self {
        let message = "operators show a SPIFFE ID here: act through listen.http (--server https://HOST:PORT)";
        Self::new(StatusCode::FORBIDDEN, "identity_needed", message)
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
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
            CommandError::Refused { .. }
            | CommandError::Overtaken(_)
            | CommandError::NotHome { .. }
            | CommandError::IsHome { .. }
            | CommandError::OneRegion(_) => StatusCode::CONFLICT,
            CommandError::Policy(_)
            | CommandError::FlagsInUse(_)
            | CommandError::TooMany(_)
            | CommandError::Unreadable { .. }
            | CommandError::FlagsUnreadable { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            CommandError::NotRecorded(_) | CommandError::Behind | CommandError::Stopping => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        Self::new(status, error.label(), error.to_string())
    }
}

impl From<RotateError> for ApiError {
    fn from(error: RotateError) -> Self {
        let status = match &error {
            RotateError::Kms(_) | RotateError::NoKey(_) => StatusCode::BAD_GATEWAY,
            RotateError::UsedBefore { .. } => StatusCode::CONFLICT,
            RotateError::Busy => StatusCode::TOO_MANY_REQUESTS,
            RotateError::Log(_) | RotateError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.label(), error.to_string())
    }
}

impl From<PeerRequestError> for ApiError {
    fn from(error: PeerRequestError) -> Self {
        let (status, label) = match error {
            PeerRequestError::Log(error) => return error.into(),
            PeerRequestError::UnknownRegion(_) => (StatusCode::NOT_FOUND, "unknown_region"),
            PeerRequestError::Nothing(_) => (StatusCode::NOT_FOUND, "not_found"),
        };
        Self::new(status, label, error.to_string())
    }
}

impl From<HistoryError> for ApiError {
    fn from(error: HistoryError) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            error.label(),
            error.to_string(),
        )
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
    State(metrics): State<Arc<ServiceMetrics>>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    let route = route.as_ref().map_or("unknown", MatchedPath::as_str);
    metrics.http_request(route, response.status().as_u16());
    response
}

/// Longest refusal of the framework that is passed on, in bytes.
const MAX_REFUSAL_BYTES: usize = 4 * 1024;

/// Gives a refusal of the framework itself (a body too large, a method that a route does not have) the form of ours.
pub(super) async fn in_our_form(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    // Regions read a refusal in their own format.
    let ours: [&[u8]; 2] = [b"application/json", b"application/cbor"];
    let is_ours = kind.is_some_and(|kind| ours.iter().any(|it| kind.as_bytes().starts_with(it)));
    if is_ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let said = to_bytes(body, MAX_REFUSAL_BYTES).await.unwrap_or_default();
    let said = crate::api::in_one_line(String::from_utf8_lossy(&said).trim());
    let (label, message) = match status {
        StatusCode::PAYLOAD_TOO_LARGE => (
            "too_large",
            format!(
                "the body: {said}; a rollout has at most {} bytes, flag definitions {MAX_FLAGS_BYTES}",
                super::MAX_SPEC_BYTES
            ),
        ),
        StatusCode::METHOD_NOT_ALLOWED => (
            "method_not_allowed",
            "this route does not have this method; see docs/operations.md for the API".to_owned(),
        ),
        _ => ("invalid", said),
    };
    let mut answer = ApiError::new(status, label, message).into_response();
    if let Some(allowed) = parts.headers.get(header::ALLOW) {
        answer.headers_mut().insert(header::ALLOW, allowed.clone());
    }
    answer
}

pub(super) async fn no_such_route() -> ApiError {
    ApiError::not_found("no such route; see docs/operations.md for the API")
}

/// Runs what reads the disk, off the threads that serve. So many readers at once as [`super::MAX_READERS`], the others wait:
/// whoever lists and searches does not take the threads that sign checkpoints.
pub(super) async fn blocking<T, E>(
    api: &Api,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, ApiError>
where
    T: Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    let permit = Arc::clone(&api.readers).acquire_owned().await;
    let work = move || {
        let _permit = permit;
        work()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Into::into),
        Err(error) => {
            let message = format!("the service failed while it read the disk: {error}; see its own log");
            Err(ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                message,
            ))
        }
    }
}
