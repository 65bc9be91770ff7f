//! The keys that an alias has led to, from the tags of the keys themselves.

use crate::retry::Retry;
use crate::{Call, KeyVersion, KmsError, VersionInfo};

use super::key::{Key, PREVIOUS_TAG, Tags};
use super::{AwsKms, reference};

/// The most versions that are listed, the newest ones. The log keeps the public key of every one for ever.
pub const MAX_VERSIONS: usize = 256;

impl AwsKms {
    /// The current key, and every version, the oldest first. The walk ends at a key that names none before it, at one that is
    /// gone, and after [`MAX_VERSIONS`].
    pub(super) async fn versions(&self) -> Result<(Key, Vec<VersionInfo>), KmsError> {
        let call = self.call("read");
        let current = self
            .described(Retry::CALL, &call, self.reference.as_str())
            .await?;
        let mut versions = vec![info(&current)];
        let mut at = current.arn.clone();
        while versions.len() < MAX_VERSIONS {
            let tags = self.tags_of(Retry::CALL, &call, &at).await?;
            let Some(previous) = tags.get(PREVIOUS_TAG).and_then(|arn| previous(arn)) else {
                break;
            };
            if versions.iter().any(|known| known.version == previous) {
                break;
            }
            match self.described(Retry::CALL, &call, previous.as_str()).await {
                Ok(key) => versions.push(info(&key)),
                Err(error) if error.label() == "key_missing" => break,
                Err(error) => return Err(error),
            }
            at = previous;
        }
        versions.reverse();
        Ok((current, versions))
    }

    pub(super) async fn described(&self, retry: Retry, call: &Call, key: &str) -> Result<Key, KmsError> {
        retry
            .run(&self.env, call, || async {
                Ok(self.client.describe(call, key).await?)
            })
            .await
    }

    pub(super) async fn tags_of(
        &self,
        retry: Retry,
        call: &Call,
        arn: &KeyVersion,
    ) -> Result<Tags, KmsError> {
        retry
            .run(&self.env, call, || async {
                Ok(self.client.tags(call, arn.as_str()).await?)
            })
            .await
    }
}

fn info(key: &Key) -> VersionInfo {
    VersionInfo {
        version: key.arn.clone(),
        created_unix_ms: key.created_unix_ms,
    }
}

/// Anybody who may tag the key can write the tag: what is no key's ARN names nothing.
fn previous(arn: &str) -> Option<KeyVersion> {
    reference::is_key_arn(arn)
        .then(|| KeyVersion::new(arn).ok())
        .flatten()
}
