//! `kms`: who holds the log's signing key, and how often it is rotated.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::Refusal;

/// Bounds of `kms.rotate_every`. Shorter ones make keys faster than anybody can look after them, and some providers
/// charge for each.
pub(crate) const ROTATE_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(60 * 60)..=Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// `kms`, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KmsSettings {
    /// Where the key is.
    pub(crate) provider: Provider,
    /// A key is rotated when it has signed for so long. None: only by `knhk key rotate`.
    pub(crate) rotate_every: Option<Duration>,
}

/// Where the key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Provider {
    /// Files under `data/keys`: for development.
    Local,
    /// AWS KMS.
    Aws {
        /// `alias/NAME`, an alias's ARN, a key's ID or ARN. Only a key behind an alias can be rotated.
        key_id: String,
        /// Else the SDK's own chain finds it.
        region: Option<String>,
        /// Another endpoint than the region's: a VPC endpoint with a name of its own, or a stand-in.
        endpoint: Option<String>,
    },
    /// Azure Key Vault.
    Azure {
        vault_url: String,
        key_name: String,
        /// Roots to trust beside the system's, in PEM.
        ca_file: Option<PathBuf>,
        /// Where credentials become tokens; else `AZURE_AUTHORITY_HOST`, else the public cloud's.
        authority: Option<String>,
    },
    /// HashiCorp Vault or `OpenBao`, Transit engine.
    Vault {
        /// Else `VAULT_ADDR`.
        address: Option<String>,
        mount: String,
        key_name: String,
        namespace: Option<String>,
        /// Read again whenever it changes; else `VAULT_TOKEN`.
        token_file: Option<PathBuf>,
        /// The only roots to trust, in PEM; else `VAULT_CACERT`, else the system's.
        ca_file: Option<PathBuf>,
    },
}

/// The mount that Vault's own documentation uses.
const DEFAULT_MOUNT: &str = "transit";

/// Which keys of the section belong to which provider, beside `provider` and `rotate_every`.
const KEYS: [(&str, &[&str]); 4] = [
    ("local", &[]),
    ("aws", &["key_id", "region", "endpoint"]),
    ("azure", &["vault_url", "key_name", "ca_file", "authority"]),
    (
        "vault",
        &[
            "address",
            "mount",
            "key_name",
            "namespace",
            "token_file",
            "ca_file",
        ],
    ),
];

impl Provider {
    /// The provider's name in the configuration and in the log.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Aws { .. } => "aws",
            Self::Azure { .. } => "azure",
            Self::Vault { .. } => "vault",
        }
    }
}

impl Default for KmsSettings {
    fn default() -> Self {
        Self {
            provider: Provider::Local,
            rotate_every: None,
        }
    }
}

impl KmsSettings {
    /// Validates the section as written.
    pub(super) fn parse(section: BTreeMap<String, String>) -> Result<Self, Refusal> {
        let mut section = Section(section);
        let named = section.optional("provider").unwrap_or_else(|| "local".to_owned());
        let Some((name, _)) = KEYS.iter().find(|(name, _)| *name == named) else {
            let reason = format!("`{named}` is none of local, aws, azure, vault");
            return Err(Refusal::field("kms.provider", reason));
        };
        let rotate_every = section
            .optional("rotate_every")
            .map_or(Ok(None), |text| rotate_every(&text))?;
        let provider = section.provider(name)?;
        section.refuse_what_is_left(name)?;
        Ok(Self {
            provider,
            rotate_every,
        })
    }
}

/// The section's keys that were not read yet.
struct Section(BTreeMap<String, String>);

impl Section {
    fn provider(&mut self, name: &str) -> Result<Provider, Refusal> {
        Ok(match name {
            "aws" => Provider::Aws {
                key_id: self.required("key_id", "alias/knhk-receipts")?,
                region: self.optional("region"),
                endpoint: self.optional("endpoint"),
            },
            "azure" => Provider::Azure {
                vault_url: self.required("vault_url", "https://NAME.vault.azure.net")?,
                key_name: self.required("key_name", "knhk-receipts")?,
                ca_file: self.optional("ca_file").map(PathBuf::from),
                authority: self.optional("authority"),
            },
            "vault" => Provider::Vault {
                address: self.optional("address"),
                mount: self.optional("mount").unwrap_or_else(|| DEFAULT_MOUNT.to_owned()),
                key_name: self.required("key_name", "knhk-receipts")?,
                namespace: self.optional("namespace"),
                token_file: self.optional("token_file").map(PathBuf::from),
                ca_file: self.optional("ca_file").map(PathBuf::from),
            },
            _ => Provider::Local,
        })
    }

