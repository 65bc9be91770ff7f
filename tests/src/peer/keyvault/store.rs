//! The vault's keys, their versions, and what may be done with each.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::hazmat::{PrehashSigner as _, PrehashVerifier as _};
use p256::ecdsa::{Signature, SigningKey};
use p256::elliptic_curve::Generate as _;
use serde_json::{Map, Value, json};

/// What a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It signs on P-256.
    Ec,
    /// RSA. It is shown, and signs nothing here.
    Rsa,
}

/// Why something cannot be done, as Key Vault says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyError {
    /// The status of the answer.
    pub status: u16,
    /// `error.code`.
    pub code: &'static str,
    /// `error.innererror.code`.
    pub inner: Option<&'static str>,
    /// `error.message`.
    pub message: String,
}

/// Every key.
#[derive(Debug)]
pub struct Vault {
    url: String,
    /// By name; the versions in the order in which they were made, never none.
    keys: BTreeMap<String, Vec<Version>>,
}

/// One version of a key.
#[derive(Debug)]
pub(super) struct Version {
    id: String,
    kind: Kind,
    secret: SigningKey,
    pub(super) enabled: bool,
    created: Duration,
    pub(super) tags: Map<String, Value>,
}

impl Vault {
    pub(super) fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            keys: BTreeMap::new(),
        }
    }

    /// Makes a version of a key, its first or a further one, and gives its ID.
    pub fn create(&mut self, name: &str, kind: Kind, now: Duration) -> String {
        let versions = self.keys.entry(name.to_owned()).or_default();
        let id = format!("{:032x}", rand::random::<u128>());
        versions.push(Version {
            id: id.clone(),
            kind,
            secret: SigningKey::generate(),
            enabled: true,
            created: now,
            tags: versions.last().map(|last| last.tags.clone()).unwrap_or_default(),
        });
        id
    }

    /// Enables or disables a version.
    pub fn set_enabled(&mut self, name: &str, version: &str, state: Enabled) -> Result<(), KeyError> {
        self.find_mut(name, version)?.enabled = state == Enabled::Yes;
        Ok(())
    }

    /// Deletes a key with all its versions.
    pub fn delete(&mut self, name: &str) {
        self.keys.remove(name);
    }

    /// The IDs of a key's versions, the oldest first.
    pub fn versions(&self, name: &str) -> Vec<String> {
        let versions = self.keys.get(name).into_iter().flatten();
        versions.map(|version| version.id.clone()).collect()
    }

    /// A version; the newest one if `version` is empty.
    pub(super) fn find(&self, name: &str, version: &str) -> Result<&Version, KeyError> {
        let versions = self.keys.get(name).ok_or_else(|| not_found(name))?;
        let found = match version {
            "" => versions.last(),
            id => versions.iter().find(|known| known.id == id),
        };
        found.ok_or_else(|| not_found(&format!("{name}/{version}")))
    }

    pub(super) fn find_mut(&mut self, name: &str, version: &str) -> Result<&mut Version, KeyError> {
        let versions = self.keys.get_mut(name).ok_or_else(|| not_found(name))?;
        let found = match version {
            "" => versions.last_mut(),
            id => versions.iter_mut().find(|known| known.id == id),
        };
        found.ok_or_else(|| not_found(&format!("{name}/{version}")))
    }

    pub(super) fn kid(&self, name: &str, version: &Version) -> String {
        format!("{}/keys/{name}/{}", self.url, version.id)
    }

    /// A version as `get`, `create`, `rotate` and `update` answer with it.
    pub(super) fn bundle(&self, name: &str, version: &str) -> Result<Value, KeyError> {
        let version = self.find(name, version)?;
        let mut jwk = version.jwk();
        jwk["kid"] = self.kid(name, version).into();
        Ok(json!({ "key": jwk, "attributes": version.attributes(), "tags": version.tags }))
    }

    /// A page of the list of versions, the first one at 0, and where the next one begins.
    pub(super) fn page(&self, name: &str, at: usize, size: usize) -> Result<Value, KeyError> {
        let versions = self.keys.get(name).ok_or_else(|| not_found(name))?;
        // Key Vault's order has nothing to do with age: nor has the order of the IDs.
        let mut versions: Vec<&Version> = versions.iter().collect();
        versions.sort_by(|a, b| a.id.cmp(&b.id));
        let items: Vec<Value> = versions
            .iter()
            .skip(at)
            .take(size)
            .map(|version| {
                json!({
                    "kid": self.kid(name, version),
                    "attributes": version.attributes(),
                    "tags": version.tags,
                })
            })
            .collect();
        let next = at + items.len();
        let more = next < versions.len();
        let link = more.then(|| {
            format!(
                "{}/keys/{name}/versions?api-version=7.6&$skiptoken={next}&maxresults={size}",
                self.url
            )
        });
        Ok(json!({ "value": items, "nextLink": link }))
    }
}

