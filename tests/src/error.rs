//! What can go wrong in the harness, each in one line that says what to do.

use std::path::PathBuf;
use std::time::Duration;

/// An error of the harness.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something that the build makes is not there.
    #[error("{} is missing: run `make build` first", .0.display())]
    NotBuilt(PathBuf),
    /// Envoy could not be installed; the text is the script's own line.
    #[error("no Envoy: {0}")]
    NoEnvoy(String),
    /// A file or socket failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, and where.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A configuration file could not be read or has not the shape that is patched.
    #[error("{file}: {reason}")]
    Config {
        /// Which file.
        file: String,
        /// What is wrong in it.
        reason: String,
    },
    /// A process ended by itself.
    #[error("{name} ended by itself ({status}); the last lines of its log:\n{log}")]
    Ended {
        /// Which process.
        name: String,
        /// How it ended.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// An event did not come in time.
    #[error("waited {waited:?} for {what}; last seen: {last}")]
    TimedOut {
        /// The event.
        what: String,
        /// The deadline that passed.
        waited: Duration,
        /// What was there instead.
        last: String,
    },
    /// An HTTP exchange of the harness itself failed.
    #[error("{what}: {reason}")]
    Http {
        /// Which exchange.
        what: String,
        /// The client's reason.
        reason: String,
    },
    /// The command line refused; the text is its own line.
    #[error("`knhk {command}` exited {code}: {stderr}")]
    Refused {
        /// The arguments.
        command: String,
        /// The exit code, -1 for a signal.
        code: i32,
        /// What it wrote to stderr.
        stderr: String,
    },
    /// A program answered in a form that is not its contract's.
    #[error("{what}: {reason}")]
    Contract {
        /// Which answer.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// Wraps a system error with what was tried.
    pub fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
