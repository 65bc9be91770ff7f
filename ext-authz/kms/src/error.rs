use std::path::PathBuf;

use crate::KeyVersion;

/// Why a key could not be used. Each text is one line that says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KmsError {
    /// The provider has no such version of the key.
    #[error("kms: the key has no version `{version}`; `knhk key list` shows the versions there are")]
    UnknownVersion {
        /// The version that was asked for.
        version: KeyVersion,
    },
    /// A key's file or directory can be read or written by others than its owner.
    #[error("kms.local: `{}` has mode {mode:04o}, so others could use the key; run `chmod {wanted:o} {0}`", path.display())]
    Permissions {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The permission bits that it must not exceed.
        wanted: u32,
    },
    /// A key file is not a P-256 private key in PKCS#8 PEM.
    #[error("kms.local: `{}` is not a P-256 private key in PKCS#8 PEM ({reason}); restore it from a backup", path.display())]
    MalformedKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A public key is not the `SubjectPublicKeyInfo` of a P-256 key.
    #[error(
        "kms: the public key is not a P-256 SubjectPublicKeyInfo ({reason}); use a key of type ECDSA P-256"
    )]
    MalformedPublicKey {
        /// What is wrong with it.
        reason: String,
    },
    /// A signature is not an ECDSA signature over P-256.
    #[error("kms: the provider's answer is not an ECDSA P-256 signature ({reason})")]
    MalformedSignature {
        /// What is wrong with it.
        reason: String,
    },
    /// A version's name is empty, too long, or has characters outside `a-z A-Z 0-9 . _ : / -`.
    #[error(
        "kms: `{given}` is not a key version; it has 1 to {} letters, digits or `._:/-`",
        KeyVersion::MAX_LEN
    )]
    MalformedVersion {
        /// What was given, shortened.
        given: String,
    },
    /// The operating system refused.
    #[error("kms.local: cannot {action} `{}`: {source}; check that the directory exists, is writable and has room", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The operating system gave no randomness for a new key.
    #[error("kms.local: no randomness for a new key: {reason}")]
    Randomness {
        /// The random source's answer.
        reason: String,
    },
}

impl KmsError {
    /// A stable name for metrics and programs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::UnknownVersion { .. } => "unknown_version",
            Self::Permissions { .. } => "key_permissions",
            Self::MalformedKey { .. } => "malformed_key",
            Self::MalformedPublicKey { .. } => "malformed_public_key",
            Self::MalformedSignature { .. } => "malformed_signature",
            Self::MalformedVersion { .. } => "malformed_version",
            Self::Io { .. } => "io",
            Self::Randomness { .. } => "randomness",
        }
    }
}
