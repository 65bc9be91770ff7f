//! The KNHK service and its command line, one binary: `knhk`.

mod api;
mod app;
mod cli;
mod config;
mod flags;
mod grpc;
mod http;
mod serve;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
