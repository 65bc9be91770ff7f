//! Which key of which vault.

use std::fmt;

use reqwest::Url;

use super::AzureConfig;
use crate::address::{self, setting};
use crate::{Call, KeyVersion, KmsError};

/// The longest name of a key, in characters, that Key Vault takes.
const MAX_NAME_LEN: usize = 127;

/// Vault and key, both checked.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) vault: Url,
    pub(super) key_name: String,
}

impl Place {
    pub(super) fn parse(config: &AzureConfig) -> Result<Self, KmsError> {
        let vault = address::parse("kms.vault_url", &config.vault_url)?;
        if vault.scheme() != "https" {
            return Err(setting(
                "kms.vault_url",
                "is not https; write https://NAME.vault.azure.net",
            ));
        }
        if vault.path() != "/" {
            return Err(setting(
                "kms.vault_url",
                "has a path; write the vault's address only, and the key's name in kms.key_name",
            ));
        }
        let name = &config.key_name;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || name.len() > MAX_NAME_LEN || !name.chars().all(plain) {
            return Err(setting(
                "kms.key_name",
                format!("is not a key's name; it has 1 to {MAX_NAME_LEN} letters, digits or `-`"),
            ));
        }
        Ok(Self {
            vault,
            key_name: name.clone(),
        })
    }

    /// The version that a `kid` of this key names: the end of `https://HOST/keys/NAME/VERSION`. The host is not compared: a vault
    /// that is reached by another name, through a relay for example, goes on naming itself.
    pub(super) fn version(&self, call: &Call, kid: Option<&str>) -> Result<KeyVersion, KmsError> {
        let kid = kid.unwrap_or_default();
        let version = Url::parse(kid).ok().and_then(|url| {
            let mut segments = url.path_segments()?;
            let ours = segments.next() == Some("keys") && segments.next() == Some(&self.key_name);
            let version = segments.next().filter(|version| ours && is_version(version));
            version.filter(|_| segments.next().is_none()).map(str::to_owned)
        });
        match version {
            Some(version) => KeyVersion::new(version),
            None => Err(call.malformed_answer(format!("`{kid}` is not a version of this key"))),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}keys/{}", self.vault, self.key_name)
    }
}

/// What cannot be a version is none, without asking anybody.
pub(super) fn refuse_unless_version(version: &KeyVersion) -> Result<(), KmsError> {
    if is_version(version.as_str()) {
        return Ok(());
    }
    Err(KmsError::UnknownVersion {
        version: version.clone(),
    })
}

/// Key Vault names versions by 32 hexadecimal digits.
fn is_version(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSION: &str = "0123456789abcdef0123456789abcdef";

    fn config(vault_url: &str, key_name: &str) -> AzureConfig {
        AzureConfig {
            vault_url: vault_url.to_owned(),
            key_name: key_name.to_owned(),
            ..AzureConfig::default()
        }
    }

    #[test]
    fn a_vault_and_a_key_are_named_as_in_the_portal() {
        let place = Place::parse(&config("https://v.vault.azure.net", "knhk-1")).expect("good");
        assert_eq!(place.to_string(), "https://v.vault.azure.net/keys/knhk-1");
        assert!(Place::parse(&config("https://v.managedhsm.azure.net/", "K")).is_ok());
    }

    #[test]
    fn what_names_no_vault_or_key_is_refused_with_its_field() {
        for url in [
            "",
            "v.vault.azure.net",
            "http://127.0.0.1:1",
            "https://v.vault.azure.net/keys/knhk",
            "https://v.vault.azure.net/?x=1",
        ] {
            let error = Place::parse(&config(url, "knhk")).expect_err(url).to_string();
            assert!(error.starts_with("kms.vault_url: "), "{error}");
        }
        for name in ["", "a/b", "a_b", "a b", &"a".repeat(MAX_NAME_LEN + 1)] {
            let config = config("https://v.vault.azure.net", name);
            let error = Place::parse(&config).expect_err(name).to_string();
            assert!(error.starts_with("kms.key_name: "), "{error}");
        }
    }

    #[test]
    fn a_kid_of_another_key_or_without_a_version_is_no_answer() {
        let place = Place::parse(&config("https://v.vault.azure.net", "knhk")).expect("good");
        let call = Call::new("azure", "sign with", &place);
        let version = |kid: &str| place.version(&call, Some(kid));
        let good = version(&format!("https://v.vault.azure.net/keys/knhk/{VERSION}")).expect("good");
        assert_eq!(good.as_str(), VERSION);
        for kid in [
            "",
            "https://v.vault.azure.net/keys/knhk",
            "https://v.vault.azure.net/keys/knhk/1",
            &format!("https://v.vault.azure.net/keys/other/{VERSION}"),
            &format!("https://v.vault.azure.net/secrets/knhk/{VERSION}"),
            &format!("https://v.vault.azure.net/keys/knhk/{VERSION}/sign"),
        ] {
            assert_eq!(version(kid).expect_err(kid).label(), "malformed_answer");
        }
    }
}
