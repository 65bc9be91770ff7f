//! Which machine the numbers are of.

use std::fmt;

use serde::Serialize;

use crate::Error;

/// The machine and the day.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    processor: String,
    processors: usize,
    kernel: String,
    /// UTC, year-month-day.
    date: String,
}

impl Machine {
    /// This one, now. Fails if it has one processor only: then a load generator and a proxy cannot be kept apart.
    pub(super) fn this() -> Result<Self, Error> {
        let read = |path: &str| std::fs::read_to_string(path).map_err(Error::io(path.to_owned()));
        let information = read("/proc/cpuinfo")?;
        let processor = information
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map_or("unknown processor", |(_, name)| name.trim())
            .to_owned();
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if processors < 2 {
            return Err(Error::Contract {
                what: "the benchmark".to_owned(),
                reason: "it needs two processors, one for the proxy and one for the rest".to_owned(),
            });
        }
        let kernel = format!("Linux {}", read("/proc/sys/kernel/osrelease")?.trim());
        Ok(Self {
            processor,
            processors,
            kernel,
            date: today(),
        })
    }
}

/// The date by the system's clock.
fn today() -> String {
    let output = std::process::Command::new("date").args(["-u", "+%F"]).output();
    output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default()
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} processors, {}, {}",
            self.processor, self.processors, self.kernel, self.date
        )
    }
}
