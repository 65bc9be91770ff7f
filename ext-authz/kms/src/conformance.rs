//! What every provider must do, as functions over `impl Kms`. Each panics with what was wrong.
#![allow(clippy::missing_panics_doc)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::{KeyVersion, Kms, Signature, Spki};

/// Runs the whole suite. `scratch` is a directory for the files that the OpenSSL check needs.
pub async fn all(kms: &impl Kms, scratch: &Path) {
    let current = kms.current().await.expect("a current version");
    signs_with_the_version_asked_for(kms, &current).await;
    openssl_verifies(kms, &current, scratch).await;
    wrong_version_is_an_error(kms).await;
    metadata_lists_every_version(kms).await;
    public_key_round_trips(&kms.public_key(&current).await.expect("the current public key"));
}

/// A signature verifies with the public key of the version asked for, over this digest only, in both of its forms.
pub async fn signs_with_the_version_asked_for(kms: &impl Kms, version: &KeyVersion) {
    let public = kms.public_key(version).await.expect("a public key");
    for fill in [0, 1, 0xff] {
        let digest = [fill; 32];
        let signature = kms.sign(version, &digest).await.expect("a signature");
        assert!(
            public.verifies(&digest, &signature),
            "the signature does not verify"
        );
        assert!(
            !public.verifies(&[fill ^ 2; 32], &signature),
            "it verifies over another digest"
        );
        let rehashed: [u8; 32] = Sha256::digest(digest).into();
        assert!(
            !public.verifies(&rehashed, &signature),
            "the digest was hashed again"
        );
        assert_eq!(Signature::from_der(&signature.to_der()).expect("DER"), signature);
        assert_eq!(
            Signature::from_raw(&signature.to_raw()).expect("r || s"),
            signature
        );
    }
}

/// OpenSSL, which shares no code with this crate, accepts the signature over the message whose digest was signed.
pub async fn openssl_verifies(kms: &impl Kms, version: &KeyVersion, scratch: &Path) {
    if Command::new("openssl")
        .arg("version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        eprintln!("not run: verification by openssl (there is no `openssl` on PATH)");
        return;
    }
    let message = b"a message that is hashed once";
    let digest = Sha256::digest(message).into();
    let signature = kms.sign(version, &digest).await.expect("a signature");
    let public = kms.public_key(version).await.expect("a public key");
    let (key_file, signature_file, message_file) = (
        scratch.join("openssl.pub.pem"),
        scratch.join("openssl.sig"),
        scratch.join("openssl.msg"),
    );
    fs::write(&key_file, public.pem()).expect("writes");
    fs::write(&signature_file, signature.to_der()).expect("writes");
    let verify = |message: &[u8]| {
        fs::write(&message_file, message).expect("writes");
        Command::new("openssl")
            .args(["dgst", "-sha256", "-verify"])
            .arg(&key_file)
            .arg("-signature")
            .arg(&signature_file)
            .arg(&message_file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("openssl runs")
            .success()
    };
    assert!(verify(message), "openssl refuses the signature");
    assert!(
        !verify(b"another message"),
        "openssl accepts it over another message"
    );
}

/// A version that does not exist is an error with a stable label, for its public key and for signing.
pub async fn wrong_version_is_an_error(kms: &impl Kms) {
    let none = KeyVersion::new("v4000000000").expect("a well-formed name");
    assert_eq!(
        kms.public_key(&none).await.expect_err("no such version").label(),
        "unknown_version"
    );
    assert_eq!(
        kms.sign(&none, &[0; 32])
            .await
            .expect_err("no such version")
            .label(),
        "unknown_version"
    );
}

/// The metadata's versions are distinct, each has a public key, and the last one is the current one.
pub async fn metadata_lists_every_version(kms: &impl Kms) {
    let metadata = kms.key_metadata().await.expect("metadata");
    let current = kms.current().await.expect("a current version");
    assert_eq!(metadata.versions.last().map(|info| &info.version), Some(&current));
    let mut ids = Vec::new();
    for info in &metadata.versions {
        ids.push(
            kms.public_key(&info.version)
                .await
                .expect("a listed version has a key")
                .key_id(),
        );
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(
        ids.len(),
        metadata.versions.len(),
        "two versions are the same key"
    );
}

/// A public key has one DER form and one PEM form.
pub fn public_key_round_trips(public: &Spki) {
    let again = Spki::from_der(public.der()).expect("its own DER");
    assert_eq!(again.der(), public.der());
    assert_eq!(again.key_id(), public.key_id());
    let pem = public.pem();
    assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----\n"), "{pem}");
    assert!(pem.ends_with("-----END PUBLIC KEY-----\n"), "{pem}");
}
