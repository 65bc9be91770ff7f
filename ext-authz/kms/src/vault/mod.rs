//! HashiCorp Vault's Transit engine, and OpenBao's, which speaks the same.
//!
//! Over `reqwest`, not `vaultrs`: that one drops `key_version` when it signs and `latest_version` when it reads a key.
//!
//! Three requests are made: read the key, sign with it, rotate it. Transit answers a signature that it cannot make with 400 or
//! 500 and words that differ between versions, so the reason is taken from the key's own fields.

mod answer;
mod client;
mod config;
mod rotation;
mod token;

use std::fmt;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::publics::{self, Publics};
use crate::retry::Retry;
use crate::{Algorithm, Call, Env, KeyMetadata, KeyState, KeyVersion, Kms, KmsError, Signature, Spki};
use answer::Key;
use client::{Client, Failure};
use config::Place;
use rotation::Rotation;

pub use client::MAX_ANSWER_BYTES;
pub use config::{DEFAULT_MOUNT, MAX_NAME_LEN, VaultConfig};
pub use token::MAX_TOKEN_BYTES;

const PROVIDER: &str = "vault";

/// A key in Transit.
pub struct VaultKms {
    place: Place,
    client: Client,
    env: Env,
    rotation: Rotation,
    /// The public keys of the versions that have signed.
    publics: Publics,
}

impl VaultKms {
    /// Checks the configuration and fills it from the environment. Nothing is asked of Vault yet: it may be away.
    pub fn connect(config: &VaultConfig, env: Env) -> Result<Self, KmsError> {
        let place = Place::parse(config, &env)?;
        let client = Client::new(config, &place, &env)?;
        Ok(Self {
            place,
            client,
            env,
            rotation: Rotation::default(),
            publics: Publics::default(),
        })
    }

    fn call(&self, action: &'static str) -> Call {
        Call::new(PROVIDER, action, self.place.key())
    }

    async fn read(&self, call: &Call) -> Result<Key, KmsError> {
        Retry::CALL.run(&self.env, call, || self.read_once(call)).await
    }

    async fn read_once(&self, call: &Call) -> Result<Key, KmsError> {
        let body = self.client.get(call, self.place.key_url()).await;
        Key::parse(call, &body.map_err(Failure::into_error)?)
    }

    /// The public key by which a version's signatures are checked: the first that was read, so that a key that was deleted
    /// and made anew under the same name is noticed.
    async fn known_public(&self, call: &Call, version: &KeyVersion) -> Result<Spki, KmsError> {
        if let Some(public) = self.publics.get(version) {
            return Ok(public);
        }
        let public = self.read_once(call).await?.public(version)?;
        self.publics.keep(version, &public);
        Ok(public)
    }

    async fn sign_once(
        &self,
        call: &Call,
        version: &KeyVersion,
        asked: &Asked,
    ) -> Result<Signature, KmsError> {
        let public = self.known_public(call, version).await?;
        let answer = self
            .client
            .post(call, self.place.sign_url(), &asked.request())
            .await;
        match answer {
            Ok(body) => {
                let signature = answer::signature(call, version, &body)?;
                publics::checked(call, &public, &asked.digest, signature)
            }
            Err(Failure::Answered { status, error }) if client::may_be_the_keys_fault(status) => {
                let key = self.read_once(call).await?;
                Err(key.why_not_sign(call, version).unwrap_or(error))
            }
            Err(failure) => Err(failure.into_error()),
        }
    }
}

#[async_trait]
impl Kms for VaultKms {
    async fn current(&self) -> Result<KeyVersion, KmsError> {
        let key = self.read(&self.call("read the newest version of")).await?;
        Ok(KeyVersion::numbered(key.latest))
    }

    async fn public_key(&self, version: &KeyVersion) -> Result<Spki, KmsError> {
        self.read(&self.call("read the public key of"))
            .await?
            .public(version)
    }

    async fn sign(&self, version: &KeyVersion, digest: &[u8; 32]) -> Result<Signature, KmsError> {
        let unknown = || KmsError::UnknownVersion {
            version: version.clone(),
        };
        let asked = Asked {
            key_version: version.number().ok_or_else(unknown)?,
            digest: *digest,
        };
        let call = self.call("sign with");
        Retry::CALL
            .run(&self.env, &call, || self.sign_once(&call, version, &asked))
            .await
    }

    async fn rotate_key(&self) -> Result<KeyVersion, KmsError> {
        self.rotate().await.map(KeyVersion::numbered)
    }

    async fn key_metadata(&self) -> Result<KeyMetadata, KmsError> {
        let key = self.read(&self.call("read")).await?;
        Ok(KeyMetadata {
            id: self.place.key(),
            algorithm: Algorithm::EcdsaP256Sha256,
            state: KeyState::Enabled,
            created_unix_ms: key.created_unix_ms(),
            provider: PROVIDER,
            region: None,
            versions: key.infos(),
        })
    }
}

impl fmt::Debug for VaultKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultKms")
            .field("address", &self.place.address())
            .field("key", &self.place.key())
            .field("namespace", &self.place.namespace)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// A signature that is asked for.
struct Asked {
    key_version: u32,
    digest: [u8; 32],
}

/// The body of a request to sign.
#[derive(Serialize)]
struct SignRequest {
    input: String,
    /// Else Transit hashes the input, which is a digest already.
    prehashed: bool,
    marshaling_algorithm: &'static str,
    key_version: u32,
}

impl Asked {
    fn request(&self) -> SignRequest {
        SignRequest {
            input: STANDARD.encode(self.digest),
            prehashed: true,
            marshaling_algorithm: "jws",
            key_version: self.key_version,
        }
    }
}
