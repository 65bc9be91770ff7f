//! A real SPIRE: a server and an agent of one trust domain.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use knhk_identity::testing::Svid;
use knhk_identity::{ClientCertificate, Env, Identity};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde_json::Value;
use tempfile::TempDir;

use super::NotRun;
use crate::artifacts::root;
use crate::ports::Port;
use crate::process::{Launch, Process};
use crate::{Error, wait};

/// How the agent looks for new entries and for SVIDs to renew. SPIRE's own default is 5 s.
const SYNC: &str = "1s";
/// The SPIFFE ID that stands for every agent that joins by a token of ours.
const NODE: &str = "/node";

/// A SPIRE server and, unless it was killed, an agent. Both end on drop.
///
/// SPIRE sets no least TTL. It dates certificates back by 10 s and renews at half of a life: with a TTL of 20 s that is
/// about 5 s after the issue, with one of 10 s or less it renews all the time.
#[derive(Debug)]
pub struct Spire {
    agent: Option<Process>,
    server: Process,
    binaries: PathBuf,
    trust_domain: String,
    socket: PathBuf,
    directory: TempDir,
    port: Port,
}

/// A registration entry.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Below the trust domain, with a `/` first.
    pub path: &'a str,
    /// Whose it is.
    pub of: Workload<'a>,
    /// How long its SVIDs live. SPIRE adds 10 s before their issue.
    pub ttl: Duration,
    /// Other trust domains that it trusts.
    pub federates_with: &'a [&'a Spire],
}

/// Which processes an entry is for.
#[derive(Clone, Copy, Debug)]
pub enum Workload<'a> {
    /// Every process of this test's user.
    Anything,
    /// Every process that runs this program. A copy of a program is another one.
    Program(&'a Path),
}

impl Workload<'_> {
    fn selector(self) -> String {
        match self {
            Self::Anything => format!("unix:uid:{}", rustix::process::getuid().as_raw()),
            Self::Program(path) => format!("unix:path:{}", path.display()),
        }
    }
}

/// An SVID that the server signed without an agent, with the key and the authorities: three files.
#[derive(Debug, Clone)]
pub struct Minted {
    /// PEM, leaf first.
    pub chain: PathBuf,
    /// PEM, PKCS#8.
    pub key: PathBuf,
    /// PEM, the trust domain's authorities of that moment.
    pub authorities: PathBuf,
}

impl Minted {
    /// The certificates and the key.
    pub fn svid(&self) -> Result<Svid, Error> {
        let bad = |error: pem::Error| Error::Contract {
            what: "an SVID of spire-server".to_owned(),
            reason: format!("{error:?}"),
        };
        let chain = CertificateDer::pem_file_iter(&self.chain).map_err(bad)?;
        let key = PrivatePkcs8KeyDer::from_pem_file(&self.key).map_err(bad)?;
        Ok(Svid {
            chain: chain.collect::<Result<_, _>>().map_err(bad)?,
            key: key.secret_pkcs8_der().to_vec(),
        })
    }

    /// As an identity of this process.
    pub fn identity(&self) -> Result<Identity, Error> {
        let read = |path: &Path| fs::read(path).map_err(Error::io(path.display().to_string()));
        let pem = ClientCertificate {
            chain: &read(&self.chain)?,
            key: &read(&self.key)?,
            authorities: &read(&self.authorities)?,
        };
        Identity::of_client_certificate(pem, Env::system(), Arc::new(())).map_err(|error| Error::Contract {
            what: "an SVID of spire-server".to_owned(),
            reason: error.to_string(),
        })
    }
}

impl Spire {
    /// Builds SPIRE where it is not there yet, which takes minutes, and starts a server and an agent of `trust_domain`.
    pub async fn start(trust_domain: &str) -> Result<Self, NotRun> {
        let binaries = installed()?;
        let started = Self::launch(binaries, trust_domain).await;
        started.map_err(NotRun::because("SPIRE"))
    }

