//! wrk: a load generator that costs little itself.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crate::{Error, artifacts};

/// Connections that it keeps busy.
pub(super) const CONNECTIONS: u32 = 16;

const SCRIPT: &str = "tests/bench/users.lua";

/// What one run saw.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) requests: u64,
    pub(super) per_second: f64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

/// Installs it if it is missing and this is root on Debian or Ubuntu.
pub(super) fn ensure() -> Result<(), Error> {
    let works = || Command::new("wrk").arg("--version").output().is_ok();
    if works() {
        return Ok(());
    }
    let installed = Command::new("apt-get")
        .args(["install", "-y", "--no-install-recommends", "wrk"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .is_ok_and(|output| output.status.success());
    if installed && works() {
        return Ok(());
    }
    Err(Error::Contract {
        what: "wrk".to_owned(),
        reason: "missing: apt-get install wrk".to_owned(),
    })
}

/// Keeps a proxy busy for some seconds from one processor. Any request that fails is an error.
pub(super) async fn run(target: SocketAddr, seconds: u64, cpu: u32) -> Result<Run, Error> {
    let output = tokio::process::Command::new("taskset")
        .args([
            "--cpu-list",
            &cpu.to_string(),
            "wrk",
            "--threads",
            "1",
            "--latency",
        ])
        .args([
            "--connections",
            &CONNECTIONS.to_string(),
            "--duration",
            &format!("{seconds}s"),
            "--script",
        ])
        .arg(artifacts::root().join(SCRIPT))
        .arg(format!("http://{target}/"))
        .kill_on_drop(true)
        .output()
        .await
        .map_err(Error::io("wrk"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).map_err(|reason| Error::Contract {
        what: "wrk".to_owned(),
        reason: format!("{reason}: {text}"),
    })
}

fn parse(text: &str) -> Result<Run, &'static str> {
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return Err("requests failed");
    }
    let after = |label: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(label))
            .map(str::trim)
    };
    let requests = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())
        .ok_or("no count of requests")?;
    Ok(Run {
        requests,
        per_second: after("Requests/sec:")
            .and_then(|rate| rate.parse().ok())
            .ok_or("no rate")?,
        p50: after("50%").and_then(duration).ok_or("no median")?,
        p99: after("99%").and_then(duration).ok_or("no p99")?,
    })
}

/// `750.00us`, `1.23ms` or `2.00s`.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|letter: char| letter.is_ascii_alphabetic())?);
    let number: f64 = number.parse().ok()?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        _ => return None,
    };
    Some(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 5s test @ http://127.0.0.1:1/\n  1 threads and 16 connections\n  Latency Distribution\n     50%  750.00us\n     75%    1.02ms\n     90%    1.31ms\n     99%    2.50ms\n  106420 requests in 5.00s, 20.10MB read\nRequests/sec:  21284.13\nTransfer/sec:      4.02MB\n";

    #[test]
    fn a_report_is_read() {
        let run = parse(REPORT).expect("it can be read");
        assert_eq!(
            (run.requests, run.p50.as_micros(), run.p99.as_micros()),
            (106_420, 750, 2_500)
        );
        assert!((run.per_second - 21_284.13).abs() < 1e-9);
    }

    #[test]
    fn failed_requests_are_no_measurement() {
        assert!(parse(&format!("{REPORT}  Non-2xx or 3xx responses: 7\n")).is_err());
    }
}
