//! The service's parts, put together once at the start.

pub(crate) mod clock;
pub(crate) mod evidence;
mod ground;
pub(crate) mod history;
mod identity;
pub(crate) mod journal;
pub(crate) mod keys;
pub(crate) mod ledger;
mod new_log;
pub(crate) mod proxies;
pub(crate) mod recorder;
pub(crate) mod refusals;
pub(crate) mod regions;
pub(crate) mod reports;
pub(crate) mod rollouts;
pub(crate) mod saver;
pub(crate) mod snapshots;
pub(crate) mod workers;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use knhk_decision::{PolicyDoc, PolicyId};
use knhk_identity::{Identity, Readiness as IdentityReadiness};
use knhk_receipts::storage::{LockGuard, Storage};
use knhk_receipts::{ActionReceipt, Log, LogError, LogOptions, Payload, PolicyReceipt, Signer};
use knhk_regions::announce::ack_key_action;
use knhk_telemetry::ServiceMetrics;
use thiserror::Error;

use crate::api::{Readiness, RolloutStatus};
use crate::config::Config;
use clock::{Clock, wall_ms};
use evidence::Evidence;
pub(crate) use ground::{Begin, Ground};
use history::Archive;
use journal::Journal;
use keys::{Keys, ProviderError, RotationParts, Rotator, Trouble};
use ledger::Ledger;
use new_log::NewLogError;
use proxies::Proxies;
use recorder::Recorder;
use refusals::{Clerk, Refusals};
use regions::sending::Sending;
use regions::start::StartRefused;
use regions::{Regions, RegionsError};
use rollouts::{CommandError, Driver, DriverParts, Rollouts};
use saver::{SaveError, Saver};
use snapshots::{Snapshot, Snapshots};
use workers::WorkerTable;

/// Everything that the listeners share.
pub(crate) struct App {
    pub(crate) region: String,
    pub(crate) clock: Clock,
    /// The data directory.
    pub(crate) data: PathBuf,
    pub(crate) log: Log,
    pub(crate) journal: Journal,
    pub(crate) keys: Keys,
    /// None without `spiffe`.
    pub(crate) identity: Option<Identity>,
    pub(crate) proxies: Proxies,
    pub(crate) refusals: Refusals,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) evidence: Arc<Evidence>,
    pub(crate) workers: WorkerTable,
    pub(crate) recorder: Recorder,
    pub(crate) rollouts: Rollouts,
    /// None without `regions`.
    pub(crate) regions: Option<Arc<Regions>>,
    pub(crate) metrics: Arc<ServiceMetrics>,
    draining: AtomicBool,
}

/// A service that can answer, and its tasks, which are not running yet.
pub(crate) struct Opened {
    pub(crate) app: Arc<App>,
    pub(crate) driver: Driver,
    pub(crate) saver: Saver,
    pub(crate) rotator: Rotator,
    pub(crate) clerk: Clerk,
    /// None without `regions`.
    pub(crate) sending: Option<Sending>,
}