    async fn launch(binaries: PathBuf, trust_domain: &str) -> Result<Self, Error> {
        let directory = tempfile::tempdir().map_err(Error::io("a directory for SPIRE"))?;
        let port = Port::reserve()?;
        let at = directory.path();
        for name in ["server", "agent"] {
            fs::create_dir(at.join(name)).map_err(Error::io("a directory for SPIRE"))?;
        }
        let config = at.join("server.conf");
        write(&config, &server_config(at, trust_domain, port.address().port()))?;
        let server = Launch::new(
            "spire-server",
            at.join("server.log"),
            binaries.join("spire-server"),
        )
        .args(["run"])
        .arg_path("-config", &config)
        .start()?;
        let mut spire = Self {
            agent: None,
            server,
            binaries,
            trust_domain: trust_domain.to_owned(),
            socket: at.join("agent.sock"),
            directory,
            port,
        };
        spire.server_answers().await?;
        write(&spire.agent_config(), &agent_config(&spire))?;
        spire.start_agent().await?;
        Ok(spire)
    }

    fn agent_config(&self) -> PathBuf {
        self.directory.path().join("agent.conf")
    }

    /// The Workload API's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The Workload API's address, as `spiffe.workload_api` wants it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The SPIFFE ID of `path`, which begins with `/`.
    pub fn id(&self, path: &str) -> String {
        format!("spiffe://{}{path}", self.trust_domain)
    }

    /// Creates an entry. The agent knows it some seconds later. Gives its ID.
    pub fn create_entry(&self, entry: &Entry<'_>) -> Result<String, Error> {
        let selector = entry.of.selector();
        let (id, parent, ttl) = (
            self.id(entry.path),
            self.id(NODE),
            entry.ttl.as_secs().to_string(),
        );
        let mut arguments = vec![
            "entry",
            "create",
            "-spiffeID",
            &id,
            "-parentID",
            &parent,
            "-selector",
            &selector,
            "-x509SVIDTTL",
            &ttl,
        ];
        let foreign: Vec<String> = entry.federates_with.iter().map(|other| other.id("")).collect();
        for id in &foreign {
            arguments.extend(["-federatesWith", id]);
        }
        let answer = self.server_says(&arguments)?;
        text(&answer, "/results/0/entry/id")
    }

    /// Deletes an entry. The agent knows it some seconds later.
    pub fn delete_entry(&self, id: &str) -> Result<(), Error> {
        self.server_says(&["entry", "delete", "-entryID", id]).map(|_| ())
    }

    /// Lets this server hand out the authorities of `other`.
    pub fn federate_with(&self, other: &Self) -> Result<(), Error> {
        let bundle = self.directory.path().join("bundle.json");
        let shown = other.run("spire-server", &["bundle", "show", "-format", "spiffe"])?;
        write(&bundle, &shown)?;
        let (id, path) = (other.id(""), bundle.display().to_string());
        self.run(
            "spire-server",
            &["bundle", "set", "-format", "spiffe", "-id", &id, "-path", &path],
        )
        .map(|_| ())
    }

    /// Makes a new authority, signs with it from now on, and taints the old one: agents renew every SVID under it. Gives
    /// the old one's ID.
    pub fn rotate_authority(&self) -> Result<String, Error> {
        let old = self.server_says(&["localauthority", "x509", "show"])?;
        let old = text(&old, "/active/authority_id")?;
        let new = self.server_says(&["localauthority", "x509", "prepare"])?;
        let new = text(&new, "/prepared_authority/authority_id")?;
        self.server_says(&["localauthority", "x509", "activate", "-authorityID", &new])?;
        self.server_says(&["localauthority", "x509", "taint", "-authorityID", &old])?;
        Ok(old)
    }

    /// Takes an authority that was tainted out of the trust domain's bundle.
    pub fn revoke_authority(&self, id: &str) -> Result<(), Error> {
        self.server_says(&["localauthority", "x509", "revoke", "-authorityID", id])
            .map(|_| ())
    }

    /// Signs an SVID of `path` without an entry or an agent.
    pub fn mint(&self, path: &str, ttl: Duration) -> Result<Minted, Error> {
        let at = tempfile::tempdir_in(self.directory.path())
            .map_err(Error::io("a directory"))?
            .keep();
        let (id, ttl, out) = (
            self.id(path),
            format!("{}s", ttl.as_secs()),
            at.display().to_string(),
        );
        self.run(
            "spire-server",
            &["x509", "mint", "-spiffeID", &id, "-ttl", &ttl, "-write", &out],
        )?;
        Ok(Minted {
            chain: at.join("svid.pem"),
            key: at.join("key.pem"),
            authorities: at.join("bundle.pem"),
        })
    }

