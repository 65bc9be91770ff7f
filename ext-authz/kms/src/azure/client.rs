//! Single requests to Key Vault and their answers, parsed. Nothing is tried twice here but the list of versions.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use azure_core::http::{ClientOptions, RetryOptions, Transport};
use azure_security_keyvault_keys::models::{
    KeyClientGetKeyOptions, KeyClientSignOptions, SignParameters, SignatureAlgorithm,
};
use azure_security_keyvault_keys::{KeyClient, KeyClientOptions};
use futures::TryStreamExt as _;

use super::AzureConfig;
use super::answer::{self, Failure, Key, Known};
use super::credential::{self, Kind};
use super::http::Http;
use super::place::Place;
use crate::address::{self, setting};
use crate::retry::Retry;
use crate::{Call, Env, KeyVersion, KmsError, Signature};

/// The most versions that are listed. Key Vault keeps no more than this many useful ones: above it, backups of the key fail.
pub const MAX_VERSIONS: usize = 500;

/// How long one attempt to list the versions may take: 25 come with each request.
pub const LIST_LIMIT: Duration = Duration::from_secs(10);

pub(super) struct Client {
    keys: KeyClient,
    place: Place,
    kind: Kind,
}

impl Client {
    pub(super) fn new(config: &AzureConfig, place: &Place, env: &Env) -> Result<Self, KmsError> {
        let transport = Transport::new(Arc::new(Http::new(config, place)?));
        let chosen = credential::choose(config, env, transport.clone())?;
        let options = KeyClientOptions {
            client_options: ClientOptions {
                retry: RetryOptions::none(),
                transport: Some(transport),
                ..ClientOptions::default()
            },
            // The vault names the resource that the token must be for, and it must be a domain that the vault is in, lest a vault
            // that is none collects tokens for others. An address of this machine is in no domain, and nobody else is there.
            verify_challenge_resource: Some(!address::is_loopback(&place.vault)),
            ..KeyClientOptions::default()
        };
        let keys = KeyClient::new(place.vault.as_str(), chosen.credential, Some(options))
            .map_err(|error| setting("kms.vault_url", error.to_string()))?;
        Ok(Self {
            keys,
            place: place.clone(),
            kind: chosen.kind,
        })
    }

    /// The newest version, enabled or not.
    pub(super) async fn newest(&self, call: &Call) -> Result<Known, Failure> {
        Ok(self.get(call, None).await?.known)
    }

    pub(super) async fn key(&self, call: &Call, version: &KeyVersion) -> Result<Key, Failure> {
        let key = self.get(call, Some(version.to_string())).await?;
        if key.known.version != *version {
            return Err(call.other_version(version, key.known.version).into());
        }
        Ok(key)
    }

    async fn get(&self, call: &Call, key_version: Option<String>) -> Result<Key, Failure> {
        let options = KeyClientGetKeyOptions {
            key_version,
            ..KeyClientGetKeyOptions::default()
        };
        let answer = self.keys.get_key(&self.place.key_name, Some(options)).await;
        let bundle = answer.and_then(azure_core::http::Response::into_model);
        let bundle = bundle.map_err(|error| answer::failure(call, &error))?;
        Ok(Key::parse(call, &self.place, bundle)?)
    }

    pub(super) async fn sign(
        &self,
        call: &Call,
        version: &KeyVersion,
        digest: &[u8; 32],
    ) -> Result<Signature, Failure> {
        let parameters = SignParameters {
            algorithm: Some(SignatureAlgorithm::Es256),
            value: Some(digest.to_vec()),
        };
        let parameters = parameters
            .try_into()
            .map_err(|error: azure_core::Error| answer::failure(call, &error))?;
        let options = KeyClientSignOptions {
            key_version: Some(version.to_string()),
            ..KeyClientSignOptions::default()
        };
        let answer = self
            .keys
            .sign(&self.place.key_name, parameters, Some(options))
            .await;
        let result = answer.and_then(azure_core::http::Response::into_model);
        let result = result.map_err(|error| answer::failure(call, &error))?;
        Ok(answer::signature(call, &self.place, version, result)?)
    }

    pub(super) async fn rotate(&self, call: &Call) -> Result<KeyVersion, Failure> {
        let answer = self.keys.rotate_key(&self.place.key_name, None).await;
        let bundle = answer.and_then(azure_core::http::Response::into_model);
        let bundle = bundle.map_err(|error| answer::failure(call, &error))?;
        Ok(Key::parse(call, &self.place, bundle)?.known.version)
    }

    /// Every version, the oldest first.
    pub(super) async fn versions(&self, env: &Env, call: &Call) -> Result<Vec<Known>, KmsError> {
        let patient = Retry {
            attempt: LIST_LIMIT,
            ..Retry::ROTATION
        };
        patient
            .run(env, call, || async { Ok(self.list(call).await?) })
            .await
    }

    async fn list(&self, call: &Call) -> Result<Vec<Known>, Failure> {
        let newest = self.newest(call).await?.version;
        let listed = self
            .keys
            .list_key_properties_versions(&self.place.key_name, None)
            .map_err(|error| answer::failure(call, &error))?;
        let mut listed = std::pin::pin!(listed.into_stream());
        let mut versions = Vec::new();
        while let Some(properties) = listed
            .try_next()
            .await
            .map_err(|error| answer::failure(call, &error))?
        {
            if versions.len() == MAX_VERSIONS {
                return Err(call
                    .unsupported(format!(
                        "it has more than {MAX_VERSIONS} versions: begin another key"
                    ))
                    .into());
            }
            versions.push(Known::parse(call, &self.place, &properties)?);
        }
        // Their order in the list is not documented, and their times are whole seconds.
        versions.sort_by(|a, b| {
            let key = |known: &Known| (known.version == newest, known.created_unix_ms);
            key(a).cmp(&key(b)).then_with(|| a.version.cmp(&b.version))
        });
        Ok(versions)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("credential", &self.kind)
            .finish_non_exhaustive()
    }
}
