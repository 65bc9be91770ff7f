//! Azure Key Vault and Managed HSM, over Microsoft's own SDK, with the SDK's retries off: its default, 8 of them in 60 s, would
//! outlast a flush of the log.
//!
//! A key of Key Vault has versions, each a key of its own. Every call that uses one names it, and the answer's `kid` must name the
//! same one.

mod answer;
mod client;
mod credential;
mod http;
mod place;
mod rotation;

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::publics::{self, Publics};
use crate::retry::Retry;
use crate::{Algorithm, Call, Env, KeyMetadata, KeyState, KeyVersion, Kms, KmsError, Signature, Spki};
use answer::Failure;
use client::Client;
use place::Place;
use rotation::Rotation;

pub use client::{LIST_LIMIT, MAX_VERSIONS};
pub use http::MAX_ANSWER_BYTES;

const PROVIDER: &str = "azure";

/// The section `kms` of `knhk.yaml` for `provider: azure`, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AzureConfig {
    /// `https://NAME.vault.azure.net`, or another cloud's or a Managed HSM's address.
    pub vault_url: String,
    /// The key's name in the vault: 1 to 127 letters, digits or `-`.
    pub key_name: String,
    /// PEM of authorities to trust beside the system's: for a private cloud.
    pub ca_file: Option<PathBuf>,
    /// Where credentials are exchanged for tokens; else `AZURE_AUTHORITY_HOST`; else the public cloud's.
    pub authority: Option<String>,
}

/// A key in Key Vault.
pub struct AzureKms {
    place: Place,
    client: Client,
    env: Env,
    rotation: Rotation,
    publics: Publics,
}

impl AzureKms {
    /// Checks the configuration and chooses the credential. Nothing is asked of Azure yet: it may be away.
    pub fn connect(config: &AzureConfig, env: Env) -> Result<Self, KmsError> {
        let place = Place::parse(config)?;
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
        Call::new(PROVIDER, action, &self.place)
    }

    async fn sign_once(
        &self,
        call: &Call,
        version: &KeyVersion,
        digest: &[u8; 32],
    ) -> Result<Signature, Failure> {
        let public = if let Some(public) = self.publics.get(version) {
            public
        } else {
            let public = self.client.key(call, version).await?.public;
            self.publics.keep(version, &public);
            public
        };
        let signature = self.client.sign(call, version, digest).await?;
        Ok(publics::checked(call, &public, digest, signature)?)
    }

    /// Why a request that named a version failed. Key Vault answers alike for a version that is not there and for a key that is
    /// not, and says little about a key of another type.
    async fn why_not(&self, call: &Call, version: &KeyVersion, failure: Failure) -> KmsError {
        let error = match failure {
            Failure::Ambiguous(error) => error,
            certain => return certain.into(),
        };
        match self.client.newest(call).await {
            Ok(_) if error.label() == "key_missing" => KmsError::UnknownVersion {
                version: version.clone(),
            },
            Ok(_) => match self.client.key(call, version).await {
                Ok(_) => error,
                Err(failure) => failure.into(),
            },
            Err(failure) => failure.into(),
        }
    }
}

#[async_trait]
impl Kms for AzureKms {
    async fn current(&self) -> Result<KeyVersion, KmsError> {
        let call = self.call("look up");
        let newest = Retry::CALL
            .run(&self.env, &call, || async {
                Ok(self.client.newest(&call).await?)
            })
            .await?;
        if newest.state == KeyState::Enabled {
            return Ok(newest.version);
        }
        let versions = self.client.versions(&self.env, &call).await?;
        let enabled = versions
            .into_iter()
            .rev()
            .find(|known| known.state == KeyState::Enabled);
        match enabled {
            Some(known) => Ok(known.version),
            None => Err(call.key_disabled("none of its versions is enabled")),
        }
    }

    async fn public_key(&self, version: &KeyVersion) -> Result<Spki, KmsError> {
        place::refuse_unless_version(version)?;
        let call = self.call("read the public key of");
        Retry::CALL
            .run(&self.env, &call, || async {
                match self.client.key(&call, version).await {
                    Ok(key) => Ok(key.public),
                    Err(failure) => Err(self.why_not(&call, version, failure).await),
                }
            })
            .await
    }

    async fn sign(&self, version: &KeyVersion, digest: &[u8; 32]) -> Result<Signature, KmsError> {
        place::refuse_unless_version(version)?;
        let call = self.call("sign with");
        Retry::CALL
            .run(&self.env, &call, || async {
                match self.sign_once(&call, version, digest).await {
                    Ok(signature) => Ok(signature),
                    Err(failure) => Err(self.why_not(&call, version, failure).await),
                }
            })
            .await
    }

    async fn rotate_key(&self) -> Result<KeyVersion, KmsError> {
        self.rotate().await
    }

    async fn key_metadata(&self) -> Result<KeyMetadata, KmsError> {
        let call = self.call("read");
        let current = self.current().await?;
        let mut versions = self.client.versions(&self.env, &call).await?;
        // A newer one may be there, disabled: what signs comes last.
        versions.sort_by_key(|known| known.version == current);
        let state = versions.last().map_or(KeyState::Unavailable, |known| known.state);
        Ok(KeyMetadata {
            id: self.place.to_string(),
            algorithm: Algorithm::EcdsaP256Sha256,
            state,
            created_unix_ms: versions.iter().filter_map(|known| known.created_unix_ms).min(),
            provider: PROVIDER,
            region: None,
            versions: versions.into_iter().map(Into::into).collect(),
        })
    }
}

impl fmt::Debug for AzureKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureKms")
            .field("key", &format_args!("{}", self.place))
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}
