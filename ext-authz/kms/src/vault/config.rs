//! What `kms` says for Vault, and the environment variables that stand for what it leaves out.

use std::path::PathBuf;

use reqwest::{Certificate, Url};

use crate::address::{self, setting};
use crate::{Env, KmsError};

/// The mount of Transit when none is given.
pub const DEFAULT_MOUNT: &str = "transit";

/// The longest mount, key name or namespace, in bytes.
pub const MAX_NAME_LEN: usize = 256;

/// The section `kms` of `knhk.yaml` for `provider: vault`, as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VaultConfig {
    /// `https://HOST:PORT`; else `VAULT_ADDR`. Plain `http` only to a loopback address.
    pub address: Option<String>,
    /// Where Transit is mounted; [`DEFAULT_MOUNT`] when empty.
    pub mount: String,
    /// The key's name in Transit.
    pub key_name: String,
    /// The namespace; else `VAULT_NAMESPACE`; else none.
    pub namespace: Option<String>,
    /// A file that holds the token and is read again when it changes; else the token is `VAULT_TOKEN`.
    pub token_file: Option<PathBuf>,
    /// PEM of the only authorities that are trusted; else `VAULT_CACERT`; else the system's.
    pub ca_file: Option<PathBuf>,
}

/// Where the key is, every part of it checked.
pub(super) struct Place {
    address: Url,
    mount: String,
    key_name: String,
    pub(super) namespace: Option<String>,
}

impl Place {
    pub(super) fn parse(config: &VaultConfig, env: &Env) -> Result<Self, KmsError> {
        let (field, address) = match &config.address {
            Some(address) => ("kms.address", address.clone()),
            None => (
                "VAULT_ADDR",
                env.variable("VAULT_ADDR").ok_or_else(|| {
                    setting(
                        "kms.address",
                        "is missing; write https://HOST:PORT, or set VAULT_ADDR",
                    )
                })?,
            ),
        };
        let mount = if config.mount.is_empty() {
            DEFAULT_MOUNT
        } else {
            &config.mount
        };
        let (namespace_field, namespace) = match &config.namespace {
            Some(namespace) => ("kms.namespace", Some(namespace.clone())),
            None => ("VAULT_NAMESPACE", env.variable("VAULT_NAMESPACE")),
        };
        let namespace = namespace
            .map(|namespace| path_of_names(namespace_field, &namespace))
            .transpose()?;
        Ok(Self {
            address: address::parse(field, &address)?,
            mount: path_of_names("kms.mount", mount)?,
            key_name: name("kms.key_name", &config.key_name)?,
            namespace,
        })
    }

    /// Whether the address begins with `https`.
    pub(super) fn is_tls(&self) -> bool {
        self.address.scheme() == "https"
    }

    /// `address/v1/MOUNT/PATH`.
    fn url(&self, path: &str) -> Url {
        let mut url = self.address.clone();
        let base = url.path().trim_end_matches('/');
        url.set_path(&format!("{base}/v1/{}/{path}", self.mount));
        url
    }

    pub(super) fn key_url(&self) -> Url {
        self.url(&format!("keys/{}", self.key_name))
    }

    pub(super) fn rotate_url(&self) -> Url {
        self.url(&format!("keys/{}/rotate", self.key_name))
    }

    pub(super) fn sign_url(&self) -> Url {
        self.url(&format!("sign/{}/sha2-256", self.key_name))
    }

    /// How Vault's users name the key: `MOUNT/keys/NAME`.
    pub(super) fn key(&self) -> String {
        format!("{}/keys/{}", self.mount, self.key_name)
    }

    /// The address without a path that leads on.
    pub(super) fn address(&self) -> &str {
        self.address.as_str()
    }
}

/// The authorities to trust instead of the system's, where the configuration or `VAULT_CACERT` names a file.
pub(super) fn authorities(config: &VaultConfig, env: &Env) -> Result<Option<Vec<Certificate>>, KmsError> {
    let (field, file) = match &config.ca_file {
        Some(file) => ("kms.ca_file", Some(file.clone())),
        None => ("VAULT_CACERT", env.variable("VAULT_CACERT").map(PathBuf::from)),
    };
    file.map(|file| address::authorities(field, &file)).transpose()
}

/// A path of names, without the slashes at its ends.
fn path_of_names(field: &'static str, text: &str) -> Result<String, KmsError> {
    let trimmed = text.trim_matches('/');
    for part in trimmed.split('/') {
        name(field, part)?;
    }
    if trimmed.len() > MAX_NAME_LEN {
        return Err(setting(
            field,
            format!("is longer than {MAX_NAME_LEN} bytes; shorten it"),
        ));
    }
    Ok(trimmed.to_owned())
}

