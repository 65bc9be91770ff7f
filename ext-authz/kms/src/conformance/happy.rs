//! A peer that works.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::openssl;
use crate::{Algorithm, KeyState, KeyVersion, Kms, Signature, Spki};

/// Runs the whole suite. `unknown` is the name of a version that the key does not have, in the provider's form; `scratch` is
/// a directory for files. The key is rotated twice.
pub async fn happy(kms: &dyn Kms, unknown: &KeyVersion, scratch: &Path) {
    let first = kms.current().await.expect("a current version");
    signs_with_the_version_asked_for(kms, &first).await;
    openssl_verifies(kms, &first, scratch).await;
    wrong_version_is_an_error(kms, unknown).await;
    metadata_lists_every_version(kms).await;
    public_key_round_trips(&kms.public_key(&first).await.expect("the current public key"));
    let second = rotation_makes_one_new_version(kms, scratch).await;
    let third = rotation_makes_one_new_version(kms, scratch).await;
    for version in [first, second, third] {
        signs_with_the_version_asked_for(kms, &version).await;
    }
}

/// A signature verifies with the public key of the version asked for, over this digest only, in both of its forms.
pub async fn signs_with_the_version_asked_for(kms: &dyn Kms, version: &KeyVersion) {
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

/// OpenSSL accepts the signature over the message whose digest was signed, and over no other.
async fn openssl_verifies(kms: &dyn Kms, version: &KeyVersion, scratch: &Path) {
    let message = b"a message that is hashed once";
    let digest: [u8; 32] = Sha256::digest(message).into();
    let signature = kms.sign(version, &digest).await.expect("a signature");
    let public = kms.public_key(version).await.expect("a public key");
    assert!(
        openssl::verifies(&public, &signature, message, scratch),
        "openssl refuses the signature"
    );
    assert!(
        !openssl::verifies(&public, &signature, b"another message", scratch),
        "openssl accepts it over another message"
    );
    assert!(
        !openssl::verifies(&public, &signature, &digest, scratch),
        "openssl accepts it over the digest: a digest of the digest was signed"
    );
}

/// A version that does not exist is an error with a stable label, for its public key and for signing.
async fn wrong_version_is_an_error(kms: &dyn Kms, unknown: &KeyVersion) {
    let error = kms.public_key(unknown).await.expect_err("no such version");
    assert_eq!(error.label(), "unknown_version", "{error}");
    let error = kms.sign(unknown, &[0; 32]).await.expect_err("no such version");
    assert_eq!(error.label(), "unknown_version", "{error}");
}

/// The metadata's versions are distinct, each has a public key, and the last one is the current one.
async fn metadata_lists_every_version(kms: &dyn Kms) {
    let metadata = kms.key_metadata().await.expect("metadata");
    let current = kms.current().await.expect("a current version");
    assert_eq!(metadata.versions.last().map(|info| &info.version), Some(&current));
    assert_eq!(metadata.algorithm, Algorithm::EcdsaP256Sha256);
    assert_eq!(metadata.state, KeyState::Enabled);
    assert!(!metadata.id.is_empty(), "the key has a name");
    let mut ids = Vec::new();
    for info in &metadata.versions {
        let public = kms.public_key(&info.version).await;
        ids.push(public.expect("a listed version has a key").key_id());
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(
        ids.len(),
        metadata.versions.len(),
        "two versions are the same key"
    );
    let made = metadata.versions.iter().map(|info| info.created_unix_ms);
    assert!(made.is_sorted(), "the oldest version comes first");
    assert!(
        metadata
            .created_unix_ms
            .is_some_and(|created| created > 1_500_000_000_000),
        "when the key was made is in milliseconds: {:?}",
        metadata.created_unix_ms
    );
}

/// A rotation adds one version, which is the current one then; what the one before signed still verifies, and it still signs.
async fn rotation_makes_one_new_version(kms: &dyn Kms, scratch: &Path) -> KeyVersion {
    let before = kms.key_metadata().await.expect("metadata");
    let old = kms.current().await.expect("a current version");
    let old_public = kms.public_key(&old).await.expect("its public key");
    let old_signature = kms.sign(&old, &[7; 32]).await.expect("a signature");

    let new = kms.rotate_key().await.expect("rotates");
    assert_ne!(new, old);
    assert_eq!(kms.current().await.expect("a current version"), new);
    let after = kms.key_metadata().await.expect("metadata");
    let names = |versions: &[crate::VersionInfo]| {
        let names = versions.iter().map(|info| info.version.clone());
        names.collect::<Vec<_>>()
    };
    let mut expected = names(&before.versions);
    expected.push(new.clone());
    assert_eq!(
        names(&after.versions),
        expected,
        "one version more, and no other change"
    );

    let still = kms.public_key(&old).await.expect("the old public key");
    assert_eq!(still, old_public, "a version's public key never changes");
    assert!(still.verifies(&[7; 32], &old_signature), "old signatures verify");
    let new_public = kms.public_key(&new).await.expect("the new public key");
    assert_ne!(new_public.key_id(), old_public.key_id());
    assert!(!new_public.verifies(&[7; 32], &old_signature));
    openssl_verifies(kms, &new, scratch).await;
    new
}

/// A public key has one DER form and one PEM form.
fn public_key_round_trips(public: &Spki) {
    let again = Spki::from_der(public.der()).expect("its own DER");
    assert_eq!(again.der(), public.der());
    assert_eq!(again.key_id(), public.key_id());
    let pem = public.pem();
    assert!(pem.starts_with("-----BEGIN PUBLIC KEY-----\n"), "{pem}");
    assert!(pem.ends_with("-----END PUBLIC KEY-----\n"), "{pem}");
    assert_eq!(Spki::from_pem(pem).expect("its own PEM").der(), public.der());
}
