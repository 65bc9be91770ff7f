//! How a key is named: `kms.key_id` as configured, and the ARNs that AWS answers with.

use std::fmt;

use crate::{KeyVersion, KmsError};

/// The longest `kms.key_id`, in bytes. AWS allows 2,048 for an ARN and 256 for an alias; no real one comes near 512.
const MAX_LEN: usize = KeyVersion::MAX_LEN;

/// `kms.key_id`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    text: String,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `alias/NAME` or its ARN.
    Alias,
    /// A key's ID or its ARN.
    Key,
}

impl Reference {
    pub(super) fn parse(text: &str) -> Result<Self, KmsError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || ":/_-".contains(c);
        if text.is_empty() || text.len() > MAX_LEN || !text.chars().all(plain) {
            return Err(refuse("is not the name of a key"));
        }
        let resource = if text.starts_with("arn:") {
            resource_of(text).ok_or_else(|| refuse("is not the ARN of a KMS key or alias"))?
        } else {
            text
        };
        let kind = match resource.split_once('/') {
            Some(("alias", name)) if name.starts_with("aws/") => {
                return Err(refuse(
                    "is an alias of AWS itself, whose keys are not for signing",
                ));
            }
            Some(("alias", name)) if !name.is_empty() => Kind::Alias,
            Some(("key", id)) if is_key_id(id) && resource.len() < text.len() => Kind::Key,
            None if is_key_id(resource) => Kind::Key,
            _ => return Err(refuse("is neither an alias nor a key")),
        };
        Ok(Self {
            text: text.to_owned(),
            kind,
        })
    }

    /// As configured. Every operation that reads takes it so.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// `alias/NAME`, which is the only form that `UpdateAlias` takes; none for a key that is named by itself.
    pub(super) fn alias(&self) -> Option<&str> {
        (self.kind == Kind::Alias).then(|| resource_of(&self.text).unwrap_or(&self.text))
    }

    /// The region in an ARN.
    pub(super) fn region(&self) -> Option<&str> {
        region_of(&self.text)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A version of an AWS key is the ARN of a key: nothing else is asked for.
pub(super) fn refuse_unless_key_arn(version: &KeyVersion) -> Result<(), KmsError> {
    if is_key_arn(version.as_str()) {
        return Ok(());
    }
    Err(KmsError::UnknownVersion {
        version: version.clone(),
    })
}

pub(super) fn is_key_arn(text: &str) -> bool {
    resource_of(text)
        .and_then(|resource| resource.strip_prefix("key/"))
        .is_some_and(is_key_id)
}

/// The region in an ARN.
pub(super) fn region_of(arn: &str) -> Option<&str> {
    parts(arn).map(|(region, _)| region)
}

fn resource_of(arn: &str) -> Option<&str> {
    parts(arn).map(|(_, resource)| resource)
}

/// Region and resource of `arn:PARTITION:kms:REGION:ACCOUNT:RESOURCE`.
fn parts(arn: &str) -> Option<(&str, &str)> {
    let mut parts = arn.splitn(6, ':');
    let (scheme, partition, service) = (parts.next()?, parts.next()?, parts.next()?);
    let (region, account, resource) = (parts.next()?, parts.next()?, parts.next()?);
    let whole = scheme == "arn" && !partition.is_empty() && service == "kms" && !region.is_empty();
    let account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    (whole && account).then_some((region, resource))
}

/// A UUID, or `mrk-` and 32 hexadecimal digits for a key in several regions.
fn is_key_id(text: &str) -> bool {
    let digits = text.strip_prefix("mrk-").unwrap_or(text);
    let hex = digits.bytes().filter(u8::is_ascii_hexdigit).count();
    hex == 32
        && digits
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

fn refuse(reason: &str) -> KmsError {
    KmsError::Setting {
        field: "kms.key_id",
        reason: format!("{reason}; write alias/NAME, or the ARN of an alias or of a key"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";

    #[test]
    fn an_alias_is_known_in_both_forms() {
        for text in ["alias/knhk", "arn:aws:kms:eu-west-1:123456789012:alias/knhk"] {
            let reference = Reference::parse(text).expect("an alias");
            assert_eq!(reference.alias(), Some("alias/knhk"));
            assert_eq!(reference.as_str(), text);
        }
        let nested = Reference::parse("alias/team/knhk").expect("an alias");
        assert_eq!(nested.alias(), Some("alias/team/knhk"));
    }

    #[test]
    fn a_key_is_known_in_both_forms_and_has_no_alias() {
        let arn = format!("arn:aws-us-gov:kms:us-gov-east-1:123456789012:key/{KEY}");
        for text in [KEY, "mrk-1234abcd12ab34cd56ef1234567890ab", &arn] {
            assert_eq!(Reference::parse(text).expect("a key").alias(), None);
        }
        let reference = Reference::parse(&arn).expect("a key");
        assert_eq!(reference.region(), Some("us-gov-east-1"));
        assert!(is_key_arn(&arn) && !is_key_arn(KEY));
    }

    #[test]
    fn what_names_no_key_is_refused_in_one_line_that_says_what_to_write() {
        for text in [
            "",
            "knhk",
            "alias/",
            "alias/aws/kms",
            "alias/a b",
            "key/",
            &format!("key/{KEY}"),
            "arn:aws:s3:eu-west-1:123456789012:alias/knhk",
            "arn:aws:kms::123456789012:alias/knhk",
            "arn:aws:kms:eu-west-1:1:alias/knhk",
            "arn:aws:kms:eu-west-1:123456789012:key/1",
            &"a".repeat(MAX_LEN + 1),
        ] {
            let error = Reference::parse(text).expect_err(text);
            assert_eq!(error.label(), "setting");
            let line = error.to_string();
            assert!(
                line.starts_with("kms.key_id: ") && line.contains("alias/NAME"),
                "{line}"
            );
        }
    }
}
