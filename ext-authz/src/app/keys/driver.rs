//! The task that rotates the key: when an operator says so, when it is due, and when a rotation of its own was cut off.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use knhk_kms::Kms;
use knhk_receipts::{ActionReceipt, KeyState, Log, LogKey, Payload, SigningKey};
use knhk_telemetry::ServiceMetrics;
use knhk_telemetry::attribute::RotationOutcome;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::schedule::{Schedule, due_at};
use super::signer::signing_key;
use super::{Keys, Request, RotateError, Trouble, USED_BEFORE, WAITING_ROTATIONS};
use crate::app::clock::Clock;
use crate::app::journal::Journal;

/// How often the provider is asked for its newest version, and the schedule looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Who rotates when nobody said so.
const ITSELF: &str = "knhk";

/// What the task works with.
pub(crate) struct RotationParts {
    pub(crate) region: String,
    pub(crate) kms: Arc<dyn Kms>,
    /// The provider's name, as the log notes it.
    pub(crate) provider: &'static str,
    pub(crate) log: Log,
    pub(crate) journal: Journal,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<ServiceMetrics>,
    /// A key is rotated when it has signed for so long.
    pub(crate) rotate_every: Option<Duration>,
}

/// The task, not running yet.
pub(crate) struct Rotator {
    parts: RotationParts,
    requests: mpsc::Receiver<Request>,
    schedule: Schedule,
    trouble: Arc<Mutex<Option<Trouble>>>,
}

/// Why a version takes over, for its receipt.
enum Reason {
    Operator,
    Due,
    Begun,
}

impl Reason {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Operator => "an operator asked for it",
            Self::Due => "the key had signed for as long as kms.rotate_every says",
            Self::Begun => "the service had begun it and was cut off",
        }
    }
}

impl Rotator {
    /// The task, and the way to it.
    pub(crate) fn new(parts: RotationParts) -> (Self, Keys) {
        let (sender, requests) = mpsc::channel(WAITING_ROTATIONS);
        let trouble = Arc::default();
        let keys = Keys {
            log: parts.log.clone(),
            rotate_every: parts.rotate_every,
            trouble: Arc::clone(&trouble),
            requests: sender,
        };
        let rotator = Self {
            parts,
            requests,
            schedule: Schedule::default(),
            trouble,
        };
        (rotator, keys)
    }

