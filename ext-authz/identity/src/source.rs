//! One stream of updates from the Workload API.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use hyper_util::rt::TokioIo;
use spiffe::transport::{GrpcStatusCode, TransportError};
use spiffe::{WorkloadApiClient, WorkloadApiError, X509Context};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::{Endpoint, Uri};

use crate::refusal::Refusal;
use crate::watch::{Event, StreamId};

/// A connection and its first update take at most so long. The standard asks for the first update at once (Workload API,
/// section 4.3).
pub const FIRST_UPDATE_WITHIN: Duration = Duration::from_secs(10);
/// The most characters that are kept of a foreign text.
const MAX_DETAIL: usize = 160;

/// Why a stream could not be opened, or ended. Each text is one line that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// There is no such file.
    #[error("spiffe.workload_api: there is no socket {path}; start the SPIRE agent, or correct the path")]
    Missing {
        /// The socket.
        path: String,
    },
    /// There is a file, and it is no socket.
    #[error("spiffe.workload_api: {path} is not a socket; give the path of the SPIRE agent's socket")]
    NotASocket {
        /// The file.
        path: String,
    },
    /// Our user may not connect.
    #[error(
        "spiffe.workload_api: {path} may not be used by this user; give it write permission on the socket"
    )]
    Forbidden {
        /// The socket.
        path: String,
    },
    /// Nobody listens.
    #[error("spiffe.workload_api: nobody listens on {path}; start the SPIRE agent")]
    Refused {
        /// The socket.
        path: String,
    },
    /// The operating system says no otherwise.
    #[error("spiffe.workload_api: {path} cannot be connected to: {reason}; look at the SPIRE agent's log")]
    Unreachable {
        /// The socket.
        path: String,
        /// The system's reason.
        reason: String,
    },
    /// It listens and says nothing.
    #[error(
        "spiffe.workload_api: {path} gave nothing within {within:?}; look at the SPIRE agent's log, or restart it"
    )]
    Silent {
        /// The socket.
        path: String,
        /// How long was waited.
        within: Duration,
    },
    /// The agent knows no identity for this process.
    #[error(
        "spiffe.workload_api: the agent has no identity for this process; create a registration entry whose selectors fit it ({reason})"
    )]
    NoIdentity {
        /// The agent's own words.
        reason: String,
    },
    /// It ended the stream without an error.
    #[error("spiffe.workload_api: {path} ended the stream; that is normal while the agent restarts")]
    Ended {
        /// The socket.
        path: String,
    },
    /// The connection broke, or what came is not gRPC.
    #[error(
        "spiffe.workload_api: the connection to {path} broke, or it is not the Workload API: {reason}; look at what listens there"
    )]
    Broken {
        /// The socket.
        path: String,
        /// What the transport says.
        reason: String,
    },
    /// It speaks gRPC and refused otherwise.
    #[error(
        "spiffe.workload_api: {path} refused: {reason}; look at the SPIRE agent's log, and at what listens there"
    )]
    Status {
        /// The socket.
        path: String,
        /// The status.
        reason: String,
    },
}

impl SourceError {
    /// Every label, for metrics.
    pub const LABELS: [&'static str; 10] = [
        "missing",
        "not_a_socket",
        "forbidden",
        "refused",
        "unreachable",
        "silent",
        "no_identity",
        "ended",
        "broken",
        "status",
    ];

    /// Stable, one of [`SourceError::LABELS`].
    pub fn label(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::NotASocket { .. } => "not_a_socket",
            Self::Forbidden { .. } => "forbidden",
            Self::Refused { .. } => "refused",
            Self::Unreachable { .. } => "unreachable",
            Self::Silent { .. } => "silent",
            Self::NoIdentity { .. } => "no_identity",
            Self::Ended { .. } => "ended",
            Self::Broken { .. } => "broken",
            Self::Status { .. } => "status",
        }
    }

    fn of_connect(path: &Path, error: &io::Error) -> Self {
        let shown = path.display().to_string();
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing { path: shown },
            io::ErrorKind::PermissionDenied => Self::Forbidden { path: shown },
            // A file that is no socket refuses as well.
            io::ErrorKind::ConnectionRefused => match std::fs::metadata(path) {
                Ok(file) if !file.file_type().is_socket() => Self::NotASocket { path: shown },
                _ => Self::Refused { path: shown },
            },
            _ => Self::Unreachable {
                path: shown,
                reason: one_line(error),
            },
        }
    }
}

