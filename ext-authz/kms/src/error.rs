use std::path::PathBuf;
use std::time::Duration;

use crate::{Call, Detail, KeyVersion};

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
    /// The provider's answer was made with another version than the one that was asked for. It was thrown away.
    #[error(
        "{call}: version `{asked}` was asked for and `{answered}` answered; the answer was not used. Check what stands between KNHK and the provider"
    )]
    OtherVersion {
        /// What was asked.
        call: Call,
        /// The version that was asked for.
        asked: KeyVersion,
        /// The version that the answer names.
        answered: Detail,
    },
    /// The provider asked for fewer calls.
    #[error("{call}: too many calls for the provider ({detail}); raise its quota or the flush interval")]
    Throttled {
        /// What was asked.
        call: Call,
        /// The provider's words.
        detail: Detail,
    },
    /// The credential is good and may not do this.
    #[error("{call}: permission denied ({detail}); docs/kms.md lists the permissions it needs")]
    Forbidden {
        /// What was asked.
        call: Call,
        /// The provider's words.
        detail: Detail,
    },
    /// There is no credential, or the provider does not take it.
    #[error("{call}: no valid credential ({detail}); docs/kms.md says where credentials are looked for")]
    Unauthenticated {
        /// What was asked.
        call: Call,
        /// What is missing, or the provider's words.
        detail: Detail,
    },
    /// The key or the version is there and is switched off.
    #[error("{call}: it is disabled ({detail}); enable it at the provider, or rotate to a new version")]
    KeyDisabled {
        /// What was asked.
        call: Call,
        /// The provider's words.
        detail: Detail,
    },
    /// There is no such key.
    #[error("{call}: there is no such key ({detail}); check its name, or create it as docs/kms.md says")]
    KeyMissing {
        /// What was asked.
        call: Call,
        /// The provider's words.
        detail: Detail,
    },
    /// The key is not an ECDSA P-256 key that signs.
    #[error("{call}: it is {found}; use a signing key of type ECDSA P-256 (docs/kms.md)")]
    WrongKeyType {
        /// What was asked.
        call: Call,
        /// What the key is.
        found: Detail,
    },
    /// No answer came in time.
    #[error("{call}: no answer within {after:?}; check the provider's health and the network to it")]
    Timeout {
        /// What was asked.
        call: Call,
        /// How long it was waited for.
        after: Duration,
    },
    /// What came before has used up the time for this, so that it was not asked. Its label is that of [`KmsError::Timeout`].
    #[error(
        "{call}: no time was left for it, the calls before took it all; check the provider's health and the network to it"
    )]
    NoTimeLeft {
        /// What was not asked.
        call: Call,
    },
    /// No connection, or it broke before the answer was whole.
    #[error("{call}: the provider cannot be reached ({detail}); check its address and the network")]
    Unreachable {
        /// What was asked.
        call: Call,
        /// The network's words.
        detail: Detail,
    },
    /// The two sides could not agree on TLS.
    #[error("{call}: TLS failed ({detail}); check the provider's certificate and the CA file")]
    Tls {
        /// What was asked.
        call: Call,
        /// What TLS said.
        detail: Detail,
    },
    /// The answer is not in the provider's documented form.
    #[error(
        "{call}: the answer is not the provider's ({detail}); check that the address is the provider's and no proxy answers for it"
    )]
    MalformedAnswer {
        /// What was asked.
        call: Call,
        /// What is wrong with it.
        detail: Detail,
    },
    /// The provider says that it failed.
    #[error("{call}: the provider failed ({detail}); see its own log and health")]
    Provider {
        /// What was asked.
        call: Call,
        /// The provider's words.
        detail: Detail,
    },
    /// The provider refused for a reason that has no variant of its own.
    #[error("{call}: the provider refused ({detail}); correct what it names")]
    Refused {
        /// What was asked.
        call: Call,
        /// The provider's words.
        detail: Detail,
    },
    /// The provider, or this key of it, cannot do what was asked.
    #[error("{call}: that cannot be done ({detail})")]
    Unsupported {
        /// What was asked.
        call: Call,
        /// What cannot be done, and what can.
        detail: Detail,
    },
    /// The key is named by itself, and only an alias can be moved to a new key.
    #[error(
        "kms.aws: `{key}` cannot rotate: an asymmetric key has one version, and only an alias can move to a new key; set kms.key_id to `alias/NAME`"
    )]
    RotationNeedsAlias {
        /// `kms.key_id` as configured.
        key: Detail,
    },
    /// A rotation that was begun cannot go on now. The key of before goes on signing.
    #[error("{call}: a rotation was begun and cannot go on ({detail})")]
    RotationPending {
        /// What was asked.
        call: Call,
        /// Why, and what to do. Its parts are bounded.
        detail: String,
    },
    /// The same failure came again until the call's deadline left no room for another attempt.
    #[error("{last} [tried {attempts} times in {after:?}]")]
    GaveUp {
        /// How often it was tried, at least 2.
        attempts: u32,
        /// From the first attempt to the end of the last.
        after: Duration,
        /// The last failure, whose label this error has.
        last: Box<KmsError>,
    },
    /// A setting, or the environment variable that stands for it, has no usable value.
    #[error("{field}: {reason}")]
    Setting {
        /// The setting's name in `knhk.yaml` or the variable's.
        field: &'static str,
        /// What is wrong and what to write.
        reason: String,
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
    /// A version's name is empty, too long, or has other characters than printable ASCII.
    #[error(
        "kms: `{given}` is not a key version; it has 1 to {} printable ASCII characters and no space",
        KeyVersion::MAX_LEN
    )]
    MalformedVersion {
        /// What was given, shortened.
        given: Detail,
    },
    /// The operating system refused.
    #[error("{field}: cannot {action} `{}`: {source}; check that the directory exists, is writable and has room", path.display())]
    Io {
        /// The part of the configuration: `kms.local`.
        field: &'static str,
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
            Self::OtherVersion { .. } => "other_version",
            Self::Throttled { .. } => "throttled",
            Self::Forbidden { .. } => "forbidden",
            Self::Unauthenticated { .. } => "unauthenticated",
            Self::KeyDisabled { .. } => "key_disabled",
            Self::KeyMissing { .. } => "key_missing",
            Self::WrongKeyType { .. } => "wrong_key_type",
            Self::Timeout { .. } | Self::NoTimeLeft { .. } => "timeout",
            Self::Unreachable { .. } => "unreachable",
            Self::Tls { .. } => "tls",
            Self::MalformedAnswer { .. } => "malformed_answer",
            Self::Provider { .. } => "provider",
            Self::Refused { .. } => "refused",
            Self::Unsupported { .. } => "unsupported",
            Self::RotationNeedsAlias { .. } => "rotation_needs_alias",
            Self::RotationPending { .. } => "rotation_pending",
            Self::GaveUp { last, .. } => last.label(),
            Self::Setting { .. } => "setting",
            Self::Permissions { .. } => "key_permissions",
            Self::MalformedKey { .. } => "malformed_key",
            Self::MalformedPublicKey { .. } => "malformed_public_key",
            Self::MalformedSignature { .. } => "malformed_signature",
            Self::MalformedVersion { .. } => "malformed_version",
            Self::Io { .. } => "io",
            Self::Randomness { .. } => "randomness",
        }
    }

    /// Whether the same call may well succeed a moment later, with nothing changed by a person.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Throttled { .. } | Self::Timeout { .. } | Self::Unreachable { .. } | Self::Provider { .. }
        )
    }
}