/// What [`Vault::set_enabled`] makes of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enabled {
    /// It signs.
    Yes,
    /// It does not.
    No,
}

impl Version {
    /// Signs a digest: r || s.
    pub(super) fn sign(&self, algorithm: &str, digest: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.may("sign", algorithm, digest)?;
        let signature: Signature = self
            .secret
            .sign_prehash(digest)
            .map_err(|error| bad_parameter(&error.to_string()))?;
        Ok(signature.to_bytes().to_vec())
    }

    pub(super) fn verify(&self, algorithm: &str, digest: &[u8], signature: &[u8]) -> Result<bool, KeyError> {
        self.may("verify", algorithm, digest)?;
        Ok(Signature::from_slice(signature).is_ok_and(|signature| {
            self.secret
                .verifying_key()
                .verify_prehash(digest, &signature)
                .is_ok()
        }))
    }

    fn may(&self, operation: &str, algorithm: &str, digest: &[u8]) -> Result<(), KeyError> {
        if !self.enabled {
            return Err(KeyError {
                status: 403,
                code: "Forbidden",
                inner: Some("KeyDisabled"),
                message: format!("Operation {operation} is not allowed on a disabled key."),
            });
        }
        if self.kind != Kind::Ec || algorithm != "ES256" {
            return Err(bad_parameter("Key and signing algorithm are incompatible."));
        }
        if digest.len() != 32 {
            return Err(bad_parameter("Invalid length of digest."));
        }
        Ok(())
    }

    fn jwk(&self) -> Value {
        let point = self.secret.verifying_key().to_sec1_point(false);
        let encoded = |number: Option<&[u8]>| URL_SAFE_NO_PAD.encode(number.unwrap_or_default());
        let operations = json!(["sign", "verify"]);
        match self.kind {
            Kind::Ec => json!({
                "kty": "EC", "crv": "P-256", "key_ops": operations,
                "x": encoded(point.x().map(AsRef::as_ref)), "y": encoded(point.y().map(AsRef::as_ref)),
            }),
            Kind::Rsa => json!({
                "kty": "RSA", "key_ops": operations,
                "n": URL_SAFE_NO_PAD.encode([0xc5; 256]), "e": "AQAB",
            }),
        }
    }

    fn attributes(&self) -> Value {
        let created = self.created.as_secs();
        json!({
            "enabled": self.enabled, "created": created, "updated": created,
            "recoveryLevel": "Recoverable+Purgeable", "recoverableDays": 90, "exportable": false,
        })
    }
}

pub(super) fn bad_parameter(message: &str) -> KeyError {
    KeyError {
        status: 400,
        code: "BadParameter",
        inner: None,
        message: message.to_owned(),
    }
}

fn not_found(id: &str) -> KeyError {
    KeyError {
        status: 404,
        code: "KeyNotFound",
        inner: None,
        message: format!(
            "A key with (name/id) {id} was not found in this key vault. If you recently deleted this key you may be able to recover it using the correct recovery command."
        ),
    }
}
