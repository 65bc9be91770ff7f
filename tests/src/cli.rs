//! The `knhk` command line, as a script uses it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Error, artifacts};

/// The command line, pointed at one service.
#[derive(Debug, Clone)]
pub struct Cli {
    binary: PathBuf,
    server: Option<String>,
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
        Ok(Self {
            binary: artifacts::knhk()?,
            server: Some(format!("unix:{}/knhk.sock", data.display())),
        })
    }

    /// For the verbs that need none.
    pub fn offline() -> Result<Self, Error> {
        Ok(Self {
            binary: artifacts::knhk()?,
            server: None,
        })
    }

    /// Runs a command, whatever comes of it.
    pub async fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Output, Error> {
        let mut command = tokio::process::Command::new(&self.binary);
        command.args(arguments).kill_on_drop(true);
        if let Some(server) = &self.server {
            command.args(["--server", server]);
        }
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
