//! `make demo`: a canary that succeeds, one that is rolled back, and the receipts of both.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    let ended = tokio::select! {
        ended = knhk_tests::demo::run(std::io::stdout()) => ended,
        // Dropping the run ends everything that it started.
        _ = tokio::signal::ctrl_c() => return ExitCode::from(130),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("knhk-demo: {error}");
            ExitCode::FAILURE
        }
    }
}
