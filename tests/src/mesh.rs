//! What most tests stand on: two versions of an application, a proxy before them, and the service.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cli::Cli;
use crate::envoy::{Envoy, EnvoyConfig, EnvoyOptions};
use crate::load::{Ask, Client, LoadOptions, USER};
use crate::rollout::{Rollouts, Status};
use crate::service::Service;
use crate::upstream::Upstream;
use crate::{Error, wait};

/// The host of the application.
pub const HOST: &str = "shop.test";
/// The rollout that tests apply.
pub const NAME: &str = "shop";

/// The proxy with the filter alone.
pub const FILTER: &str = "envoy/envoy.yaml";
/// The proxy with `ext_authz` alone.
pub const EXT_AUTHZ: &str = "envoy/envoy-ext-authz.yaml";
/// The proxy with `ext_proc` alone.
pub const EXT_PROC: &str = "envoy/envoy-ext-proc.yaml";
/// The proxy with both the filter and `ext_authz`.
pub const BOTH: &str = "envoy/envoy-both.yaml";

/// The proxy with the filter alone, over mutual TLS with certificates of SPIRE.
pub const SPIFFE: &str = "envoy/envoy-spiffe.yaml";

/// Versions v1 (stable) and v2 (canary), and the service.
#[derive(Debug)]
pub struct Mesh {
    /// Version v1.
    pub stable: Upstream,
    /// Version v2.
    pub canary: Upstream,
    /// The service.
    pub service: Service,
}

impl Mesh {
    /// Starts everything but a proxy.
    pub async fn start() -> Result<Self, Error> {
        let mut mesh = Self::without_service().await?;
        mesh.service.up().await?;
        Ok(mesh)
    }

    /// The same, but the service is not up: its address refuses connections.
    pub async fn without_service() -> Result<Self, Error> {
        Ok(Self {
            stable: Upstream::start("v1").await?,
            canary: Upstream::start("v2").await?,
            service: Service::stopped()?,
        })
    }

    /// A configuration of the repository, pointed at this mesh. Where the service has identities, it speaks mutual TLS.
    pub fn config(&self, file: &str) -> Result<EnvoyConfig, Error> {
        let mut config = EnvoyConfig::load(file)?;
        if let Some(agent) = self.service.agent() {
            config.take_clusters(&EnvoyConfig::load(SPIFFE)?, &["knhk", "spire_agent"])?;
            config.set_agent(agent)?;
        }
        config.set_cluster("knhk", self.service.addresses().grpc)?;
        config.set_cluster("stable", self.stable.address())?;
        config.set_cluster("canary", self.canary.address())?;
        Ok(config)
    }

    /// A proxy with a configuration of the repository.
    pub async fn proxy(&self, file: &str) -> Result<Envoy, Error> {
        Envoy::start(self.config(file)?, EnvoyOptions::default()).await
    }

    /// A proxy with a configuration of the repository that has `ext_authz` or `ext_proc`, patient with a busy disk.
    pub async fn patient_proxy(&self, file: &str) -> Result<Envoy, Error> {
        let mut config = self.config(file)?;
        config.make_patient()?;
        Envoy::start(config, EnvoyOptions::default()).await
    }

    /// The command line.
    pub fn cli(&self) -> Result<Cli, Error> {
        self.service.cli()
    }

    /// The service's view of rollouts.
    pub fn rollouts(&self) -> Rollouts {
        self.service.rollouts()
    }

    /// Applies a rollout through the command line.
    pub async fn apply(&self, spec: &RolloutFile) -> Result<(), Error> {
        let file = spec.write(&self.service)?;
        self.cli()?
            .json(&[
                "rollout".as_ref(),
                "apply".as_ref(),
                "-f".as_ref(),
                file.as_os_str(),
            ])
            .await?;
        Ok(())
    }

    /// Waits until every worker of the proxy decides by the newest snapshot of the service.
    pub async fn until_current(&self, envoy: &Envoy, name: &str) -> Result<Status, Error> {
        let status = self.rollouts().status(name).await?;
        until_decided_by(envoy, &status.policy).await?;
        Ok(status)
    }

    /// 1,000 requests a second through this proxy.
    pub fn load(envoy: &Envoy) -> LoadOptions {
        LoadOptions::to(envoy.address(), HOST)
    }
}

/// Waits until every worker of the proxy decides by this snapshot (`EPOCH.N`), as its traffic says.
pub async fn until_decided_by(envoy: &Envoy, policy: &str) -> Result<(), Error> {
    wait::until(
        &format!("every worker to decide by {policy}"),
        wait::SOON,
        || async {
            // So many connections that each worker has some: the kernel spreads them.
            let mut clients: Vec<Client> = (0..16).map(|_| Client::new(envoy.address())).collect();
            for client in &mut clients {
                let answer = client.ask(&user("probe")).await?;
                if answer.seen("policy") != Some(policy) {
                    return Err(format!("one decides by {:?}", answer.seen("policy")));
                }
            }
            Ok(())
        },
    )
    .await
}

/// A request of this user to the application.
pub fn user(key: &str) -> Ask {
    Ask::get(HOST, "/").header(USER, key)
}

/// A `rollout.yaml` for a test. It starts as v1 to v2 for everything of [`HOST`], by user, judged by success alone.
#[derive(Debug, Clone)]
pub struct RolloutFile(Value);

impl RolloutFile {
    /// With these steps: percent, and how long each lasts at least.
    pub fn new(steps: &[(f64, &str)]) -> Self {
        let steps: Vec<Value> = steps
            .iter()
            .map(|(weight, pause)| json!({ "setWeight": weight, "pause": pause }))
            .collect();
        Self(json!({
            "apiVersion": "knhk.dev/v1",
            "kind": "Rollout",
            "metadata": { "name": NAME },
            "spec": {
                "version": "v2",
                "stable": "v1",
                "match": { "hosts": [HOST], "pathPrefix": "/" },
                "key": [ { "header": USER } ],
                "stages": [ { "name": "canary", "steps": steps } ],
                "analysis": {
                    "minRequests": 50,
                    "slos": [ { "metric": "request-success-rate", "min": 99 } ]
                }
            }
        }))
    }

    /// One step that stays for longer than any test.
    pub fn at(weight: f64) -> Self {
        Self::new(&[(weight, "1h")])
    }

    /// Another name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.0["metadata"]["name"] = json!(name);
        self
    }

    /// With a field of `spec` set.
    #[must_use]
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.0["spec"][field] = value;
        self
    }

    /// With a field of `spec.analysis` set.
    #[must_use]
    pub fn analysed(mut self, field: &str, value: Value) -> Self {
        self.0["spec"]["analysis"][field] = value;
        self
    }

    /// Its text. JSON is YAML.
    pub fn text(&self) -> String {
        self.0.to_string()
    }

    /// Writes it beside the service's data.
    pub fn write(&self, service: &Service) -> Result<PathBuf, Error> {
        let name = self.0["metadata"]["name"].as_str().unwrap_or_default();
        let file = service.directory().join(format!("{name}.yaml"));
        std::fs::write(&file, self.text()).map_err(Error::io(format!("{}", file.display())))?;
        Ok(file)
    }
}
