//! Where the things are that the build makes, by their place in the workspace.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
}

/// The service and command line, as `make build` leaves it.
pub fn knhk() -> Result<PathBuf, Error> {
    built(root().join("target/release/knhk"))
}

/// The filter, as `make build` leaves it.
pub fn filter() -> Result<PathBuf, Error> {
    built(root().join("target/wasm32-unknown-unknown/release/knhk_filter.wasm"))
}

/// The filter that does nothing: the floor of the benchmark.
pub fn empty_filter() -> Result<PathBuf, Error> {
    built(root().join("target/wasm32-unknown-unknown/release/knhk_empty_filter.wasm"))
}

/// A real Envoy, installed on first use.
pub fn envoy() -> Result<PathBuf, Error> {
    let script = root().join("tests/peers/envoy.sh");
    let output = Command::new(&script)
        .output()
        .map_err(Error::io(format!("{}", script.display())))?;
    if !output.status.success() {
        return Err(Error::NoEnvoy(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        ));
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn built(path: PathBuf) -> Result<PathBuf, Error> {
    if path.is_file() {
        Ok(path)
    } else {
        Err(Error::NotBuilt(path))
    }
}
