//! Making decisions durable within a route's time, and saying why one could not be.

use std::sync::Arc;
use std::time::Duration;

use knhk_decision::headers::PEER_NOT_ALLOWED;
use knhk_proto::envoy::pb::envoy::r#type::v3::StatusCode;
use tonic::Code;

use super::route_options::{BadOption, Wait};
use super::seldom::Seldom;
use crate::app::App;
use crate::app::proxies::Proxy;
use crate::app::recorder::OwnDecision;

/// Records for Check and Process. What goes wrong with each request is logged now and then, and counted each time.
pub(crate) struct Recording {
    app: Arc<App>,
    not_recorded: Seldom,
    bad_routes: Seldom,
}

impl Recording {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self {
            app,
            not_recorded: Seldom::default(),
            bad_routes: Seldom::default(),
        }
    }

    pub(super) fn app(&self) -> &App {
        &self.app
    }

    /// Waits at most `limit` for a decision that `proxy` asked for to be as durable as the route wants. Returns the receipt's ID. A
    /// decision that is given up may still become durable later.
    pub(super) async fn record(
        &self,
        own: OwnDecision,
        proxy: &Proxy,
        wait: Wait,
        limit: Duration,
    ) -> Result<String, NotRecorded> {
        let via = own.via;
        let started = self.app.clock.mono();
        let mut why = match tokio::time::timeout(limit, self.app.recorder.record_own(own, proxy)).await {
            Ok(Ok(index)) => {
                let left = limit.saturating_sub(self.app.clock.mono().saturating_sub(started));
                match self.held(index, wait, left).await {
                    Ok(()) => return Ok(format!("{}/{index}", self.app.region)),
                    Err(why) => why,
                }
            }
            Ok(Err(error)) => NotRecorded::by(error.label()),
            Err(_) => NotRecorded::by("wait_timeout"),
        };
        if let Some(suppressed) = self.not_recorded.due(self.app.clock.mono()) {
            tracing::warn!(
                failure = why.label,
                detail = why.detail.take(),
                via = via.as_str(),
                suppressed,
                "a decision could not be recorded in time"
            );
        }
        Err(why)
    }

    /// Whether the entry, which is durable here, is held by as many as the route wants.
    async fn held(&self, index: u64, wait: Wait, limit: Duration) -> Result<(), NotRecorded> {
        match (wait, &self.app.regions) {
            (Wait::Local, _) => Ok(()),
            (Wait::Quorum, Some(regions)) => {
                regions
                    .committed(index, limit)
                    .await
                    .map_err(|error| NotRecorded {
                        label: error.label(),
                        detail: Some(error.to_string()),
                    })
            }
            (Wait::Quorum, None) => Err(NotRecorded {
                label: NO_QUORUM,
                detail: Some("a route waits for a quorum, and this service has no `regions`".to_owned()),
            }),
        }
    }

    /// Says in the log that a route's options are wrong.
    pub(super) fn route_refused(&self, bad: &BadOption) {
        if let Some(suppressed) = self.bad_routes.due(self.app.clock.mono()) {
            tracing::error!(
                %bad,
                suppressed,
                "a route's options are refused; its requests are answered 503"
            );
        }
    }
}

/// The label where there can be no quorum.
const NO_QUORUM: &str = "no_quorum";

/// Why a decision is not recorded as a route wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NotRecorded {
    /// The label of the log's error, `wait_timeout`, `quorum_not_reached` or `no_quorum`.
    label: &'static str,
    /// For the service's own log, where there is more to say.
    detail: Option<String>,
}

impl NotRecorded {
    /// For a reason that its label says.
    pub(super) fn by(label: &'static str) -> Self {
        Self { label, detail: None }
    }
}

/// An answer of the service in the upstream's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// For HTTP clients: 503 where the service cannot do what the route asks, 403 where a rollout does not admit the caller.
    pub(super) status: StatusCode,
    /// For `x-knhk-reason`.
    pub(super) reason: &'static str,
    /// For gRPC clients.
    pub(super) code: Code,
    /// One line for a person.
    pub(super) body: String,
}

impl Refusal {
    /// The rollout does not admit the caller.
    pub(super) fn peer_not_allowed() -> Self {
        Self {
            status: StatusCode::Forbidden,
            reason: PEER_NOT_ALLOWED,
            code: Code::PermissionDenied,
            body: "this rollout does not admit the caller\n".to_owned(),
        }
    }
}

impl From<NotRecorded> for Refusal {
    fn from(why: NotRecorded) -> Self {
        match why.label {
            "resource_exhausted" => Self {
                status: StatusCode::ServiceUnavailable,
                reason: "resource_exhausted",
                code: Code::ResourceExhausted,
                body: "too many decisions wait for the disk\n".to_owned(),
            },
            "quorum_not_reached" => Self {
                status: StatusCode::ServiceUnavailable,
                reason: "quorum_not_reached",
                code: Code::Unavailable,
                body: "the decision is durable here, and not yet in as many regions as this route asks for\n"
                    .to_owned(),
            },
            _ => Self {
                status: StatusCode::ServiceUnavailable,
                reason: "not_recorded",
                code: Code::Unavailable,
                body: "the decision could not be recorded\n".to_owned(),
            },
        }
    }
}

impl From<&BadOption> for Refusal {
    fn from(bad: &BadOption) -> Self {
        Self {
            status: StatusCode::ServiceUnavailable,
            reason: "bad_route_option",
            code: Code::Unavailable,
            body: format!("{bad}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knhk_decision::headers::PEER_NOT_ALLOWED_STATUS;
    use knhk_receipts::LogError;

    #[test]
    fn who_is_not_admitted_is_told_so_as_by_the_filter() {
        let refusal = Refusal::peer_not_allowed();
        assert_eq!(refusal.status as i32, i32::from(PEER_NOT_ALLOWED_STATUS));
        assert_eq!(
            (refusal.reason, refusal.code),
            (PEER_NOT_ALLOWED, Code::PermissionDenied)
        );
    }

    #[test]
    fn too_much_that_waits_is_told_apart_from_a_log_that_fails() {
        let of = |label| {
            let refusal = Refusal::from(NotRecorded::by(label));
            (refusal.reason, refusal.code)
        };
        assert_eq!(
            of(LogError::Full.label()),
            ("resource_exhausted", Code::ResourceExhausted)
        );
        for label in [LogError::Closed.label(), "disk_full", "io", "wait_timeout"] {
            assert_eq!(of(label), ("not_recorded", Code::Unavailable), "{label}");
        }
    }
}
