//! `make demo`: a canary that succeeds, one that is rolled back, and the receipts of both.
//!
//! `KMS=local|aws|azure|vault` says who signs them; `local` where nothing is said.

use std::process::ExitCode;

use knhk_tests::peer::Provider;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let provider = match std::env::var("KMS").map_or(Ok(Provider::Local), |name| name.parse()) {
        Ok(provider) => provider,
        Err(error) => {
            eprintln!("knhk-demo: KMS: {error}");
            return ExitCode::from(2);
        }
    };
    let ended = tokio::select! {
        ended = knhk_tests::demo::run(provider, std::io::stdout()) => ended,
        // Dropping the run ends everything that it started.
        code = told_to_end() => return code,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("knhk-demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Ctrl-C, or a terminal or a runner that ends.
async fn told_to_end() -> ExitCode {
    let mut ends = match (signal(SignalKind::terminate()), signal(SignalKind::hangup())) {
        (Ok(terminate), Ok(hangup)) => [terminate, hangup],
        // Without them a signal ends this process as it does by default; the kernel then ends what it started.
        _ => return std::future::pending().await,
    };
    let [terminate, hangup] = &mut ends;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => ExitCode::from(130),
        _ = terminate.recv() => ExitCode::from(143),
        _ = hangup.recv() => ExitCode::from(129),
    }
}