    fn required(&mut self, key: &str, example: &str) -> Result<String, Refusal> {
        self.optional(key).ok_or_else(|| {
            let reason = format!("is missing; write for example {key}: {example}");
            Refusal::field(format!("kms.{key}"), reason)
        })
    }

    /// An empty text is as good as none.
    fn optional(&mut self, key: &str) -> Option<String> {
        self.0.remove(key).filter(|value| !value.is_empty())
    }

    fn refuse_what_is_left(self, provider: &str) -> Result<(), Refusal> {
        let Some(left) = self.0.keys().find(|key| !is_known(provider, key)) else {
            return Ok(());
        };
        let owners: Vec<_> = KEYS
            .iter()
            .filter(|(_, keys)| keys.contains(&left.as_str()))
            .map(|(name, _)| *name)
            .collect();
        let reason = if owners.is_empty() {
            format!("unknown key; `{provider}` has {}", known(provider))
        } else {
            format!(
                "belongs to the provider {}, and kms.provider is `{provider}`",
                owners.join(" or ")
            )
        };
        Err(Refusal::field(format!("kms.{left}"), reason))
    }
}

fn is_known(provider: &str, key: &str) -> bool {
    keys_of(provider).contains(&key)
}

fn keys_of(provider: &str) -> &'static [&'static str] {
    KEYS.iter()
        .find(|(name, _)| *name == provider)
        .map_or(&[], |(_, keys)| keys)
}

fn known(provider: &str) -> String {
    ["provider", "rotate_every"]
        .iter()
        .chain(keys_of(provider))
        .copied()
        .collect::<Vec<_>>()
        .join(", ")
}

fn rotate_every(text: &str) -> Result<Option<Duration>, Refusal> {
    if text == "never" {
        return Ok(None);
    }
    match humantime::parse_duration(text) {
        Ok(every) if ROTATE_RANGE.contains(&every) => Ok(Some(every)),
        _ => {
            let reason =
                format!("`{text}` is neither never nor a duration from 1h to 10years; write for example 90d");
            Err(Refusal::field("kms.rotate_every", reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<KmsSettings, Refusal> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        KmsSettings::parse(pairs.iter().map(owned).collect())
    }

    fn refused(pairs: &[(&str, &str)]) -> (String, String) {
        match parse(pairs).expect_err("refused") {
            Refusal::Field(field, reason) => (field.into_owned(), reason),
            Refusal::Syntax(reason) => panic!("{reason}"),
        }
    }

    #[test]
    fn nothing_said_is_the_local_key_for_ever() {
        assert_eq!(parse(&[]).expect("valid"), KmsSettings::default());
        assert_eq!(
            parse(&[("provider", "local"), ("rotate_every", "never")]).expect("valid"),
            KmsSettings::default()
        );
    }

    #[test]
    fn every_provider_takes_its_own_keys() {
        let aws = parse(&[
            ("provider", "aws"),
            ("key_id", "alias/a"),
            ("rotate_every", "90d"),
        ])
        .expect("valid");
        assert_eq!(aws.rotate_every, Some(Duration::from_secs(90 * 86400)));
        assert!(matches!(aws.provider, Provider::Aws { key_id, region: None, .. } if key_id == "alias/a"));
        let azure = parse(&[
            ("provider", "azure"),
            ("vault_url", "https://v"),
            ("key_name", "k"),
        ]);
        assert!(matches!(azure.expect("valid").provider, Provider::Azure { .. }));
        let vault = parse(&[("provider", "vault"), ("key_name", "k")]).expect("valid");
        assert!(matches!(vault.provider, Provider::Vault { mount, .. } if mount == "transit"));
    }

    #[test]
    fn what_does_not_belong_is_refused_by_name() {
        for (given, field, says) in [
            (
                &[("provider", "gcp")][..],
                "kms.provider",
                "local, aws, azure, vault",
            ),
            (&[("provider", "aws")], "kms.key_id", "alias/"),
            (&[("provider", "aws"), ("key_id", "")], "kms.key_id", "missing"),
            (&[("mount", "m")], "kms.mount", "belongs to the provider vault"),
            (&[("key_name", "m")], "kms.key_name", "azure or vault"),
            (
                &[("provider", "vault"), ("key_name", "k"), ("tokenfile", "t")],
                "kms.tokenfile",
                "token_file",
            ),
            (&[("rotate_every", "59m")], "kms.rotate_every", "1h"),
            (&[("rotate_every", "soon")], "kms.rotate_every", "never"),
        ] {
            let (refused_field, reason) = refused(given);
            assert_eq!(refused_field, field);
            assert!(reason.contains(says), "{reason}");
        }
    }
}
