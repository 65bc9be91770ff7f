//! `knhk serve`: start, listen, drain.

mod listeners;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use knhk_identity::Keeper;
use knhk_telemetry::logging::LoggingError;
use rustix::fs::Mode;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::journal::look_after;
use crate::app::regions::Regions;
use crate::app::regions::sending::Sending;
use crate::app::regions::start::Waiting;
use crate::app::{App, Begin, Ground, Opened, StartError};
use crate::config::{Config, ConfigError, Provider};
use listeners::Listeners;

/// After SIGTERM, requests under way have so long to finish.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// Then the log and the shortcut have so long to be written. A disk that hangs does not keep the service from ending:
/// what was acknowledged is durable, and the next start does the rest.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// No file or socket of the service is for others than its user: not for a moment.
const OTHERS_MAY_NOTHING: u32 = 0o077;

/// Why the service stopped.
#[derive(Debug, Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("{field}: cannot listen on {address}: {source}; {}", remedy(source))]
    Listen {
        field: &'static str,
        address: String,
        source: io::Error,
    },
    #[error("{path}: {source}; check the directory's owner and the disk")]
    Data { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Logging(#[from] LoggingError),
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
    #[error("{0} ended by itself: {1}; start the service again, and report this with its log")]
    Stopped(&'static str, String),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program has it: is a `knhk serve` running?",
        io::ErrorKind::PermissionDenied => "ports below 1024 and other users' directories need more rights",
        io::ErrorKind::InvalidInput => "a socket's path has at most 107 bytes: give a shorter `data`",
        _ => "is it an address of this machine?",
    }
}

/// Runs the service until SIGTERM or SIGINT. With `new_log` under that region's name, with a log that begins.
pub(crate) async fn serve(config: &Path, log: &str, new_log: Option<&str>) -> Result<(), ServeError> {
    let (config, begin) = match new_log {
        Some(region) => (Config::load(config)?.of_region(region)?, Begin::ANewLog),
        None => (Config::load(config)?, Begin::WhereItWas),
    };
    knhk_telemetry::logging::init(log)?;
    rustix::process::umask(Mode::from_raw_mode(OTHERS_MAY_NOTHING));
    let mut signals = Signals::listen()?;
    let (ground, keeper) = Ground::lay(&config, begin).await?;
    let listeners = Listeners::bind(&config).await?;
    warn_of_development_settings(&config);

    let (draining, stop) = (CancellationToken::new(), CancellationToken::new());
    // Whoever asks other regions shows who it is.
    let identity = spawn(never_fails(keep(keeper, stop.clone())));
    let waiting = Waiting::default();
    let doors = listeners.open(&config, &ground, &waiting, &draining)?;
    let opened = tokio::select! {
        () = signals.received() => return Ok(()),
        opened = start(&config, ground, &waiting) => opened?,
    };
    let Opened {
        app,
        driver,
        saver,
        rotator,
        clerk,
        sending,
    } = opened;
    // Without the saver a start takes longer, and that is all: it may end by itself, and says so.
    let saver = tokio::spawn(saver.run(stop.clone()));
    let mut inner = vec![
        (
            "the rollouts' driver",
            spawn(never_fails(driver.run(stop.clone()))),
        ),
        (
            "the key's rotation",
            spawn(never_fails(rotator.run(stop.clone()))),
        ),
        ("the log", spawn(look_after(app.journal.clone(), stop.clone()))),
        (
            "the receipts of refusals",
            spawn(never_fails(clerk.run(stop.clone()))),
        ),
        ("the identity", identity),
    ];
    if let (Some(regions), Some(sending)) = (&app.regions, sending) {
        inner.extend(between_regions(&app, regions, sending, &stop));
    }
    let inner = Tasks::new(inner);
    let servers = doors.serve(&config, &app, &draining)?;
    tracing::info!(
        region = config.region,
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );

    let ended = tokio::select! {
        () = signals.received() => Ok(()),
        ended = servers.ended() => ended,
        ended = inner.ended() => ended,
    };
    tracing::info!("draining");
    app.drain();
    draining.cancel();
    servers.finished("connections", DRAIN_WITHIN).await;
    stop.cancel();
    inner.finished("the rollouts and the log", CLOSE_WITHIN).await;
    let closed = async {
        let _ = saver.await;
        app.log.clone().close().await
    };
    match tokio::time::timeout(CLOSE_WITHIN, closed).await {
        Ok(Ok(())) => tracing::info!("stopped"),
        Ok(Err(error)) => {
            tracing::error!(%error, "the last receipts are durable but not signed; the next start signs them");
        }
        Err(_) => {
            tracing::error!("the disk did not answer within {CLOSE_WITHIN:?}; the next start does the rest");
        }
    }
    ended
}

/// Opens the log, once other regions agree that it is to be opened.
async fn start(config: &Config, ground: Ground, waiting: &Waiting) -> Result<Opened, StartError> {
    if let Some(regions) = &ground.regions {
        let signer = ground.signer(config);
        regions.prepare(&ground.storage, signer.as_ref(), waiting).await?;
    }
    App::open_on(config, ground).await
}

/// What goes on between regions, for as long as the service runs.
fn between_regions(
    app: &Arc<App>,
    regions: &Arc<Regions>,
    sending: Sending,
    stop: &CancellationToken,
) -> Vec<(&'static str, Task)> {
    let hurry = {
        let (regions, log, stop) = (Arc::clone(regions), app.log.clone(), stop.clone());
        async move { regions.hurry(log, stop).await }
    };
    let mut tasks = vec![
        (
            "sending to the peers",
            spawn(never_fails(sending.run(stop.clone()))),
        ),
        ("the flushes that are hurried", spawn(never_fails(hurry))),
    ];
    for peer in regions.peer_names() {
        let relay = {
            let (regions, peer, stop) = (Arc::clone(regions), peer.clone(), stop.clone());
            async move { regions.relay_to(&peer, stop).await }
        };
        tasks.push(("passing reports on", spawn(never_fails(relay))));
        let meet = Arc::clone(regions).meet(peer, Arc::clone(app), stop.clone());
        tasks.push(("telling a peer about rollouts", spawn(never_fails(meet))));
    }
    tasks
}

/// Without `spiffe` there is no identity to keep.
async fn keep(keeper: Option<Keeper>, stop: CancellationToken) {
    match keeper {
        Some(keeper) => keeper.run(stop).await,
        None => stop.cancelled_owned().await,
    }
}

async fn never_fails(task: impl Future<Output = ()>) -> Result<(), Infallible> {
    task.await;
    Ok(())
}

fn warn_of_development_settings(config: &Config) {
    if config.kms.provider == Provider::Local {
        tracing::warn!(
            "kms.provider is `local`: the signing key is a file, for development; use a KMS in production"
        );
    }
    if config.insecure_dev {
        tracing::warn!(
            "insecure_dev is true: anybody on this machine may write over {}",
            config.listen.http
        );
    }
}

struct Signals {
    term: tokio::signal::unix::Signal,
    int: tokio::signal::unix::Signal,
}

impl Signals {
    /// From here on, a signal starts a drain instead of ending the process.
    fn listen() -> Result<Self, ServeError> {
        let on = |kind| signal(kind).map_err(ServeError::Signals);
        Ok(Self {
            term: on(SignalKind::terminate())?,
            int: on(SignalKind::interrupt())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

type Task = JoinHandle<Result<(), String>>;

fn spawn<E: std::fmt::Display + 'static>(task: impl Future<Output = Result<(), E>> + Send + 'static) -> Task {
    tokio::spawn(async move { task.await.map_err(|error| error.to_string()) })
}

/// Tasks that run as long as the service does, each with its name for people.
struct Tasks(tokio::sync::Mutex<Vec<(&'static str, Task)>>);

impl Tasks {
    fn new(tasks: Vec<(&'static str, Task)>) -> Self {
        Self(tokio::sync::Mutex::new(tasks))
    }

    /// Resolves when a task ends by itself, also by a panic. None should, and the service is not whole without it.
    async fn ended(&self) -> Result<(), ServeError> {
        let mut tasks = self.0.lock().await;
        let handles = tasks
            .iter_mut()
            .map(|(name, handle)| Box::pin(async move { (*name, handle.await) }));
        let ((name, ended), _, _) = futures::future::select_all(handles).await;
        let reason = match ended {
            Ok(Ok(())) => "it was closed".to_owned(),
            Ok(Err(reason)) => reason,
            Err(panicked) => panicked.to_string(),
        };
        Err(ServeError::Stopped(name, reason))
    }

    /// Waits until all have ended, at most `limit`; says which kind of thing was still under way.
    async fn finished(self, what: &str, limit: Duration) {
        let running = self
            .0
            .into_inner()
            .into_iter()
            .filter(|(_, handle)| !handle.is_finished());
        let all = futures::future::join_all(running.map(|(_, handle)| handle));
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("{what}: still busy after {limit:?}; cut off");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_ends_the_service_and_is_named() {
        let waits = spawn(never_fails(std::future::pending()));
        let panics = spawn(never_fails(async { panic!("a bug") }));
        let tasks = Tasks::new(vec![("the one", waits), ("the other", panics)]);
        let message = tasks.ended().await.expect_err("ended").to_string();
        assert!(
            message.starts_with("the other ended by itself: ") && message.contains("a bug"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn what_does_not_end_is_cut_off_at_the_limit() {
        let tasks = Tasks::new(vec![("the one", spawn(never_fails(std::future::pending())))]);
        tasks.finished("it", Duration::ZERO).await;
    }
}
