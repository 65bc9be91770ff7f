//! A verifier that shares no code with this crate.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{Signature, Spki};

/// Whether OpenSSL accepts the signature over the SHA-256 of `message`. `scratch` takes its files.
pub(super) fn verifies(public: &Spki, signature: &Signature, message: &[u8], scratch: &Path) -> bool {
    let file = |name: &str, content: &[u8]| {
        let path = scratch.join(name);
        fs::write(&path, content).expect("the scratch directory can be written");
        path
    };
    Command::new("openssl")
        .args(["dgst", "-sha256", "-verify"])
        .arg(file("openssl.pub.pem", public.pem().as_bytes()))
        .arg("-signature")
        .arg(file("openssl.sig", &signature.to_der()))
        .arg(file("openssl.msg", message))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap_or_else(|error| {
            panic!("not run: verification by OpenSSL: there is no `openssl` to run ({error}): apt-get install openssl")
        })
        .success()
}
