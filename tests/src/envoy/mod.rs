//! A real Envoy.

mod config;
mod stats;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use config::{EXT_PROC, EnvoyConfig};
use serde_json::Value;
pub use stats::Stats;

use crate::ports::Port;
use crate::process::{Launch, Process};
use crate::{Error, artifacts, wait};

/// A running Envoy with its configuration's listeners on ports of its own.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: SocketAddr,
    listeners: Vec<SocketAddr>,
    client: reqwest::Client,
    _ports: Vec<Port>,
    directory: tempfile::TempDir,
}

/// A certificate that it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is.
    pub spiffe_id: String,
    /// Its number, in hexadecimal digits.
    pub serial: String,
}

impl Certificate {
    fn read(shown: &Value) -> Option<Self> {
        let spiffe_id = shown["subject_alt_names"][0]["uri"].as_str()?;
        spiffe_id.strip_prefix("spiffe://")?.split_once('/')?;
        Some(Self {
            spiffe_id: spiffe_id.to_owned(),
            serial: shown["serial_number"].as_str()?.to_owned(),
        })
    }
}

/// How to run it.
#[derive(Debug, Clone, Copy)]
pub struct EnvoyOptions {
    /// Worker threads.
    pub concurrency: u32,
    /// The processor to pin it to, if any.
    pub cpu: Option<u32>,
}

impl Default for EnvoyOptions {
    /// Two workers, so that tests see what several workers do; not pinned.
    fn default() -> Self {
        Self {
            concurrency: 2,
            cpu: None,
        }
    }
}

impl Envoy {
    /// Starts it on free ports and waits until it serves.
    pub async fn start(mut config: EnvoyConfig, options: EnvoyOptions) -> Result<Self, Error> {
        let mut ports = vec![Port::reserve()?];
        config.set_admin(ports[0].address())?;
        for index in 0..config.listeners()?.len() {
            let port = Port::reserve()?;
            config.set_listener(index, port.address())?;
            ports.push(port);
        }
        Self::run(config, options, ports).await
    }

    /// Starts it on the ports that its configuration names, and waits until it serves.
    pub async fn start_as_configured(config: EnvoyConfig, options: EnvoyOptions) -> Result<Self, Error> {
        Self::run(config, options, Vec::new()).await
    }

    async fn run(config: EnvoyConfig, options: EnvoyOptions, ports: Vec<Port>) -> Result<Self, Error> {
        let directory = tempfile::Builder::new()
            .prefix("knhk-envoy-")
            .tempdir()
            .map_err(Error::io("a temporary directory"))?;
        let (admin, listeners) = (config.admin()?, config.listeners()?);
        let file = directory.path().join("envoy.json");
        config.write(&file)?;
        let process = Launch::new("Envoy", directory.path().join("log"), artifacts::envoy()?)
            .args([
                "--disable-hot-restart",
                "--log-level",
                "warning",
                "--component-log-level",
                "wasm:info",
                "--concurrency",
                &options.concurrency.to_string(),
            ])
            .arg_path("-c", &file)
            .on_cpu(options.cpu)
            .start()?;
        let mut envoy = Self {
            process,
            admin,
            listeners,
            client: reqwest::Client::new(),
            _ports: ports,
            directory,
        };
        envoy.ready().await?;
        Ok(envoy)
    }

    async fn ready(&mut self) -> Result<(), Error> {
        let url = format!("http://{}/ready", self.admin);
        let (client, process) = (&self.client, &mut self.process);
        wait::until("Envoy to be ready", wait::SOON, || {
            let ended = process.check();
            let request = client.get(&url).send();
            async move {
                if let Err(error) = ended {
                    return Ok(Err(error));
                }
                match request.await {
                    Ok(answer) if answer.status().is_success() => Ok(Ok(())),
                    Ok(answer) => Err(answer.text().await.unwrap_or_default()),
                    Err(error) => Err(error.to_string()),
                }
            }
        })
        .await?
    }

    /// Where its first listener listens.
    pub fn address(&self) -> SocketAddr {
        self.listeners[0]
    }

    /// Where each listener listens, in the configuration's order.
    pub fn listeners(&self) -> &[SocketAddr] {
        &self.listeners
    }

    /// Its process, for memory, processor time and its log.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its directory, for files that its configuration watches.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// All counters and gauges now.
    pub async fn stats(&self) -> Result<Stats, Error> {
        Stats::parse(&self.admin_get("/stats?format=text").await?)
    }

    /// Waits until the stats are as `wanted` says; `what` is for the message.
    pub async fn stats_until(&self, what: &str, wanted: impl Fn(&Stats) -> bool) -> Result<Stats, Error> {
        let wanted = &wanted;
        wait::until(what, wait::SOON, || async move {
            let stats = self.stats().await.map_err(|error| error.to_string())?;
            if wanted(&stats) {
                Ok(stats)
            } else {
                Err(stats.knhk())
            }
        })
        .await
    }

    /// The certificates that it holds for its own connections: those with a SPIFFE ID of a workload, and so no authorities.
    pub async fn certificates(&self) -> Result<Vec<Certificate>, Error> {
        let page = self.admin_get("/certs").await?;
        let page: Value = serde_json::from_str(&page).map_err(|error| Error::Contract {
            what: "Envoy's /certs".to_owned(),
            reason: error.to_string(),
        })?;
        let sets = page["certificates"].as_array().into_iter().flatten();
        let chains = sets.flat_map(|set| set["cert_chain"].as_array().into_iter().flatten());
        Ok(chains.filter_map(Certificate::read).collect())
    }

    /// GET of an admin page.
    pub async fn admin_get(&self, path: &str) -> Result<String, Error> {
        let url = format!("http://{}{path}", self.admin);
        let http = |error: reqwest::Error| Error::Http {
            what: url.clone(),
            reason: error.to_string(),
        };
        self.client
            .get(&url)
            .send()
            .await
            .map_err(http)?
            .error_for_status()
            .map_err(http)?
            .text()
            .await
            .map_err(http)
    }
}

/// Whether Envoy takes this configuration: `envoy --mode validate`, or its own complaint.
pub fn validate(config: &EnvoyConfig) -> Result<(), Error> {
    let directory = tempfile::tempdir().map_err(Error::io("a temporary directory"))?;
    let file: PathBuf = directory.path().join("envoy.json");
    config.write(&file)?;
    let output = std::process::Command::new(artifacts::envoy()?)
        .args(["--mode", "validate", "--log-level", "error", "-c"])
        .arg(&file)
        .output()
        .map_err(Error::io("envoy --mode validate"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Config {
        file: config.name().to_owned(),
        reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
