//! Tessera's POSIX driver, on the same disk in the same run: entries of the same size, as many under way at a time.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::bench::{PAYLOAD_BYTES, options};

/// What its program measured.
pub(crate) struct Measured {
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// How it is set up.
#[derive(Clone, Copy)]
pub(crate) enum Settings {
    /// As it comes.
    Defaults,
    /// Batches and checkpoints wait as long as our flushes do, and a batch is full once all that are under way are in it, so
    /// that none waits in vain.
    Ours,
}

impl Settings {
    pub(crate) const ALL: [Self; 2] = [Self::Defaults, Self::Ours];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Defaults => "its defaults",
            Self::Ours => "our flush interval and batch",
        }
    }

    fn flags(self, adders: u64) -> Vec<String> {
        let flush = format!("{}ms", options().flush.as_millis());
        match self {
            Self::Defaults => Vec::new(),
            Self::Ours => [
                "-batch",
                &adders.to_string(),
                "-batch-age",
                &flush,
                "-checkpoint",
                &flush,
            ]
            .map(str::to_owned)
            .to_vec(),
        }
    }
}

/// Runs its program (`tests/bench/tessera`) in an empty directory. An error says why there is no measurement.
pub(crate) fn measure(
    program: &Path,
    dir: &Path,
    settings: Settings,
    adders: u64,
    run: Duration,
) -> Result<Measured, String> {
    let output = Command::new(program)
        .arg("-dir")
        .arg(dir)
        .args(["-run", &format!("{}ms", run.as_millis())])
        .args(["-payload", &PAYLOAD_BYTES.to_string()])
        .args(["-adders", &adders.to_string()])
        .args(settings.flags(adders))
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.trim().lines().last().unwrap_or("it does not say why");
        return Err(format!("{}: {last}", output.status));
    }
    read(&output.stdout).ok_or_else(|| {
        let said = String::from_utf8_lossy(&output.stdout);
        format!("its answer is not understood: {said}")
    })
}

fn read(answer: &[u8]) -> Option<Measured> {
    let answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
    let number = |name: &str| answer.get(name)?.as_f64();
    Some(Measured {
        rate: number("writesPerSecond")?,
        p50_ms: number("p50Ms")?,
        p99_ms: number("p99Ms")?,
    })
}
