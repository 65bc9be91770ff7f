//! A real `knhk serve`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::{Cli, Credentials};
use crate::clock::WrongClock;
use crate::ports::Port;
use crate::process::{Launch, Process};
use crate::rollout::Rollouts;
use crate::{Error, artifacts, wait};

/// The region that the harness's services call themselves.
pub const REGION: &str = "test-1";

/// The three addresses of a service.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Gate, Check and health.
    pub grpc: SocketAddr,
    /// The HTTP API.
    pub http: SocketAddr,
    /// Probes and metrics.
    pub probe: SocketAddr,
}

/// Which key service the service uses: what its configuration and its environment say of it.
#[derive(Debug, Clone)]
pub struct KeyService {
    /// The `kms:` block of `knhk.yaml`.
    pub yaml: String,
    /// Variables with the address and the credentials.
    pub environment: Vec<(String, String)>,
}

impl Default for KeyService {
    /// A key in a file.
    fn default() -> Self {
        Self {
            yaml: "kms: { provider: local }\n".to_owned(),
            environment: Vec::new(),
        }
    }
}

/// Mutual TLS: who the service is, who may do what there, and who its own command line is.
#[derive(Debug, Clone)]
pub struct Identities {
    /// The Workload API, `unix://...`.
    pub workload_api: String,
    /// `spiffe.allow` of `knhk.yaml`.
    pub allow: Value,
    /// Whom [`Service::cli`] shows itself as.
    pub operator: Credentials,
}

/// A service with its data and ports, which outlive its process: it can be killed and started again.
#[derive(Debug)]
pub struct Service {
    process: Option<Process>,
    addresses: Addresses,
    flush: Duration,
    kms: KeyService,
    identities: Option<Identities>,
    cpu: Option<u32>,
    /// The file of the network namespace that it runs in, if that is not ours.
    namespace: Option<PathBuf>,
    /// What stands between it and its clock.
    clock: Vec<(String, String)>,
    region: String,
    /// `regions` of `knhk.yaml`.
    regions: Option<Value>,
    client: reqwest::Client,
    /// A client that is bound to its socket.
    socket: reqwest::Client,
    directory: tempfile::TempDir,
    _ports: Vec<Port>,
}

impl Service {
    /// A service that does not run yet: its addresses refuse connections until it is started.
    pub fn stopped() -> Result<Self, Error> {
        Self::stopped_in(&std::env::temp_dir())
    }

    /// The same, with its data below this directory.
    pub fn stopped_in(directory: &Path) -> Result<Self, Error> {
        let ports = [Port::reserve()?, Port::reserve()?, Port::reserve()?];
        let [grpc, http, probe] = [0, 1, 2].map(|index: usize| ports[index].address());
        Self::new(Addresses { grpc, http, probe }, ports.into(), directory)
    }

    /// Starts one on free ports and waits until it can decide and record.
    pub async fn start() -> Result<Self, Error> {
        let mut service = Self::stopped()?;
        service.up().await?;
        Ok(service)
    }

    /// One on these addresses that does not run yet.
    pub fn stopped_at(addresses: Addresses) -> Result<Self, Error> {
        Self::new(addresses, Vec::new(), &std::env::temp_dir())
    }

    fn new(addresses: Addresses, ports: Vec<Port>, base: &Path) -> Result<Self, Error> {
        // A short path: the socket of the command line lies in it, and such paths end at 107 bytes.
        let directory = tempfile::Builder::new()
            .prefix("knhk-")
            .tempdir_in(base)
            .map_err(Error::io(format!("{}", base.display())))?;
        let socket = directory.path().join("data/knhk.sock");
        let socket = reqwest::Client::builder()
            .unix_socket(socket.clone())
            .build()
            .map_err(|error| Error::Http {
                what: socket.display().to_string(),
                reason: error.to_string(),
            })?;
        Ok(Self {
            process: None,
            addresses,
            flush: Duration::from_millis(100),
            kms: KeyService::default(),
            identities: None,
            cpu: None,
            namespace: None,
            clock: Vec::new(),
            region: REGION.to_owned(),
            regions: None,
            client: reqwest::Client::new(),
            socket,
            directory,
            _ports: ports,
        })
    }

    /// From its next start on it signs with this key service.
    pub fn sign_with(&mut self, kms: KeyService) {
        self.kms = kms;
    }

    /// From its next start on its connections are mutual TLS.
    pub fn identify_by(&mut self, identities: Identities) {
        self.identities = Some(identities);
    }

    /// From its next start on it is this region.
    pub fn be_region(&mut self, region: &str) {
        region.clone_into(&mut self.region);
    }

    /// From its next start on it has these peers: the `regions` of `knhk.yaml`.
    pub fn join(&mut self, regions: Value) {
        self.regions = Some(regions);
    }

    /// From its next start on it runs in the network namespace of this file, and so does its command line.
    pub fn live_in(&mut self, namespace: PathBuf) {
        self.namespace = Some(namespace);
    }

    /// From its next start on it goes by this clock.
    pub fn go_by(&mut self, clock: &WrongClock) {
        self.clock = clock.environment();
    }

    /// From its next start on it runs on this processor alone.
    pub fn pin(&mut self, cpu: u32) {
        self.cpu = Some(cpu);
    }

    /// Starts its process on the data and the addresses it has, and waits until it can decide and record.
    pub async fn up(&mut self) -> Result<(), Error> {
        self.launch()?;
        self.ready().await
    }