/// What ends a stream, or what is wrong with one of its updates.
enum Fault {
    Update(Refusal),
    Stream(SourceError),
    /// The update is too large, and the stream ends with it.
    Both(Refusal, SourceError),
}

impl Fault {
    fn of(path: &Path, error: WorkloadApiError) -> Self {
        let shown = path.display().to_string();
        let reason = one_line(&error);
        match error {
            WorkloadApiError::MissingRequiredField { field } => Self::Update(Refusal::Missing(field)),
            WorkloadApiError::InvalidResponseField { .. }
            | WorkloadApiError::X509Svid(_)
            | WorkloadApiError::X509Bundle(_)
            | WorkloadApiError::SpiffeId(_) => Self::Update(Refusal::Malformed(reason)),
            WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_) => {
                Self::Stream(SourceError::NoIdentity { reason })
            }
            WorkloadApiError::Transport(TransportError::Status(status)) => match status.code() {
                GrpcStatusCode::OutOfRange => Self::Both(
                    Refusal::MessageTooLarge,
                    SourceError::Status { path: shown, reason },
                ),
                GrpcStatusCode::Unavailable
                | GrpcStatusCode::Unknown
                | GrpcStatusCode::Internal
                | GrpcStatusCode::Cancelled => Self::Stream(SourceError::Broken { path: shown, reason }),
                _ => Self::Stream(SourceError::Status { path: shown, reason }),
            },
            _ => Self::Stream(SourceError::Broken { path: shown, reason }),
        }
    }
}

/// Follows one stream: hands on each update, and then why the stream ended.
pub(crate) async fn follow(path: &Path, id: StreamId, give: &mpsc::Sender<Event>) {
    let hand_on = |update| give.send(Event::Update(id, update));
    let ended = updates(path, hand_on).await;
    // Nobody takes it only where the service ends.
    let _ = give.send(Event::Failed(id, ended)).await;
}

async fn updates<F, Fut>(path: &Path, hand_on: F) -> SourceError
where
    F: Fn(Result<X509Context, Refusal>) -> Fut,
    Fut: Future,
{
    let silent = || SourceError::Silent {
        path: path.display().to_string(),
        within: FIRST_UPDATE_WITHIN,
    };
    let first = async {
        let mut stream = open(path).await?;
        Ok((stream.next().await, stream))
    };
    let (mut next, mut stream) = match timeout(FIRST_UPDATE_WITHIN, first).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return error,
        Err(_) => return silent(),
    };
    loop {
        match next {
            Some(Ok(update)) => {
                hand_on(Ok(update)).await;
            }
            Some(Err(error)) => match Fault::of(path, error) {
                Fault::Update(refusal) => {
                    hand_on(Err(refusal)).await;
                }
                Fault::Stream(error) => return error,
                Fault::Both(refusal, error) => {
                    hand_on(Err(refusal)).await;
                    return error;
                }
            },
            None => {
                return SourceError::Ended {
                    path: path.display().to_string(),
                };
            }
        }
        next = stream.next().await;
    }
}

type Updates = futures::stream::BoxStream<'static, Result<X509Context, WorkloadApiError>>;

async fn open(path: &Path) -> Result<Updates, SourceError> {
    // Connected here and not by the channel: so the system's own reason is known, and nothing reconnects behind our back.
    let socket = UnixStream::connect(path)
        .await
        .map_err(|error| SourceError::of_connect(path, &error))?;
    let broken = |error: &dyn fmt::Display| SourceError::Broken {
        path: path.display().to_string(),
        reason: one_line(error),
    };
    let mut socket = Some(TokioIo::new(socket));
    // No HTTP/2 pings: gRPC servers in Go end connections that ping more often than each five minutes.
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let once = socket.take().ok_or(io::ErrorKind::NotConnected);
            async { Ok::<_, io::Error>(once?) }
        }))
        .await
        .map_err(|error| broken(&error))?;
    let endpoint = spiffe::transport::Endpoint::Unix(path.to_owned());
    let client = WorkloadApiClient::new_with_channel(endpoint, channel);
    match client.stream_x509_contexts().await {
        Ok(stream) => Ok(stream.boxed()),
        Err(error) => Err(match Fault::of(path, error) {
            Fault::Stream(error) | Fault::Both(_, error) => error,
            Fault::Update(refusal) => broken(&refusal),
        }),
    }
}

/// Foreign text as one bounded line.
fn one_line(text: impl fmt::Display) -> String {
    let text = text.to_string();
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let line = words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    line.chars().take(MAX_DETAIL).collect()
}
