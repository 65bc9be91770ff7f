//! What a service stands on before it opens its log: clock, key service, identity, and the other regions.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use knhk_identity::{Env as IdentityEnv, Identity, Keeper, Roles};
use knhk_kms::Kms;
use knhk_receipts::storage::{LockGuard, Storage};
use knhk_receipts::{DiskStorage, Signer, take_lock};
use knhk_telemetry::ServiceMetrics;

use super::StartError;
use super::clock::Clock;
use super::identity::Watching;
use super::keys::{self, KmsSigner, Metered};
use super::new_log::set_aside;
use super::refusals::{Refusals, Waiting as WaitingRefusals};
use super::regions::{Halting, Regions, RegionsParts};
use crate::config::Config;

/// The data directory is ours from here on.
pub(crate) struct Ground {
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<ServiceMetrics>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(super) lock: LockGuard,
    pub(super) kms: Arc<dyn Kms>,
    pub(crate) refusals: Refusals,
    pub(super) waiting_refusals: WaitingRefusals,
    /// None without `spiffe`.
    pub(crate) identity: Option<Identity>,
    pub(crate) roles: Option<Arc<Roles>>,
    /// None without `regions`.
    pub(crate) regions: Option<Arc<Regions>>,
}

/// How the log is gone on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// As it is in `data`, or with its first entry.
    WhereItWas,
    /// Whatever log is in `data` is set aside.
    ANewLog,
}

impl Ground {
    /// Takes the data directory. The keeper, which there is with `spiffe`, is to be run.
    pub(crate) async fn lay(config: &Config, begin: Begin) -> Result<(Self, Option<Keeper>), StartError> {
        create_private(&config.data)?;
        let storage = DiskStorage::open(&config.data).map_err(|source| StartError::DataDirectory {
            path: config.data.clone(),
            source,
        })?;
        let kms = keys::open(&config.kms.provider, &config.data)?;
        Self::on(config, begin, Arc::new(storage), kms).await
    }

    /// As [`Ground::lay`], in a directory that is there, with the log on `storage`, signed by `kms`.
    pub(super) async fn on(
        config: &Config,
        begin: Begin,
        storage: Arc<dyn Storage>,
        kms: Arc<dyn Kms>,
    ) -> Result<(Self, Option<Keeper>), StartError> {
        let lock = take_lock(storage.as_ref())?;
        if begin == Begin::ANewLog {
            let (data, storage) = (config.data.clone(), Arc::clone(&storage));
            let region = config.region.clone();
            let setting = tokio::task::spawn_blocking(move || set_aside(&data, storage, &region));
            setting
                .await
                .map_err(|error| StartError::Broken(error.to_string()))??;
        }
        let clock = Clock::start();
        let metrics = Arc::new(ServiceMetrics::new(env!("CARGO_PKG_VERSION")));
        let kms: Arc<dyn Kms> = Arc::new(Metered::new(kms, clock, Arc::clone(&metrics)));
        let (refusals, waiting_refusals) = Refusals::new(Arc::clone(&metrics));
        let watching = Watching {
            metrics: Arc::clone(&metrics),
            refusals: refusals.clone(),
        };
        let (identity, keeper) = config
            .spiffe
            .as_ref()
            .map(|spiffe| Identity::new(spiffe, IdentityEnv::system(), Arc::new(watching)))
            .unzip();
        let roles = config
            .spiffe
            .as_ref()
            .map(|spiffe| Arc::new(spiffe.roles.clone()));
        let mut ground = Self {
            clock,
            metrics,
            storage,
            lock,
            kms,
            refusals,
            waiting_refusals,
            identity,
            roles,
            regions: None,
        };
        ground.regions = ground.open_regions(config).await?.map(Arc::new);
        Ok((ground, keeper))
    }

    async fn open_regions(&self, config: &Config) -> Result<Option<Regions>, StartError> {
        let Some(section) = &config.regions else {
            return Ok(None);
        };
        let parts = RegionsParts {
            region: config.region.clone(),
            config: section.clone(),
            clock: self.clock,
            metrics: Arc::clone(&self.metrics),
            identity: self.identity.clone().zip(self.roles.clone()),
        };
        let (data, storage) = (config.data.clone(), Arc::clone(&self.storage));
        let opening = tokio::task::spawn_blocking(move || Regions::open(parts, &data, storage.as_ref()));
        let opened = opening
            .await
            .map_err(|error| StartError::Broken(error.to_string()))?;
        Ok(Some(opened?))
    }

    /// Signs the log, for as long as the regions do not forbid it.
    pub(crate) fn signer(&self, config: &Config) -> Arc<dyn Signer> {
        let signer = KmsSigner::new(Arc::clone(&self.kms), config.kms.provider.as_str());
        match &self.regions {
            Some(regions) => Arc::new(Halting::new(signer, regions.halt().clone())),
            None => Arc::new(signer),
        }
    }
}

fn create_private(data: &Path) -> Result<(), StartError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)
        .map_err(|source| StartError::DataDirectory {
            path: data.to_owned(),
            source,
        })
}
