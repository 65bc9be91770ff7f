//! The harness's upstream as a program, so that a benchmark can pin it to a processor of its own.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use knhk_tests::upstream::Upstream;

/// Answers every request with its version.
#[derive(Debug, Parser)]
struct Options {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Which version it is.
    #[arg(long)]
    version: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = Options::parse();
    match Upstream::start_at(options.listen, &options.version).await {
        Ok(upstream) => {
            upstream.run().await;
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("knhk-upstream: {error}");
            ExitCode::FAILURE
        }
    }
}
