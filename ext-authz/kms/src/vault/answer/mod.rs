//! Vault's answers, parsed. Nothing here talks to anybody.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use crate::{Call, KeyVersion, KmsError, Signature, Spki, VersionInfo};

/// The type that Transit gives to keys that are used here.
const KEY_TYPE: &str = "ecdsa-p256";

/// What is wrapped around every successful answer. Other members than `data` are of no use here.
#[derive(Deserialize)]
struct Envelope<T> {
    data: T,
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<String>,
}

#[derive(Deserialize)]
struct KeyData {
    #[serde(rename = "type")]
    kind: String,
    latest_version: u32,
    min_encryption_version: u32,
    /// Present for keys that were imported.
    imported_key_allow_rotation: Option<bool>,
    /// By the version's number. Its form depends on the type of the key.
    keys: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct VersionData {
    public_key: String,
    creation_time: Option<String>,
}

#[derive(Deserialize)]
struct SignData {
    signature: String,
}

/// A Transit key as read.
pub(super) struct Key {
    pub(super) latest: u32,
    /// Versions below it do not sign; 0 when there is no such bound.
    min_signing: u32,
    rotation: Rotation,
    /// By number; never empty, and the latest is among them. Versions that Transit has put into its archive are not.
    versions: BTreeMap<u32, Version>,
}

struct Version {
    public: Spki,
    created_unix_ms: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rotation {
    Allowed,
    /// The key was imported without `allow_rotation`.
    Refused,
}

impl Key {
    /// Parses the answer of read-key and of rotate.
    pub(super) fn parse(call: &Call, body: &[u8]) -> Result<Self, KmsError> {
        let malformed = |reason: String| call.malformed_answer(reason);
        let Envelope::<KeyData> { data } =
            serde_json::from_slice(body).map_err(|error| malformed(error.to_string()))?;
        if data.kind != KEY_TYPE {
            return Err(call.wrong_key_type(format!("a Transit key of type {}", data.kind)));
        }
        let mut versions = BTreeMap::new();
        for (number, version) in data.keys {
            let number: u32 = number
                .parse()
                .map_err(|_| malformed(format!("`{number}` is not the number of a version")))?;
            versions.insert(number, Version::parse(call, version)?);
        }
        if !versions.contains_key(&data.latest_version) {
            return Err(malformed(format!(
                "latest_version is {}, and there is no such version",
                data.latest_version
            )));
        }
        Ok(Self {
            latest: data.latest_version,
            min_signing: data.min_encryption_version,
            rotation: if data.imported_key_allow_rotation == Some(false) {
                Rotation::Refused
            } else {
                Rotation::Allowed
            },
            versions,
        })
    }

    pub(super) fn public(&self, version: &KeyVersion) -> Result<Spki, KmsError> {
        version
            .number()
            .and_then(|number| self.versions.get(&number))
            .map(|version| version.public.clone())
            .ok_or_else(|| KmsError::UnknownVersion {
                version: version.clone(),
            })
    }

    /// Why this version of the key cannot sign, if the key says so.
    pub(super) fn why_not_sign(&self, call: &Call, version: &KeyVersion) -> Option<KmsError> {
        if let Err(unknown) = self.public(version) {
            return Some(unknown);
        }
        let disabled = version.number().is_some_and(|number| number < self.min_signing);
        disabled.then(|| {
            call.key_disabled(format!(
                "version {version} is below the key's min_encryption_version, {}",
                self.min_signing
            ))
        })
    }

    /// Why the key cannot be rotated, if the key says so.
    pub(super) fn why_not_rotate(&self, call: &Call) -> Option<KmsError> {
        (self.rotation == Rotation::Refused)
            .then(|| call.unsupported("the key was imported without allow_rotation: import the next version"))
    }

    pub(super) fn created_unix_ms(&self) -> Option<u64> {
        self.versions
            .first_key_value()
            .and_then(|(_, version)| version.created_unix_ms)
    }

    /// Every version, the oldest first.
    pub(super) fn infos(&self) -> Vec<VersionInfo> {
        self.versions
            .range(..=self.latest)
            .map(|(&number, version)| VersionInfo {
                version: KeyVersion::numbered(number),
                created_unix_ms: version.created_unix_ms,
            })
            .collect()
    }
}

impl Version {
    fn parse(call: &Call, value: Value) -> Result<Self, KmsError> {
        let data: VersionData =
            serde_json::from_value(value).map_err(|error| call.malformed_answer(error))?;
        let public = Spki::from_pem(&data.public_key).map_err(|error| call.malformed_answer(error))?;
        Ok(Self {
            public,
            created_unix_ms: data
                .creation_time
                .and_then(|time| time.parse::<Timestamp>().ok())
                .and_then(|time| u64::try_from(time.as_millisecond()).ok()),
        })
    }
}

/// Parses the answer of sign: `vault:vN:` and r || s in base64url. N is the version that signed.
pub(super) fn signature(call: &Call, asked: &KeyVersion, body: &[u8]) -> Result<Signature, KmsError> {
    let Envelope::<SignData> { data } =
        serde_json::from_slice(body).map_err(|error| call.malformed_answer(error))?;
    let mut parts = data.signature.splitn(3, ':');
    let (Some("vault"), Some(version), Some(encoded)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(call.malformed_answer("the signature does not begin with `vault:vN:`"));
    };
    if version != asked.as_str() {
        return Err(call.other_version(asked, version));
    }
    let raw = URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|error| call.malformed_answer(error))?;
    let raw: &[u8; 64] = raw
        .as_slice()
        .try_into()
        .map_err(|_| call.malformed_answer(format!("the signature has {} bytes, not 64", raw.len())))?;
    Signature::from_raw(raw)
}

/// What an answer that is not 2xx says. Vault answers 403 for a token that it does not know, too.
pub(super) fn refusal(call: &Call, status: StatusCode, body: &[u8]) -> KmsError {
    let errors = serde_json::from_slice::<Errors>(body).map_or(Vec::new(), |body| body.errors);
    let words = if errors.is_empty() {
        status.to_string()
    } else {
        format!("{status}: {}", errors.join("; "))
    };
    let says = |text: &str| errors.iter().any(|error| error.contains(text));
    match status {
        StatusCode::UNAUTHORIZED => call.unauthenticated(words),
        _ if says("missing client token") || says("invalid token") => call.unauthenticated(words),
        StatusCode::FORBIDDEN => call.forbidden(words),
        StatusCode::NOT_FOUND => call.key_missing(words),
        StatusCode::TOO_MANY_REQUESTS => call.throttled(words),
        // 412: this node has not seen yet what another one has written.
        StatusCode::PRECONDITION_FAILED => call.provider(words),
        _ if status.is_redirection() => call.provider(format!(
            "{words}: this node is not the active one and does not forward; give kms.address the active node's address"
        )),
        _ if status.is_server_error() => call.provider(words),
        _ => call.refused(words),
    }
}

#[cfg(test)]
mod tests;
