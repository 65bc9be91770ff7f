//! `make bench`: what a decision, a rollback and a receipt cost on this machine.

use std::process::ExitCode;

use clap::Parser;
use knhk_tests::bench::{Options, run};

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Options::parse(), std::io::stdout()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("knhk-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
