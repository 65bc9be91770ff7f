//! The flag definitions in force, and where there are other regions, which change of them that is.

use std::sync::Arc;

use knhk_flags::limits::MAX_FLAGS_BYTES;
use knhk_flags::{Document, FlagsError};
use knhk_regions::wire::{FlagsState, MAX_DOCUMENT_BYTES};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::flags::FlagFileError;

/// Peers read whatever is applied here.
const _: () = assert!(MAX_FLAGS_BYTES <= MAX_DOCUMENT_BYTES);

/// How a receipt of definitions with a version begins, which no flag file does.
const VERSIONED: &[u8] = br#"{"revision":"#;

/// Definitions as they were applied, here or in another region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Definitions {
    #[serde(serialize_with = "as_it_is", deserialize_with = "shared")]
    pub(crate) document: Arc<Document>,
    /// None where there never were other regions.
    pub(crate) version: Option<Version>,
}

/// Which change of the definitions. The larger one wins in all regions, see [`FlagsState`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Version {
    pub(crate) revision: u64,
    pub(crate) region: String,
}

/// Why definitions of another region are not followed.
#[derive(Debug, Error)]
pub(super) enum FollowedError {
    #[error(transparent)]
    Flags(#[from] FlagFileError),
    #[error("flags: they are not in the form that regions tell each other")]
    Form,
}

/// Why a receipt's definitions cannot be read.
#[derive(Debug, Error)]
pub(crate) enum RecordedError {
    #[error(transparent)]
    Flags(#[from] FlagsError),
    #[error(transparent)]
    Versioned(#[from] serde_json::Error),
}

/// In a receipt, where they have a version. Without one a receipt has the document alone.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Versioned<D> {
    revision: u64,
    region: String,
    definitions: D,
}

impl Definitions {
    /// What is in force before anything was applied.
    pub(crate) fn none() -> Self {
        Self::alone(Arc::new(crate::flags::none()))
    }

    /// What is applied where there never were other regions.
    pub(super) fn alone(document: Arc<Document>) -> Self {
        Self {
            document,
            version: None,
        }
    }

    /// The definitions that take the place of these when they are applied in `region`.
    pub(super) fn followed_by(&self, document: Arc<Document>, region: &str) -> Self {
        let revision = self.version.as_ref().map_or(0, |version| version.revision);
        Self {
            document,
            version: Some(Version {
                revision: revision.saturating_add(1),
                region: region.to_owned(),
            }),
        }
    }

    /// The same, where they were applied before there were other regions.
    pub(super) fn at_home(self, region: &str) -> Self {
        let was_applied = *self.document != crate::flags::none();
        match self.version {
            None if was_applied => self.followed_by(Arc::clone(&self.document), region),
            _ => self,
        }
    }

    /// As another region has them in force. In the form that regions have them in and no other: what is told here in another
    /// one than it was heard in would be news to whoever told it.
    pub(super) fn of(state: &FlagsState) -> Result<Self, FollowedError> {
        let document = crate::flags::from_json(&state.document)?;
        if document.to_bytes() != state.document {
            return Err(FollowedError::Form);
        }
        Ok(Self {
            document: Arc::new(document),
            version: Some(Version {
                revision: state.revision,
                region: state.region.clone(),
            }),
        })
    }

    /// For the other regions; none where nothing was applied.
    pub(super) fn state(&self) -> Option<FlagsState> {
        self.version.as_ref().map(|version| FlagsState {
            revision: version.revision,
            region: version.region.clone(),
            document: self.document.to_bytes(),
        })
    }

    /// As a receipt has them before and after a change.
    pub(crate) fn to_receipt(&self) -> Vec<u8> {
        match &self.version {
            None => self.document.to_bytes(),
            // As with the document alone: writing to memory cannot fail, and no bytes are no flags.
            Some(version) => serde_json::to_vec(&Versioned {
                revision: version.revision,
                region: version.region.clone(),
                definitions: &*self.document,
            })
            .unwrap_or_default(),
        }
    }

    /// Reads what [`Definitions::to_receipt`] writes.
    pub(crate) fn from_receipt(bytes: &[u8]) -> Result<Self, RecordedError> {
        if bytes.starts_with(VERSIONED) {
            let versioned: Versioned<Document> = serde_json::from_slice(bytes)?;
            return Ok(Self {
                document: Arc::new(versioned.definitions),
                version: Some(Version {
                    revision: versioned.revision,
                    region: versioned.region,
                }),
            });
        }
        Ok(Self::alone(Arc::new(Document::parse(bytes)?)))
    }
}

fn as_it_is<S: Serializer>(document: &Arc<Document>, serializer: S) -> Result<S::Ok, S::Error> {
    document.serialize(serializer)
}

fn shared<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Document>, D::Error> {
    Document::deserialize(deserializer).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Arc<Document> {
        Arc::new(Document::parse(text.as_bytes()).expect("a document"))
    }

    #[test]
    fn a_receipt_has_them_whole() {
        let alone = Definitions::alone(document(r#"{"flags":{"a":1.5}}"#));
        assert_eq!(alone.to_receipt(), br#"{"flags":{"a":1.5}}"#, "a flag file");
        let with_others = alone.followed_by(document(r#"{"flags":{"b":2}}"#), "eu");
        assert_eq!(
            with_others.to_receipt(),
            br#"{"revision":1,"region":"eu","definitions":{"flags":{"b":2}}}"#
        );
        for definitions in [alone, with_others] {
            let read = Definitions::from_receipt(&definitions.to_receipt());
            assert_eq!(read.expect("it is read"), definitions);
        }
        let more = br#"{"revision":1,"region":"eu","definitions":{"flags":{}},"more":1}"#;
        for broken in [&b"{"[..], b"[]x", br#"{"flags":{},"flags":{}}"#, more] {
            Definitions::from_receipt(broken).expect_err("refused");
        }
    }

    #[test]
    fn they_are_followed_in_one_form() {
        let state = |document: &str| FlagsState {
            revision: 7,
            region: "eu".to_owned(),
            document: document.into(),
        };
        let good = state(r#"{"flags":{}}"#);
        assert_eq!(Definitions::of(&good).expect("followed").state(), Some(good));
        for bad in [r#"{ "flags": {} }"#, r#"{"flags":{"a":1}}"#, "{"] {
            Definitions::of(&state(bad)).expect_err("refused");
        }
    }

    #[test]
    fn whoever_changes_them_comes_behind_what_is_in_force_there() {
        let none = Definitions::none();
        assert_eq!(none.clone().at_home("eu"), none, "nothing to tell");
        let alone = Definitions::alone(document(r#"{"flags":{"a":1}}"#));
        assert_eq!(alone.state(), None);
        let eu = alone.at_home("eu");
        let us = eu.followed_by(document(r#"{"flags":{}}"#), "us");
        let eu_again = us.followed_by(document(r#"{"flags":{"a":1}}"#), "eu");
        let states = [&eu, &us, &eu_again].map(|it| it.state().expect("a state"));
        assert_eq!(states.each_ref().map(|it| it.revision), [1, 2, 3]);
        assert!(states.is_sorted());
        assert_eq!(us.clone().at_home("eu"), us);
    }
}