    /// Starts its process, and waits for nothing.
    pub fn launch(&mut self) -> Result<(), Error> {
        let config = self.directory.path().join("knhk.yaml");
        std::fs::write(&config, self.config()).map_err(Error::io("knhk.yaml"))?;
        let process = Launch::new(
            "knhk serve",
            self.directory.path().join("log"),
            artifacts::knhk()?,
        )
        .args(["serve"])
        .arg_path("--config", &config)
        .env(self.kms.environment.clone())
        .env(self.clock.clone())
        .on_cpu(self.cpu)
        .in_namespace(self.namespace.as_deref())
        .start()?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends its process at once, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Asks its process to end and waits for that.
    pub async fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus, Error> {
        let mut process = self.process.take().ok_or_else(|| Error::Contract {
            what: "knhk serve".to_owned(),
            reason: "it does not run, so it cannot be asked to end".to_owned(),
        })?;
        process.terminate()?;
        process.ended(deadline).await
    }

    /// An operator's command line: through its socket, or over mutual TLS where it has identities.
    pub fn cli(&self) -> Result<Cli, Error> {
        match &self.identities {
            None => self.local_cli(),
            Some(identities) => self.cli_as(&identities.operator),
        }
    }

    /// The command line of somebody else, over mutual TLS.
    pub fn cli_as(&self, credentials: &Credentials) -> Result<Cli, Error> {
        let cli = Cli::over_tls(self.addresses.http, credentials)?;
        Ok(cli.in_namespace(self.namespace.as_deref()))
    }

    /// Reads its rollouts: over loopback, or through its socket where everything else is mutual TLS.
    pub fn rollouts(&self) -> Rollouts {
        match &self.identities {
            None => Rollouts::of(self.addresses.http),
            Some(_) => Rollouts::through(self.socket.clone()),
        }
    }

    /// The socket of the Workload API that it has its identity from, if any.
    pub fn agent(&self) -> Option<&Path> {
        let address = &self.identities.as_ref()?.workload_api;
        Some(Path::new(address.strip_prefix("unix://").unwrap_or(address)))
    }

    /// The command line on its own machine: its socket, whoever we are.
    pub fn local_cli(&self) -> Result<Cli, Error> {
        Cli::of(&self.data())
    }

    /// Its own identity, as its socket says.
    pub async fn identity(&self) -> Result<Value, Error> {
        self.reads("/v1/identity").await
    }

    /// What its socket says of something, whatever its other listeners ask for.
    pub async fn reads(&self, path: &str) -> Result<Value, Error> {
        let http = |error: reqwest::Error| Error::Http {
            what: path.to_owned(),
            reason: error.to_string(),
        };
        let answer = self.socket.get(format!("http://knhk{path}")).send().await;
        let answer = answer.map_err(http)?.error_for_status().map_err(http)?;
        answer.json().await.map_err(http)
    }

    /// Whether its listeners speak TLS.
    pub fn is_identified(&self) -> bool {
        self.identities.is_some()
    }

    /// What its probe says of it now: whether it is ready, and its words.
    pub async fn readiness(&self) -> Result<(bool, String), Error> {
        let url = format!("http://{}/readyz", self.addresses.probe);
        let http = |error: reqwest::Error| Error::Http {
            what: url.clone(),
            reason: error.to_string(),
        };
        let answer = self.client.get(&url).send().await.map_err(http)?;
        let ready = answer.status().is_success();
        Ok((ready, answer.text().await.map_err(http)?))
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// A directory for files of a test, beside its data.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Its process, if it runs.
    pub fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    /// Its `/metrics`.
    pub async fn metrics(&self) -> Result<String, Error> {
        let url = format!("http://{}/metrics", self.addresses.probe);
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

    /// The sum of a counter's series that have each of these values among their labels.
    pub async fn counted(&self, counter: &str, values: &[&str]) -> Result<u64, Error> {
        let metrics = self.metrics().await?;
        let series = metrics.lines().filter_map(|line| {
            let (labels, value) = line.strip_prefix(counter)?.strip_prefix('{')?.rsplit_once("} ")?;
            let has = |value: &&str| labels.contains(&format!("=\"{value}\""));
            values.iter().all(has).then(|| value.parse::<u64>().ok())?
        });
        Ok(series.sum())
    }

    fn config(&self) -> String {
        let Addresses { grpc, http, probe } = self.addresses;
        let (data, flush) = (self.data(), self.flush);
        let spiffe = self.identities.as_ref().map_or_else(String::new, |identities| {
            // JSON is YAML.
            let section = json!({ "workload_api": identities.workload_api, "allow": identities.allow });
            format!("spiffe: {section}\n")
        });
        let regions = self.regions.as_ref();
        let regions = regions.map_or_else(String::new, |section| format!("regions: {section}\n"));
        format!(
            "region: {}\nlisten: {{ grpc: '{grpc}', http: '{http}', probe: '{probe}' }}\ndata: '{}'\nreceipts: {{ flush: {flush:?} }}\n{}{spiffe}{regions}",
            self.region,
            data.display(),
            self.kms.yaml
        )
    }

    /// Waits until it can decide and record.
    pub async fn ready(&mut self) -> Result<(), Error> {
        // The socket is no part of a network.
        let (client, at) = match &self.namespace {
            None => (&self.client, self.addresses.probe.to_string()),
            Some(_) => (&self.socket, "knhk".to_owned()),
        };
        let url = format!("http://{at}/readyz");
        let Some(process) = self.process.as_mut() else {
            return Ok(());
        };
        wait::until("knhk to be ready", wait::SOON, || {
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
}
