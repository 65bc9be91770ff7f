//! The `knhk` command line, as a script uses it.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::peer::spire::Minted;
use crate::{Error, artifacts};

/// The command line, pointed at one service.
#[derive(Debug, Clone)]
pub struct Cli {
    binary: PathBuf,
    server: Vec<String>,
    /// The file of the network namespace that it runs in, if that is not ours.
    namespace: Option<PathBuf>,
}

/// Who the command line is to a service behind mutual TLS.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// A client certificate in files.
    Files(Minted),
    /// An SVID of the Workload API: this program, a copy of `knhk` that has a registration entry of its own, at this address.
    WorkloadApi {
        /// The copy.
        program: PathBuf,
        /// `unix://...`.
        address: String,
    },
}

/// What a command wrote.
#[derive(Debug)]
pub struct Output {
    /// Its exit code, -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Cli {
    /// For the verbs that talk to a service, through the socket in its data directory.
    pub fn of(data: &Path) -> Result<Self, Error> {
        let socket = format!("unix:{}/knhk.sock", data.display());
        Ok(Self {
            binary: artifacts::knhk()?,
            server: vec!["--server".to_owned(), socket],
            namespace: None,
        })
    }

    /// The same over mutual TLS.
    pub fn over_tls(http: SocketAddr, credentials: &Credentials) -> Result<Self, Error> {
        let mut server = vec!["--server".to_owned(), format!("https://{http}")];
        let binary = match credentials {
            Credentials::Files(minted) => {
                for (option, file) in [
                    ("--client-cert", &minted.chain),
                    ("--client-key", &minted.key),
                    ("--ca", &minted.authorities),
                ] {
                    server.extend([option.to_owned(), file.display().to_string()]);
                }
                artifacts::knhk()?
            }
            Credentials::WorkloadApi { program, address } => {
                server.extend(["--workload-api".to_owned(), address.clone()]);
                program.clone()
            }
        };
        Ok(Self {
            binary,
            server,
            namespace: None,
        })
    }

    /// In the network namespace of this file.
    #[must_use]
    pub fn in_namespace(mut self, namespace: Option<&Path>) -> Self {
        self.namespace = namespace.map(Path::to_owned);
        self
    }

    /// With another option for every command.
    #[must_use]
    pub fn with(mut self, option: &str, value: &str) -> Self {
        self.server.extend([option.to_owned(), value.to_owned()]);
        self
    }

    /// For the verbs that need none.
    pub fn offline() -> Result<Self, Error> {
        Ok(Self {
            binary: artifacts::knhk()?,
            server: Vec::new(),
            namespace: None,
        })
    }

    /// Runs a command, whatever comes of it.
    pub async fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Output, Error> {
        let mut command = match &self.namespace {
            None => tokio::process::Command::new(&self.binary),
            Some(namespace) => {
                let mut command = tokio::process::Command::new("nsenter");
                let namespace = format!("--net={}", namespace.display());
                command.args([namespace.as_ref(), "--".as_ref(), self.binary.as_os_str()]);
                command
            }
        };
        command.args(arguments).args(&self.server).kill_on_drop(true);
        let output = command
            .output()
            .await
            .map_err(Error::io(format!("{}", self.binary.display())))?;
        Ok(Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// Fetches a receipt into a file in this directory.
    pub async fn fetch(&self, id: &str, directory: &Path) -> Result<PathBuf, Error> {
        let file = directory.join(id.replace('/', "-"));
        let get = ["receipt", "get", id, "--out"].map(OsStr::new);
        self.json(&[&get[..], &[file.as_os_str()]].concat()).await?;
        Ok(file)
    }

    /// Decides a receipt's file again: it has to come to the same verdict.
    pub async fn replay(&self, file: &Path) -> Result<Value, Error> {
        self.json(&["receipt".as_ref(), "replay".as_ref(), file.as_os_str()])
            .await
    }

    /// Runs a command that is to succeed, and gives what it wrote.
    pub async fn text<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String, Error> {
        let output = self.run(arguments).await?;
        if output.code == 0 {
            return Ok(output.stdout);
        }
        Err(Error::Refused {
            command: line(arguments),
            code: output.code,
            stderr: output.stderr,
        })
    }

    /// Runs a command with `-o json` that is to succeed, and gives its JSON.
    pub async fn json<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Value, Error> {
        let mut with_format: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        with_format.extend(["-o", "json"].map(OsStr::new));
        let stdout = self.text(&with_format).await?;
        serde_json::from_str(&stdout).map_err(|error| Error::Contract {
            what: format!("the JSON of `knhk {}`", line(arguments)),
            reason: error.to_string(),
        })
    }
}

fn line<S: AsRef<OsStr>>(arguments: &[S]) -> String {
    arguments
        .iter()
        .map(|argument| argument.as_ref().to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