/// One part of a path, as it is written in a URL. Dots alone would lead elsewhere.
fn name(field: &'static str, text: &str) -> Result<String, KmsError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.is_empty() {
        return Err(setting(field, "is missing or has an empty part; write a name"));
    }
    if text.len() > MAX_NAME_LEN || !text.chars().all(plain) || text.chars().all(|c| c == '.') {
        return Err(setting(
            field,
            format!(
                "has another character than letters, digits and `._-`, or more than {MAX_NAME_LEN} of them"
            ),
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn config(address: &str) -> VaultConfig {
        VaultConfig {
            address: Some(address.to_owned()),
            key_name: "knhk".to_owned(),
            ..VaultConfig::default()
        }
    }

    fn parse(config: &VaultConfig, variables: &[(&str, &str)]) -> Result<Place, KmsError> {
        Place::parse(config, &testing::env_with(variables))
    }

    fn refusal(config: &VaultConfig, variables: &[(&str, &str)]) -> String {
        let error = parse(config, variables).err().expect("refused");
        assert_eq!(error.label(), "setting");
        error.to_string()
    }

    #[test]
    fn urls_lead_to_the_mount_and_the_key() {
        let place = parse(&config("https://vault.example:8200"), &[]).expect("good");
        assert_eq!(
            place.key_url().as_str(),
            "https://vault.example:8200/v1/transit/keys/knhk"
        );
        assert_eq!(
            place.sign_url().as_str(),
            "https://vault.example:8200/v1/transit/sign/knhk/sha2-256"
        );
        let deep = VaultConfig {
            mount: "/crypto/transit-2/".to_owned(),
            ..config("https://gate.example/vault/")
        };
        let place = parse(&deep, &[]).expect("good");
        assert_eq!(
            place.rotate_url().as_str(),
            "https://gate.example/vault/v1/crypto/transit-2/keys/knhk/rotate"
        );
    }

    #[test]
    fn the_environment_fills_what_the_configuration_leaves_out_and_no_more() {
        let variables = [
            ("VAULT_ADDR", "https://from.env:8200"),
            ("VAULT_NAMESPACE", "admin/team/"),
        ];
        let open = VaultConfig {
            address: None,
            ..config("")
        };
        let place = parse(&open, &variables).expect("good");
        assert_eq!(place.address(), "https://from.env:8200/");
        assert_eq!(place.namespace.as_deref(), Some("admin/team"));
        let full = VaultConfig {
            namespace: Some("mine".to_owned()),
            ..config("https://from.config")
        };
        let place = parse(&full, &variables).expect("good");
        assert_eq!(place.address(), "https://from.config/");
        assert_eq!(place.namespace.as_deref(), Some("mine"));
        let text = refusal(&open, &[("VAULT_ADDR", "")]);
        assert!(
            text.contains("kms.address") && text.contains("VAULT_ADDR"),
            "{text}"
        );
        assert!(refusal(&open, &[("VAULT_ADDR", "ftp://x")]).starts_with("VAULT_ADDR: "));
    }

    #[test]
    fn plain_http_leads_to_this_machine_only() {
        for good in [
            "http://127.0.0.1:1",
            "http://[::1]:1",
            "http://localhost:1",
            "http://127.9.9.9",
        ] {
            parse(&config(good), &[]).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for bad in [
            "http://10.0.0.1:8200",
            "http://vault.example",
            "http://localhost.example",
            "http://[::2]",
        ] {
            let text = refusal(&config(bad), &[]);
            assert!(text.contains("plain http"), "{bad}: {text}");
        }
    }

    #[test]
    fn what_is_no_plain_address_or_name_is_refused_and_passwords_are_not_shown() {
        for bad in [
            "vault",
            "",
            "unix:/run/vault.sock",
            "https://a/?x",
            "https://a/#x",
            "https://user:pa55@a",
        ] {
            let text = refusal(&config(bad), &[]);
            assert!(!text.contains("pa55") && !text.contains('\n'), "{text}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "a?b", "a%2f", "é", &"a".repeat(257)] {
            let config = VaultConfig {
                key_name: bad.to_owned(),
                ..config("https://a")
            };
            assert!(
                refusal(&config, &[]).starts_with("kms.key_name: "),
                "{bad} is refused as a key's name"
            );
        }
        for bad in ["a//b", "../sys", "a/../b", "/"] {
            let config = VaultConfig {
                mount: bad.to_owned(),
                ..config("https://a")
            };
            assert!(
                refusal(&config, &[]).starts_with("kms.mount: "),
                "{bad} is refused as a mount"
            );
        }
    }

    #[test]
    fn a_ca_file_that_is_none_is_refused_with_its_field() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("ca.pem");
        let env = testing::env_with(&[("VAULT_CACERT", file.to_str().expect("UTF-8"))]);
        let by_config = VaultConfig {
            ca_file: Some(file.clone()),
            ..config("https://a")
        };
        for text in [None, Some(""), Some("no PEM")] {
            if let Some(text) = text {
                std::fs::write(&file, text).expect("writes");
            }
            let error = authorities(&config("https://a"), &env).expect_err("refused");
            assert!(error.to_string().starts_with("VAULT_CACERT: "), "{error}");
            let error = authorities(&by_config, &env).expect_err("refused");
            assert!(error.to_string().starts_with("kms.ca_file: "), "{error}");
        }
        let unset = authorities(&config("https://a"), &testing::env_with(&[])).expect("none");
        assert!(unset.is_none(), "then the system's authorities are trusted");
    }
}