    /// Runs until it is told to stop. A rotation that is under way then goes on at the next start.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(request) = self.requests.recv() => self.serve(request).await,
                _ = look.tick() => self.look().await,
            }
        }
    }

    /// An operator's rotation. Whoever asked while it was under way gets the same key: nobody wants two at once.
    async fn serve(&mut self, request: Request) {
        let result = self.rotate(request.by, Reason::Operator).await;
        self.note(&result);
        let key = result.as_ref().ok().cloned();
        // An operator who no longer waits finds the receipt.
        let _ = request.done.send(result);
        if let Some(key) = key {
            while let Ok(request) = self.requests.try_recv() {
                let _ = request.done.send(Ok(key.clone()));
            }
        }
    }

    /// What the service does by itself: it goes on with what it began, and rotates when that is due. A newer version that
    /// somebody else made only waits: who may make one at the provider is not who may let it sign this log.
    async fn look(&mut self) {
        let now = self.parts.clock.mono();
        if !self.schedule.may_try(now) {
            return;
        }
        let (begun, due) = (self.parts.kms.rotation_begun(), self.is_due());
        let taken_over = match self.newer_version().await {
            Ok(Some(key)) if begun => self.take_over(key, ITSELF, Reason::Begun).await,
            Ok(_) if due => self.rotate(ITSELF.to_owned(), Reason::Due).await,
            Ok(newer) => return self.note_newer(newer.as_ref()),
            // Nothing was to be rotated, as far as anybody knows. Whether the key still signs is seen elsewhere.
            Err(RotateError::Kms(error)) if !begun && !due => {
                tracing::warn!(%error, label = error.label(), "the provider's newest key version is not known");
                return self.schedule.failed(now);
            }
            Err(error) => Err(error),
        };
        match &taken_over {
            Ok(_) => self.schedule.went_well(),
            Err(_) => self.schedule.failed(now),
        }
        self.note(&taken_over);
    }

    fn is_due(&self) -> bool {
        let since = self.parts.log.active_key().announced_unix_ms;
        self.parts
            .rotate_every
            .is_some_and(|every| self.parts.clock.now().wall_ms >= due_at(since, every))
    }

    /// Lets a newer version that is there take over, else makes one.
    async fn rotate(&self, by: String, reason: Reason) -> Result<LogKey, RotateError> {
        if let Some(key) = self.newer_version().await? {
            return self.take_over(key, &by, reason).await;
        }
        let version = self.parts.kms.rotate_key().await?;
        let public = self.parts.kms.public_key(&version).await?;
        let key = signing_key(&public, self.parts.provider, &version)?;
        self.take_over(key, &by, reason).await
    }

    /// The provider's newest version, where that is not the one that signs. One that was begun is finished first.
    async fn newer_version(&self) -> Result<Option<SigningKey>, RotateError> {
        if self.parts.kms.rotation_begun() {
            self.parts.kms.rotate_key().await?;
        }
        let version = self.parts.kms.current().await?;
        let public = self.parts.kms.public_key(&version).await?;
        let newest = signing_key(&public, self.parts.provider, &version)?;
        let keys = self.parts.log.keys();
        match keys
            .iter()
            .find(|key| key.key == newest.public)
            .map(|key| key.state)
        {
            None | Some(KeyState::Announced) => Ok(Some(newest)),
            Some(KeyState::Active) => Ok(None),
            Some(KeyState::Retired) => Err(RotateError::UsedBefore {
                version: version.to_string(),
            }),
        }
    }

    /// Announces the key under a checkpoint of the one that signs, and lets it sign from then on.
    async fn take_over(&self, key: SigningKey, by: &str, reason: Reason) -> Result<LogKey, RotateError> {
        let before = self.parts.log.active_key();
        let after = self.parts.log.rotate(key, by).await?;
        let shown = |key: &LogKey| {
            json!({ "id": key.key.to_string(), "provider": key.provider, "version": key.version })
                .to_string()
                .into_bytes()
        };
        // The first entry under the new key.
        let receipt = ActionReceipt {
            region: self.parts.region.clone(),
            time_unix_ms: self.parts.clock.now().wall_ms,
            who: by.to_owned(),
            what: "key.rotated".to_owned(),
            target: after.version.clone(),
            before: Some(shown(&before)),
            after: Some(shown(&after)),
            reason: reason.as_str().to_owned(),
        };
        if let Err(error) = self.parts.journal.append(vec![Payload::Action(receipt)]).await {
            tracing::error!(%error, "the key was rotated, as the log says; the action's own receipt could not be written");
        }
        Ok(after)
    }

    /// Says how a rotation ended.
    fn note(&self, result: &Result<LogKey, RotateError>) {
        let trouble = match result {
            Ok(key) => {
                tracing::info!(version = key.version, key = %key.key, "a new key signs the log");
                self.parts.metrics.key_rotated(RotationOutcome::Rotated);
                None
            }
            Err(error) => {
                tracing::error!(%error, label = error.label(), "no rotation");
                self.parts.metrics.key_rotated(RotationOutcome::Failed);
                Some(Trouble::Failed {
                    label: error.label(),
                    text: error.to_string(),
                })
            }
        };
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Says whether a newer version waits. What failed before stays said until a rotation ends well, unless it was the
    /// provider's pointing to an old version, which is seen to be over.
    fn note_newer(&mut self, newer: Option<&SigningKey>) {
        self.schedule.went_well();
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = newer.map(|key| Trouble::Waits {
            version: key.version.clone(),
        });
        let failed = matches!(&*trouble, Some(Trouble::Failed { label, .. }) if *label != USED_BEFORE);
        if failed || *trouble == waits {
            return;
        }
        if let Some(Trouble::Waits { version }) = &waits {
            tracing::warn!(
                version,
                "a newer version of the key waits: `knhk key rotate` lets it sign"
            );
        }
        *trouble = waits;
    }
}
