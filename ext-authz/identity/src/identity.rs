//! The identity that is held: a handle for those who use it, and the task that keeps it.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::clock::{Env, Now};
use crate::config::{SpiffeConfig, WorkloadApi};
use crate::observe::Observer;
use crate::snapshot::Snapshot;
use crate::source;
use crate::status::Status;
use crate::view::View;
use crate::watch::{Effect, Event, News, StreamId, Watch};

/// Updates that wait for the task that keeps the identity.
const WAITING_UPDATES: usize = 8;

/// The identity that is held. Clones are the same one.
#[derive(Clone)]
pub struct Identity {
    view: watch::Receiver<View>,
    endpoint: Arc<str>,
    env: Env,
    observer: Arc<dyn Observer>,
}

/// Nothing can be served or connected to, because no valid SVID is held.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no valid SVID: {0}")]
pub struct NoSvid(String);

impl Identity {
    /// The handle, and the task that keeps what it shows. Nothing is connected to before the task runs, so that a service
    /// can start while its agent is away.
    pub fn new(config: &SpiffeConfig, env: Env, observer: Arc<dyn Observer>) -> (Self, Keeper) {
        let watch = Watch::new(config.refresh, config.trust_domain.clone());
        let (publish, view) = watch::channel(watch.view().clone());
        let identity = Self {
            view,
            endpoint: format!("unix://{}", config.workload_api.path().display()).into(),
            env: env.clone(),
            observer: Arc::clone(&observer),
        };
        let keeper = Keeper {
            workload_api: config.workload_api.clone(),
            watch,
            publish,
            env,
            observer,
        };
        (identity, keeper)
    }

    /// The snapshot to use at this moment. One that has ended is not given out.
    pub fn current(&self) -> Result<Arc<Snapshot>, NoSvid> {
        let view = self.view.borrow();
        let unix = self.env.clock.now().unix;
        match view.valid(unix) {
            Some(snapshot) => Ok(Arc::clone(snapshot)),
            None => Err(NoSvid(why_none(&view))),
        }
    }

    /// Waits until a valid snapshot is held whose number is above `number`; 0 takes any.
    pub async fn later_than(&self, number: u64) -> Result<Arc<Snapshot>, NoSvid> {
        let mut view = self.view.clone();
        loop {
            let now = self.env.clock.now();
            if let Some(found) = view
                .borrow_and_update()
                .valid(now.unix)
                .filter(|held| held.number() > number)
            {
                return Ok(Arc::clone(found));
            }
            if view.changed().await.is_err() {
                return Err(NoSvid("the task that keeps it has ended".to_owned()));
            }
        }
    }

    /// For people, `/readyz` and `knhk identity show`.
    pub fn status(&self) -> Status {
        Status::of(&self.view.borrow(), &self.endpoint, self.env.clock.now().unix)
    }

    pub(crate) fn now(&self) -> Now {
        self.env.clock.now()
    }

    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    pub(crate) fn observer(&self) -> &dyn Observer {
        &*self.observer
    }

    /// An identity from elsewhere than the Workload API: it shows what is sent to it.
    pub(crate) fn fixed(source: &str, env: Env, observer: Arc<dyn Observer>) -> (Self, watch::Sender<View>) {
        let (publish, view) = watch::channel(View::default());
        let identity = Self {
            view,
            endpoint: source.into(),
            env,
            observer,
        };
        (identity, publish)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// Of several reasons the one that helps most.
pub(crate) fn why_none(view: &View) -> String {
    let held = match &view.snapshot {
        Some(held) => format!("{} has expired", held.id()),
        None if view.withdrawn => "the Workload API took it back".to_owned(),
        None => "none was received yet".to_owned(),
    };
    let cause = match (&view.last_error, &view.last_refusal) {
        (Some(error), _) => error.to_string(),
        (None, Some(refusal)) => refusal.to_string(),
        (None, None) => return held,
    };
    format!("{held}; {cause}")
}

/// Keeps an [`Identity`] up to date for as long as it runs.
#[must_use = "the identity stays empty unless this runs"]
pub struct Keeper {
    workload_api: WorkloadApi,
    watch: Watch,
    publish: watch::Sender<View>,
    env: Env,
    observer: Arc<dyn Observer>,
}

impl Keeper {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut streams = Streams::new(self.workload_api.path().to_owned());
        loop {
            let rest = self.watch.rest(self.env.clock.now());
            let event = tokio::select! {
                () = stop.cancelled() => return,
                Some(event) = streams.events.recv() => event,
                () = tokio::time::sleep(rest) => Event::Tick,
            };
            let (watch, effects) = self.watch.step(event, self.env.clock.now(), (self.env.random)());
            self.watch = watch;
            for effect in effects {
                match effect {
                    Effect::Open(id) => streams.open(id),
                    Effect::Close(id) => streams.close(id),
                    Effect::Publish => {
                        self.publish.send_replace(self.watch.view().clone());
                    }
                    Effect::Tell(news) => tell(&news, self.watch.view(), &*self.observer),
                }
            }
        }
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper")
            .field("workload_api", &self.workload_api)
            .finish_non_exhaustive()
    }
}

/// Logs what happened, and counts it. What only repeats itself is logged once.
fn tell(news: &News, view: &View, observer: &dyn Observer) {
    match news {
        News::Rotated => {
            let Some(held) = &view.snapshot else { return };
            tracing::info!(
                id = %held.id(),
                serial = %held.serial(),
                valid_for_s = held.validity().left(held.received()).as_secs(),
                rotations = view.rotations,
                "SVID received"
            );
            observer.rotated(held);
        }
        News::Refused(refusal) => {
            tracing::warn!(
                reason = refusal.label(),
                "{refusal}; the last good SVID stays in use"
            );
            observer.refused(refusal);
        }
        News::SourceFailed(error, wait) => {
            let retry_ms = wait.as_millis();
            if view.failures <= 1 {
                tracing::warn!(reason = error.label(), retry_ms, "{error}");
            } else {
                tracing::debug!(
                    reason = error.label(),
                    retry_ms,
                    failures = view.failures,
                    "{error}"
                );
            }
            observer.source_failed(error);
        }
        News::Expired => {
            tracing::error!(
                "the SVID has expired: nothing is served or connected to over TLS until there is a new one"
            );
            observer.lost();
        }
        News::Withdrawn => {
            tracing::error!(
                "the Workload API took our identity back: nothing is served or connected to over TLS"
            );
            observer.lost();
        }
    }
}

/// The streams that are open.
struct Streams {
    path: PathBuf,
    tasks: JoinSet<()>,
    open: HashMap<StreamId, AbortHandle>,
    give: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
}

impl Streams {
    fn new(path: PathBuf) -> Self {
        let (give, events) = mpsc::channel(WAITING_UPDATES);
        Self {
            path,
            tasks: JoinSet::new(),
            open: HashMap::new(),
            give,
            events,
        }
    }

    fn open(&mut self, id: StreamId) {
        // What has ended is taken away here, so that it does not gather.
        while self.tasks.try_join_next().is_some() {}
        self.open.retain(|_, task| !task.is_finished());
        let (path, give) = (self.path.clone(), self.give.clone());
        let task = self
            .tasks
            .spawn(async move { source::follow(&path, id, &give).await });
        self.open.insert(id, task);
    }

    fn close(&mut self, id: StreamId) {
        if let Some(task) = self.open.remove(&id) {
            task.abort();
        }
    }
}

/// How much of an SVID's life has to be left for it to be well: less is shown as a warning.
pub(crate) fn is_low(left: Duration, life: Duration) -> bool {
    left < life / 5
}
