//! Compiles the protocol with a pure-Rust compiler, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=knhk");
    let files = protox::compile(["knhk/v1/gate.proto"], ["."])?;
    #[cfg(feature = "grpc")]
    tonic_prost_build::configure().compile_fds(files)?;
    #[cfg(not(feature = "grpc"))]
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