    /// Ends the agent at once, as a crash does. Its socket stays.
    pub fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// Starts the agent, again or for the first time. It keeps its own identity over a restart.
    pub async fn start_agent(&mut self) -> Result<(), Error> {
        let at = self.directory.path();
        let joined = at.join("agent/joined");
        let mut launch = Launch::new(
            "spire-agent",
            at.join("agent.log"),
            self.binaries.join("spire-agent"),
        )
        .args(["run"])
        .arg_path("-config", &self.agent_config());
        if !joined.exists() {
            let node = self.id(NODE);
            let token = self.server_says(&["token", "generate", "-spiffeID", &node])?;
            launch = launch.args(["-joinToken", &text(&token, "/value")?]);
        }
        let mut agent = launch.start()?;
        wait::until("the SPIRE agent", wait::SOON, || {
            let seen = match agent.check() {
                Ok(()) => self.run("spire-agent", &["healthcheck"]),
                Err(ended) => Err(ended),
            };
            async { seen.map_err(|error| error.to_string()) }
        })
        .await?;
        write(&joined, "")?;
        self.agent = Some(agent);
        Ok(())
    }

    async fn server_answers(&mut self) -> Result<(), Error> {
        wait::until("the SPIRE server", wait::SOON, || {
            let seen = match self.server.check() {
                Ok(()) => self.run("spire-server", &["healthcheck"]),
                Err(ended) => Err(ended),
            };
            async { seen.map_err(|error| error.to_string()) }
        })
        .await
        .map(|_| ())
    }

    fn server_says(&self, arguments: &[&str]) -> Result<Value, Error> {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["-output", "json"]).collect();
        let answer = self.run("spire-server", &arguments)?;
        serde_json::from_str(&answer).map_err(|error| Error::Contract {
            what: format!("spire-server {}", arguments.join(" ")),
            reason: format!("{error} in {answer}"),
        })
    }

    /// Runs a command of `program` on its own socket.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String, Error> {
        let socket = match program {
            "spire-agent" => self.socket.clone(),
            _ => self.directory.path().join("server.sock"),
        };
        let output = Command::new(self.binaries.join(program))
            .args(arguments)
            .arg("-socketPath")
            .arg(socket)
            .output()
            .map_err(Error::io(program))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Error::Contract {
            what: format!("{program} {}", arguments.join(" ")),
            reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }
}

/// The directory of SPIRE's programs.
fn installed() -> Result<PathBuf, NotRun> {
    let script = root().join("tests/peers/spire.sh");
    let output = Command::new(&script).output().map_err(NotRun::because("SPIRE"))?;
    if output.status.success() {
        return Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(NotRun::new(
        "SPIRE",
        said.trim().lines().last().unwrap_or("its script says nothing"),
    ))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::io(path.display().to_string()))
}

fn text(answer: &Value, pointer: &str) -> Result<String, Error> {
    let found = answer.pointer(pointer).and_then(Value::as_str);
    found.map(str::to_owned).ok_or_else(|| Error::Contract {
        what: "an answer of spire-server".to_owned(),
        reason: format!("no {pointer} in {answer}"),
    })
}

fn server_config(at: &Path, trust_domain: &str, port: u16) -> String {
    let at = at.display();
    format!(
        r#"server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{at}/server.sock"
  trust_domain = "{trust_domain}"
  data_dir = "{at}/server"
  log_level = "INFO"
  ca_ttl = "24h"
  agent_ttl = "12h"
  experimental {{ cache_reload_interval = "{SYNC}" }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{at}/server/db.sqlite3" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "memory" {{ plugin_data {{}} }}
}}
"#
    )
}

/// Programs are told by their paths, and not by what is in them: Envoy is hashed for a second.
///
/// Trust on first use is fine here: server and agent share a directory that nobody else may enter.
fn agent_config(spire: &Spire) -> String {
    let (at, port) = (spire.directory.path().display(), spire.port.address().port());
    let (socket, trust_domain) = (spire.socket.display(), &spire.trust_domain);
    format!(
        r#"agent {{
  data_dir = "{at}/agent"
  log_level = "INFO"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{socket}"
  insecure_bootstrap = true
  trust_domain = "{trust_domain}"
  experimental {{ sync_interval = "{SYNC}" }}
}}
plugins {{
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "disk" {{ plugin_data {{ directory = "{at}/agent" }} }}
  WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = true workload_size_limit = -1 }} }}
}}
"#
    )
}
