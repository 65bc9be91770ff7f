//! From the configuration to a KMS.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use knhk_kms::aws::{AwsConfig, AwsKms};
use knhk_kms::azure::{AzureConfig, AzureKms};
use knhk_kms::local::LocalKms;
use knhk_kms::vault::{VaultConfig, VaultKms};
use knhk_kms::{Env, Kms, KmsError};
use thiserror::Error;

use crate::config::Provider;

/// Directory of the local keys, and of what a rotation must remember, below `data`.
const KEYS_DIR: &str = "keys";

/// Why there is no KMS.
#[derive(Debug, Error)]
pub(crate) enum ProviderError {
    #[error(
        "{0}: the key that signs this log is missing; restore it from a copy, or give another `data` for a new log"
    )]
    LostKey(PathBuf),
    #[error(transparent)]
    Kms(#[from] KmsError),
}

/// A KMS as the configuration says. None but the local one is asked anything yet: a service starts while its KMS is away.
pub(crate) fn open(provider: &Provider, data: &Path) -> Result<Arc<dyn Kms>, ProviderError> {
    let keys = data.join(KEYS_DIR);
    Ok(match provider.clone() {
        Provider::Local => Arc::new(open_local(data, &keys)?),
        Provider::Aws {
            key_id,
            region,
            endpoint,
        } => {
            let config = AwsConfig {
                key_id,
                region,
                endpoint,
                state: keys,
            };
            Arc::new(AwsKms::connect(&config, Env::system())?)
        }
        Provider::Azure {
            vault_url,
            key_name,
            ca_file,
            authority,
        } => {
            let config = AzureConfig {
                vault_url,
                key_name,
                ca_file,
                authority,
            };
            Arc::new(AzureKms::connect(&config, Env::system())?)
        }
        Provider::Vault {
            address,
            mount,
            key_name,
            namespace,
            token_file,
            ca_file,
        } => {
            let config = VaultConfig {
                address,
                mount,
                key_name,
                namespace,
                token_file,
                ca_file,
            };
            Arc::new(VaultKms::connect(&config, Env::system())?)
        }
    })
}

/// The local key is made on the first start, and only then: a log goes on with the key that signed it.
fn open_local(data: &Path, keys: &Path) -> Result<LocalKms, ProviderError> {
    let has_key = fs::read_dir(keys).is_ok_and(|mut entries| entries.next().is_some());
    if data.join("log/segments").exists() && !has_key {
        return Err(ProviderError::LostKey(keys.to_owned()));
    }
    Ok(LocalKms::open(keys)?)
}
