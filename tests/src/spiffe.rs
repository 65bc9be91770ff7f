//! A trust domain with everyone that KNHK has to do with: the service, a proxy, and operators of each role.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::Credentials;
use crate::mesh::HOST;
use crate::peer::NotRun;
use crate::peer::spire::{Entry, Minted, Spire, Workload};
use crate::service::Identities;
use crate::{Error, artifacts};

/// The trust domain of `envoy/envoy-spiffe.yaml`.
pub const TRUST_DOMAIN: &str = "example.org";
/// The service's path, as `envoy/envoy-spiffe.yaml` expects it.
pub const SERVICE: &str = "/knhk";
/// The proxy's path, as `envoy/envoy-spiffe.yaml` asks for it.
pub const PROXY: &str = "/demo-proxy";
/// Who may apply and steer rollouts.
pub const DEPLOYER: &str = "/ops/deployer";
/// Who may rotate keys.
pub const KEY_ADMIN: &str = "/ops/key-admin";
/// Who may read receipts and the log.
pub const AUDITOR: &str = "/ops/auditor";

/// Lives of SVIDs that no test outlasts.
pub const HOUR: Duration = Duration::from_secs(3600);

/// SPIRE with the entries of the service and of a proxy.
#[derive(Debug)]
pub struct Cast {
    /// The trust domain's server and agent.
    pub spire: Spire,
    deployer: Minted,
}

impl Cast {
    /// Starts SPIRE, with entries for the service and the proxy whose SVIDs live for so long.
    pub async fn start(ttl: Duration) -> Result<Self, NotRun> {
        let cast = Self::without_entries().await?;
        cast.register(ttl).map_err(NotRun::because("SPIRE"))?;
        Ok(cast)
    }

    /// Starts SPIRE: it knows nobody yet.
    pub async fn without_entries() -> Result<Self, NotRun> {
        let spire = Spire::start(TRUST_DOMAIN).await?;
        let deployer = spire.mint(DEPLOYER, HOUR).map_err(NotRun::because("SPIRE"))?;
        Ok(Self { spire, deployer })
    }

    /// Creates the entries of the service and the proxy.
    pub fn register(&self, ttl: Duration) -> Result<(), Error> {
        for (path, program) in [(SERVICE, artifacts::knhk()?), (PROXY, artifacts::envoy()?)] {
            self.enroll(path, &program, ttl)?;
        }
        Ok(())
    }

    /// Creates an entry of a program.
    pub fn enroll(&self, path: &str, program: &Path, ttl: Duration) -> Result<(), Error> {
        // The kernel knows a process by the path without links.
        let program = program
            .canonicalize()
            .map_err(Error::io(program.display().to_string()))?;
        self.spire
            .create_entry(&Entry {
                path,
                of: Workload::Program(&program),
                ttl,
                federates_with: &[],
            })
            .map(drop)
    }

    /// Somebody with an SVID in files.
    pub fn somebody(&self, path: &str) -> Result<Credentials, Error> {
        self.spire.mint(path, HOUR).map(Credentials::Files)
    }

    /// What the service is to know: its Workload API, everyone's roles, and the deployer as its operator.
    pub fn identities(&self) -> Identities {
        let filters = json!([{ "id": self.spire.id(PROXY), "hosts": [HOST] }]);
        self.identities_with(&filters)
    }

    /// The same for services that replicate to each other: whoever runs `knhk` is a peer.
    pub fn identities_of_regions(&self) -> Identities {
        self.identities_with_peers(&[SERVICE])
    }

    /// The same with other peers.
    pub fn identities_with_peers(&self, peers: &[&str]) -> Identities {
        let mut identities = self.identities();
        let peers: Vec<_> = peers.iter().map(|path| self.spire.id(path)).collect();
        identities.allow["peers"] = json!(peers);
        identities
    }

    /// The same with other proxies.
    pub fn identities_with(&self, filters: &Value) -> Identities {
        Identities {
            workload_api: self.spire.endpoint(),
            allow: json!({
                "filters": filters,
                "deployers": [self.spire.id(DEPLOYER)],
                "key_admins": [self.spire.id(KEY_ADMIN)],
                "auditors": [self.spire.id(AUDITOR)],
            }),
            operator: Credentials::Files(self.deployer.clone()),
        }
    }
}
