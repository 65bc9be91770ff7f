//! A key as AWS describes it, and what a successor of it is made of.

use std::collections::BTreeMap;

use aws_sdk_kms::types::{self, KeyMetadata, KeySpec, KeyUsageType, OriginType};

use super::reference;
use crate::{Call, KeyState, KeyVersion, KmsError};

/// The most tags that AWS keeps on a key.
const MAX_TAGS: usize = 50;

/// The tag that names the rotation which made a key: 32 hexadecimal digits.
pub(super) const ROTATION_TAG: &str = "knhk:rotation";

/// The tag that names the key before this one, by its ARN.
pub(super) const PREVIOUS_TAG: &str = "knhk:previous";

/// A key's tags, by their keys.
pub(super) type Tags = BTreeMap<String, String>;

/// A key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) arn: KeyVersion,
    pub(super) state: KeyState,
    pub(super) created_unix_ms: Option<u64>,
    pub(super) description: String,
    pub(super) regions: Regions,
    origin: OriginType,
    kind: Kind,
}

/// What a key is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// To sign on P-256.
    Signing,
    /// Something else, as AWS calls it.
    Other(String),
}

/// Where else a key may be used. AWS makes keys of either kind, and never changes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Regions {
    One,
    Several,
}

impl Key {
    pub(super) fn parse(call: &Call, metadata: KeyMetadata) -> Result<Self, KmsError> {
        let kind = match (&metadata.key_spec, &metadata.key_usage) {
            (Some(KeySpec::EccNistP256), Some(KeyUsageType::SignVerify)) => Kind::Signing,
            (spec, usage) => {
                let spec = spec.as_ref().map_or("of no key spec", KeySpec::as_str);
                let usage = usage.as_ref().map_or("no usage", KeyUsageType::as_str);
                Kind::Other(format!("{spec} for {usage}"))
            }
        };
        let arn = metadata.arn.unwrap_or_default();
        if !reference::is_key_arn(&arn) {
            return Err(call.malformed_answer(format!("`{arn}` is not the ARN of a key")));
        }
        Ok(Self {
            arn: KeyVersion::new(arn)?,
            state: state(metadata.key_state.as_ref()),
            created_unix_ms: metadata
                .creation_date
                .and_then(|date| date.to_millis().ok())
                .and_then(|millis| u64::try_from(millis).ok()),
            description: metadata.description.unwrap_or_default(),
            regions: if metadata.multi_region == Some(true) {
                Regions::Several
            } else {
                Regions::One
            },
            origin: metadata.origin.unwrap_or(OriginType::AwsKms),
            kind,
        })
    }

    pub(super) fn refuse_unless_it_signs(&self, call: &Call) -> Result<(), KmsError> {
        match &self.kind {
            Kind::Signing => Ok(()),
            Kind::Other(kind) => Err(call.wrong_key_type(kind)),
        }
    }

    /// AWS makes a successor only for a key whose material it made itself.
    pub(super) fn refuse_unless_made_by_aws(&self, call: &Call) -> Result<(), KmsError> {
        if self.origin == OriginType::AwsKms {
            return Ok(());
        }
        Err(call.unsupported(format!(
            "its key material has the origin {}, so its successor cannot be made here: make one, and move the alias to it",
            self.origin.as_str()
        )))
    }
}

/// The tags of a successor: those of the key before it, and ours.
pub(super) fn successor_tags(
    call: &Call,
    tags: &Tags,
    previous: &KeyVersion,
    rotation: &str,
) -> Result<Vec<types::Tag>, KmsError> {
    let mut next: Tags = tags
        .iter()
        // Only AWS sets tags of its own.
        .filter(|(key, _)| !key.starts_with("aws:"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    next.insert(ROTATION_TAG.to_owned(), rotation.to_owned());
    next.insert(PREVIOUS_TAG.to_owned(), previous.to_string());
    if next.len() > MAX_TAGS {
        return Err(call.unsupported(format!(
            "with its own tags and two of KNHK, the new key would have {} of them, and AWS allows {MAX_TAGS}: remove some",
            next.len()
        )));
    }
    next.into_iter()
        .map(|(key, value)| {
            types::Tag::builder()
                .tag_key(key)
                .tag_value(value)
                .build()
                .map_err(|error| call.malformed_answer(error))
        })
        .collect()
}

fn state(state: Option<&types::KeyState>) -> KeyState {
    match state {
        Some(types::KeyState::Enabled) => KeyState::Enabled,
        Some(types::KeyState::Disabled) => KeyState::Disabled,
        Some(types::KeyState::PendingDeletion | types::KeyState::PendingReplicaDeletion) => {
            KeyState::PendingDeletion
        }
        _ => KeyState::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";

    fn call() -> Call {
        Call::new("aws", "rotate", "alias/knhk")
    }

    fn metadata() -> types::builders::KeyMetadataBuilder {
        KeyMetadata::builder()
            .key_id("1234abcd-12ab-34cd-56ef-1234567890ab")
            .arn(ARN)
            .key_spec(KeySpec::EccNistP256)
            .key_usage(KeyUsageType::SignVerify)
            .key_state(types::KeyState::Enabled)
    }

    fn parse(builder: types::builders::KeyMetadataBuilder) -> Result<Key, KmsError> {
        Key::parse(&call(), builder.build().expect("whole"))
    }

    #[test]
    fn a_key_that_is_not_for_signing_on_p256_is_of_the_wrong_type() {
        for builder in [
            metadata().key_spec(KeySpec::EccNistP384),
            metadata().key_spec(KeySpec::EccSecgP256K1),
            metadata().key_usage(KeyUsageType::KeyAgreement),
            metadata().set_key_spec(None),
        ] {
            let key = parse(builder).expect("a key");
            let error = key.refuse_unless_it_signs(&call()).expect_err("refused");
            assert_eq!(error.label(), "wrong_key_type");
        }
        let key = parse(metadata()).expect("good");
        key.refuse_unless_it_signs(&call()).expect("it signs");
        assert_eq!((key.arn.as_str(), key.state), (ARN, KeyState::Enabled));
    }

    #[test]
    fn a_key_without_an_arn_is_no_answer_of_kms() {
        let error = parse(metadata().arn("1234abcd")).expect_err("refused");
        assert_eq!(error.label(), "malformed_answer");
    }

    #[test]
    fn imported_material_has_no_successor() {
        let key = parse(metadata().origin(OriginType::External)).expect("good");
        let error = key.refuse_unless_made_by_aws(&call()).expect_err("refused");
        assert_eq!(error.label(), "unsupported");
    }

    #[test]
    fn a_successor_has_the_tags_of_the_key_before_it_and_its_place_in_the_chain() {
        let own = [
            ("team", "mesh"),
            (ROTATION_TAG, "old"),
            ("aws:cloudformation:x", "y"),
        ];
        let own = own.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let previous = KeyVersion::new(ARN).expect("an ARN");
        let tags = successor_tags(&call(), &Tags::from(own), &previous, "new").expect("few tags");
        let tags: Vec<_> = tags.iter().map(|tag| (tag.tag_key(), tag.tag_value())).collect();
        assert_eq!(
            tags,
            [(PREVIOUS_TAG, ARN), (ROTATION_TAG, "new"), ("team", "mesh")]
        );
        let many: Tags = (0..49).map(|n| (format!("t{n}"), String::new())).collect();
        let error = successor_tags(&call(), &many, &previous, "new").expect_err("refused");
        assert_eq!(error.label(), "unsupported");
    }
}
