//! `make demo`: a canary that succeeds, one that is rolled back, and the receipts of both.
//!
//! `KMS=local|aws|azure|vault` says who signs them; `local` where nothing is said. `SPIFFE=1` gives everyone an identity from
//! a real SPIRE, and connects them over mutual TLS. `REGIONS=3` has two more regions, of which one is killed and comes back.

use std::process::ExitCode;
use std::str::FromStr;

use knhk_tests::demo::{Regions, Transport};
use knhk_tests::peer::Provider;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    let (provider, transport, regions) = match told() {
        Ok(told) => told,
        Err(error) => {
            eprintln!("knhk-demo: {error}");
            return ExitCode::from(2);
        }
    };
    let ended = tokio::select! {
        ended = knhk_tests::demo::run(provider, transport, regions, std::io::stdout()) => ended,
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

fn told() -> Result<(Provider, Transport, Regions), String> {
    let transport = variable("SPIFFE", Transport::Loopback)?;
    let regions = variable("REGIONS", Regions::One)?;
    if (transport, regions) == (Transport::MutualTls, Regions::Three) {
        return Err("SPIFFE=1 and REGIONS=3 are two demos: give one of them".to_owned());
    }
    Ok((variable("KMS", Provider::Local)?, transport, regions))
}

/// What the environment says, or what holds where it says nothing.
fn variable<T: FromStr<Err = String>>(name: &str, otherwise: T) -> Result<T, String> {
    let text = std::env::var(name);
    text.map_or(Ok(otherwise), |text| text.parse())
        .map_err(|why: String| format!("{name}: {why}"))
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
