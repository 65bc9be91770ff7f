//! AWS KMS, over its own SDK, with the SDK's retries off.
//!
//! Every call that uses a key names it by its ARN. The alias of `kms.key_id` only says which key is the current one: what an
//! alias leads to can change between the choice of a key and its use.
//!
//! An asymmetric key of AWS KMS has one version and cannot rotate, so a version here is a key, and a rotation makes a key and
//! moves the alias to it ([`rotation`]). Each such key names the one before it in a tag, and that chain is the list of
//! versions ([`versions`]): nothing on this machine needs to be kept for it.

mod answer;
mod client;
mod intent;
mod key;
mod reference;
mod rotation;
mod versions;

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::publics::{self, Publics};
use crate::retry::Retry;
use crate::{Algorithm, Call, Env, KeyMetadata, KeyVersion, Kms, KmsError, Signature, Spki};
use answer::Failure;
use client::Client;
use intent::IntentFile;
use reference::Reference;
use rotation::Rotation;

pub use intent::INTENT_FILE;
pub use rotation::{MAX_KEYS_SEARCHED, SETTLE_AFTER};
pub use versions::MAX_VERSIONS;

const PROVIDER: &str = "aws";

/// The section `kms` of `knhk.yaml` for `provider: aws`, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsConfig {
    /// `alias/NAME`, an alias's ARN, a key's ID or a key's ARN. Only a key behind an alias can be rotated.
    pub key_id: String,
    /// Else the one in the ARN, `AWS_REGION`, `AWS_DEFAULT_REGION`, the profile, or the instance's.
    pub region: Option<String>,
    /// Else `AWS_ENDPOINT_URL_KMS`, `AWS_ENDPOINT_URL`, the profile's, or the region's. Plain `http` only to a loopback address.
    pub endpoint: Option<String>,
    /// A directory for [`INTENT_FILE`], which is there while a rotation is under way. It is made when it is first needed.
    pub state: PathBuf,
}

/// A key in AWS KMS.
pub struct AwsKms {
    reference: Reference,
    client: Client,
    env: Env,
    rotation: Rotation,
    publics: Publics,
}

impl AwsKms {
    /// Checks the configuration. Nothing is asked of AWS yet, not even for a credential: it may be away.
    pub fn connect(config: &AwsConfig, env: Env) -> Result<Self, KmsError> {
        let reference = Reference::parse(&config.key_id)?;
        let client = Client::new(config, &reference, &env)?;
        Ok(Self {
            reference,
            client,
            env,
            rotation: Rotation::new(IntentFile::new(&config.state)),
            publics: Publics::default(),
        })
    }

    fn call(&self, action: &'static str) -> Call {
        Call::new(PROVIDER, action, &self.reference)
    }

    fn call_with(action: &'static str, version: &KeyVersion) -> Call {
        Call::new(PROVIDER, action, version)
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
            let public = self.client.public_key(call, version).await?;
            self.publics.keep(version, &public);
            public
        };
        let signature = self.client.sign(call, version, digest).await?;
        Ok(publics::checked(call, &public, digest, signature)?)
    }

    /// Why a request that named a version failed: AWS answers alike for one that never was and when everything is gone.
    async fn why_not(&self, call: &Call, version: &KeyVersion, failure: Failure) -> KmsError {
        match KmsError::from(failure) {
            KmsError::KeyMissing { .. } => match self.client.describe(call, self.reference.as_str()).await {
                Ok(_) => KmsError::UnknownVersion {
                    version: version.clone(),
                },
                Err(failure) => failure.into(),
            },
            error => error,
        }
    }
}

#[async_trait]
impl Kms for AwsKms {
    /// Where the alias leads, or the key that is named by itself. Whether it can be used is said where it is used.
    async fn current(&self) -> Result<KeyVersion, KmsError> {
        let call = self.call("look up");
        let key = Retry::CALL
            .run(&self.env, &call, || async {
                Ok(self.client.describe(&call, self.reference.as_str()).await?)
            })
            .await?;
        Ok(key.arn)
    }

    async fn public_key(&self, version: &KeyVersion) -> Result<Spki, KmsError> {
        reference::refuse_unless_key_arn(version)?;
        let call = Self::call_with("read the public key of", version);
        Retry::CALL
            .run(&self.env, &call, || async {
                match self.client.public_key(&call, version).await {
                    Ok(public) => Ok(public),
                    Err(failure) => Err(self.why_not(&call, version, failure).await),
                }
            })
            .await
    }

    async fn sign(&self, version: &KeyVersion, digest: &[u8; 32]) -> Result<Signature, KmsError> {
        reference::refuse_unless_key_arn(version)?;
        let call = Self::call_with("sign with", version);
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

    /// Whether the intent's file is there.
    fn rotation_begun(&self) -> bool {
        self.rotation.is_begun()
    }

    async fn key_metadata(&self) -> Result<KeyMetadata, KmsError> {
        let (current, versions) = self.versions().await?;
        current.refuse_unless_it_signs(&self.call("use"))?;
        Ok(KeyMetadata {
            id: self.reference.to_string(),
            algorithm: Algorithm::EcdsaP256Sha256,
            state: current.state,
            created_unix_ms: versions.first().and_then(|info| info.created_unix_ms),
            provider: PROVIDER,
            region: reference::region_of(current.arn.as_str()).map(str::to_owned),
            versions,
        })
    }
}

impl fmt::Debug for AwsKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsKms")
            .field("key", &self.reference.as_str())
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}
