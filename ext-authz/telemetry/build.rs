//! Turns `registry/*.yaml` into Rust: one constant a metric, one type an attribute. A name that is not in the
//! registry cannot be used, and a registry that breaks a rule does not build.

#[path = "build/generate.rs"]
mod generate;
#[path = "build/registry.rs"]
mod registry;

use std::error::Error;
use std::path::Path;
use std::{env, fs};

const REGISTRY: &str = "../../registry";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={REGISTRY}");
    println!("cargo::rerun-if-changed=build");
    let registry = registry::Registry::read(Path::new(REGISTRY))?;
    fs::write(
        Path::new(&env::var("OUT_DIR")?).join("registry.rs"),
        generate::rust(&registry),
    )?;
    Ok(())
}
