//! A clock of the day that is wrong, for one process.

use std::process::Command;

use tempfile::TempDir;

use crate::Error;

/// What is put between a program and the system's clock.
const SOURCE: &str = include_str!("clock.c");

/// A clock that is so far ahead, or behind.
#[derive(Debug)]
pub struct WrongClock {
    library: TempDir,
    ahead_s: i64,
}

impl WrongClock {
    /// Seconds ahead of the true one, negative for behind. Needs a C compiler.
    pub fn ahead(seconds: i64) -> Result<Self, Error> {
        let library = tempfile::tempdir().map_err(Error::io("a wrong clock"))?;
        let (source, shared) = (library.path().join("clock.c"), library.path().join("clock.so"));
        std::fs::write(&source, SOURCE).map_err(Error::io("a wrong clock"))?;
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-o"])
            .args([&shared, &source])
            .output()
            .map_err(Error::io("cc"))?;
        if !compiled.status.success() {
            return Err(Error::Contract {
                what: "the compiler of a wrong clock".to_owned(),
                reason: String::from_utf8_lossy(&compiled.stderr).trim().to_owned(),
            });
        }
        Ok(Self {
            library,
            ahead_s: seconds,
        })
    }

    /// What a process has to be started with.
    pub fn environment(&self) -> Vec<(String, String)> {
        let library = self.library.path().join("clock.so");
        [
            ("LD_PRELOAD", library.display().to_string()),
            ("KNHK_CLOCK_AHEAD_S", self.ahead_s.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}