/// Why the service did not start.
#[derive(Debug, Error)]
pub(crate) enum StartError {
    #[error("{path}: cannot be created: {source}; check `data` and the directory's owner")]
    DataDirectory { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Key(#[from] ProviderError),
    #[error(
        "kms.provider: the log in `data` is signed by the provider `{log}`, not by `{configured}`, and a log stays with its own; set it back, or give another `data` for a new log"
    )]
    OtherProvider { log: String, configured: &'static str },
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Ledger(#[from] SaveError),
    #[error("the policy in the log does not compile: {0}; this version cannot continue this log")]
    Policy(#[from] knhk_decision::PolicyError),
    #[error("a recorded rollout cannot go on: {0}")]
    Rollout(#[from] CommandError),
    #[error(transparent)]
    Regions(#[from] RegionsError),
    #[error(transparent)]
    NewLog(#[from] NewLogError),
    #[error(transparent)]
    Refused(#[from] StartRefused),
    #[error("{0}")]
    Broken(String),
}

impl App {
    /// Opens `data`, reads what it holds, and goes on from there.
    #[cfg(test)]
    pub(crate) async fn open(config: &Config) -> Result<Opened, StartError> {
        let (ground, _) = Ground::lay(config, Begin::WhereItWas).await?;
        Self::open_on(config, ground).await
    }

    /// The same in a directory that is ours, where other regions agree that its log is to be opened.
    pub(crate) async fn open_on(config: &Config, ground: Ground) -> Result<Opened, StartError> {
        let signer = ground.signer(config);
        let Ground {
            clock,
            metrics,
            storage,
            lock,
            kms,
            refusals,
            waiting_refusals,
            identity,
            roles,
            regions,
        } = ground;
        let provider = config.kms.provider.as_str();
        let log = open_log(config, lock, Arc::clone(&storage), signer).await?;
        let signs = log.active_key().provider;
        if signs != provider {
            return Err(StartError::OtherProvider {
                log: signs,
                configured: provider,
            });
        }
        let (ledger, archive, snapshots) = recover(config, &log).await?;
        let journal = Journal::new(log.clone(), clock, Arc::clone(&metrics));
        let sending = match &regions {
            Some(regions) => {
                announce(regions, &ledger, &journal).await?;
                Some(Sending::open(regions, &log, &storage).await?)
            }
            None => None,
        };
        let evidence = Arc::new(Evidence::default());
        let recorder = Recorder::new(
            config.region.clone(),
            journal.clone(),
            Arc::clone(&metrics),
            Arc::clone(&snapshots),
            ledger.watermarks().collect::<Vec<_>>(),
        );
        let parts = DriverParts {
            region: config.region.clone(),
            clock,
            journal: journal.clone(),
            snapshots: Arc::clone(&snapshots),
            evidence: Arc::clone(&evidence),
            metrics: Arc::clone(&metrics),
            regions: regions.clone(),
        };
        let (driver, rollouts) = Driver::new(parts, ledger.recorded())?;
        let (rotator, keys) = Rotator::new(RotationParts {
            region: config.region.clone(),
            kms,
            provider,
            log: log.clone(),
            journal: journal.clone(),
            clock,
            metrics: Arc::clone(&metrics),
            rotate_every: config.kms.rotate_every,
        });
        let clerk = Clerk::new(config.region.clone(), clock, journal.clone(), waiting_refusals);
        let saver = Saver::new(ledger, archive, log.clone(), rollouts.book(), config.data.clone());
        let app = Self {
            region: config.region.clone(),
            clock,
            data: config.data.clone(),
            log,
            journal,
            keys,
            identity,
            proxies: Proxies::new(roles, refusals.clone()),
            refusals,
            snapshots,
            evidence,
            workers: WorkerTable::default(),
            recorder,
            rollouts,
            regions,
            metrics,
            draining: AtomicBool::new(false),
        };
        Ok(Opened {
            app: Arc::new(app),
            driver,
            saver,
            rotator,
            clerk,
            sending,
        })
    }

    /// Where a rollout stands.
    pub(crate) fn rollout_status(&self, name: &str) -> Result<RolloutStatus, CommandError> {
        let rollout = self.rollouts.get(name)?;
        let evidence = self.evidence.totals(&rollout, self.clock.mono());
        let newest = self.snapshots.newest().id;
        Ok(RolloutStatus {
            summary: rollouts::summary(&rollout),
            explanation: rollout.explain(&evidence, self.clock.now()),
            workers: self.workers.summary(newest, self.clock.mono()),
            policy: newest.to_string(),
        })
    }

    /// An operator has cleared a region's alarm, which the log is to say.
    pub(crate) async fn region_cleared(&self, region: &str, by: String) -> Result<(), LogError> {
        let receipt = ActionReceipt {
            region: self.region.clone(),
            time_unix_ms: wall_ms(),
            who: by,
            what: "region.cleared".to_owned(),
            target: region.to_owned(),
            before: None,
            after: None,
            reason: "an operator has looked at two histories of its log; the evidence stays".to_owned(),
        };
        self.journal.append(vec![Payload::Action(receipt)]).await?;
        Ok(())
    }

    /// Ready: can decide, can record, and has an identity where it is to have one.
    pub(crate) fn readiness(&self) -> Readiness {
        let log = self.log.status();
        let mut detail = Vec::new();
        if self.draining.load(Ordering::Relaxed) {
            detail.push("draining: the service is stopping".to_owned());
        }
        if let Some(error) = &log.last_write_error {
            detail.push(format!("the log cannot be written: {error}"));
        }
        if self.journal.hangs() {
            detail.push("the log hangs: what is to be recorded waits for the disk".to_owned());
        }
        let identity = self.identity.as_ref().map(|identity| identity.status().readiness);
        if let Some(IdentityReadiness::Fails(why)) = &identity {
            detail.push(why.clone());
        }
        let ready = detail.is_empty();
        if let Some(IdentityReadiness::Warns(why)) = &identity {
            detail.push(format!("warning: {why}"));
        }
        if let Some(error) = &log.last_flush_error {
            detail.push(format!(
                "{} receipts wait for a signature ({}); the service's log says why",
                log.unsigned,
                why_unsigned(error)
            ));
        }
        detail.extend(self.keys.trouble().as_ref().map(Trouble::in_short));
        detail.extend(self.regions.as_ref().and_then(|regions| regions.trouble()));
        Readiness { ready, detail }
    }

    /// From now on not ready; what is under way is finished.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// `/metrics`, with the gauges that are read off the parts.
    pub(crate) fn expose_metrics(&self) -> String {
        let workers = self
            .workers
            .summary(self.snapshots.newest().id, self.clock.mono());
        self.metrics
            .workers(workers.newest, workers.active.saturating_sub(workers.newest));
        let log = self.log.status();
        self.metrics.log_sizes(log.size, log.signed_size);
        self.metrics.expose()
    }
}

/// A label only: what a provider says may name accounts, and anybody may probe.
fn why_unsigned(error: &LogError) -> &'static str {
    match error {
        LogError::Sign(error) => error.label(),
        error => error.label(),
    }
}

async fn open_log(
    config: &Config,
    lock: LockGuard,
    storage: Arc<dyn Storage>,
    signer: Arc<dyn Signer>,
) -> Result<Log, StartError> {
    let options = LogOptions {
        flush: config.flush,
        flush_entries: config.flush_entries,
        ..LogOptions::new(&config.region)
    };
    let env = knhk_receipts::Env::system();
    Ok(Log::open_locked(lock, storage, options, signer, env).await?)
}

/// The log says which key its region acknowledges others with, before anybody is to believe it.
async fn announce(regions: &Regions, ledger: &Ledger, journal: &Journal) -> Result<(), LogError> {
    if ledger.ack_key.as_ref() == Some(&regions.ack_key().to_string()) {
        return Ok(());
    }
    let announced = ack_key_action(journal.region(), regions.ack_key(), wall_ms());
    journal.append(vec![Payload::Action(announced)]).await?;
    Ok(())
}

/// The ledger at the log's end, and the snapshots that it names. A new log gets its first, empty policy.
async fn recover(config: &Config, log: &Log) -> Result<(Ledger, Archive, Arc<Snapshots>), StartError> {
    let mut ledger = Ledger::load(&config.data, log.size());
    let mut archive = Archive::of(&config.data);
    saver::catch_up(&mut ledger, &mut archive, log)?;
    if ledger.policies.is_empty() {
        let now = wall_ms();
        let first = Snapshot::parse(PolicyDoc::new(PolicyId { epoch: now, n: 1 }, Vec::new()).to_bytes())?;
        let receipt = PolicyReceipt {
            region: config.region.clone(),
            time_unix_ms: now,
            id: first.id,
            sha256: first.sha256,
            bytes: first.bytes.to_vec(),
        };
        log.append(vec![Payload::Policy(receipt)]).await?;
        saver::catch_up(&mut ledger, &mut archive, log)?;
    }
    let mut kept = Vec::with_capacity(ledger.policies.len());
    for (_, document) in &ledger.policies {
        kept.push(Arc::new(Snapshot::parse(document.clone())?));
    }
    let newest = kept.pop().expect("a ledger with a policy has a last one");
    Ok((ledger, archive, Arc::new(Snapshots::new(newest, kept))))
}
