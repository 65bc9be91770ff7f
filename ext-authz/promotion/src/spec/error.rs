//! Why a rollout's specification is refused: one line that says where, what, and what would be right.

use thiserror::Error;

/// A refusal of a rollout's specification.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The document is longer than [`super::MAX_SPEC_BYTES`].
    #[error("the rollout is {bytes} bytes long, at most {max} are allowed: shorten it", max = super::MAX_SPEC_BYTES)]
    TooLong {
        /// The document's length.
        bytes: usize,
    },
    /// The document cannot be read as a rollout: not YAML or JSON, an unknown key, a missing one, a wrong type.
    #[error("{}{problem}", at(field))]
    Document {
        /// The field's path, such as `spec.stages[0].steps[1].setWeight`; empty for the document as a whole.
        field: String,
        /// What is wrong, and where the reader knows it, in which line.
        problem: String,
    },
    /// A field's value is refused.
    #[error("{field}: {problem}; {remedy}")]
    Field {
        /// The field's path.
        field: String,
        /// What is wrong.
        problem: String,
        /// What would be right.
        remedy: String,
    },
    /// The specification is right but asks for what this version does not do.
    #[error("{field}: {feature} is not supported by this version; leave it out")]
    Unsupported {
        /// The field's path.
        field: String,
        /// What is asked for.
        feature: &'static str,
    },
}

impl SpecError {
    pub(crate) fn field(
        field: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::Field {
            field: field.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }

    /// A stable, low-cardinality name of the kind of refusal.
    pub fn label(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "too_long",
            Self::Document { .. } => "document",
            Self::Field { .. } => "field",
            Self::Unsupported { .. } => "unsupported",
        }
    }

    /// The path of the field that is refused; empty for the document as a whole.
    pub fn path(&self) -> &str {
        match self {
            Self::TooLong { .. } => "",
            Self::Document { field, .. } | Self::Field { field, .. } | Self::Unsupported { field, .. } => {
                field
            }
        }
    }
}

fn at(field: &str) -> String {
    if field.is_empty() {
        String::new()
    } else {
        format!("{field}: ")
    }
}
