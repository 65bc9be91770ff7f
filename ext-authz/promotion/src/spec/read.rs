//! Text to document: bounded, and with the path of the field in every refusal.

use super::document::Document;
use super::{MAX_SPEC_BYTES, MAX_YAML_DEPTH, MAX_YAML_NODES, SpecError};
use serde_path_to_error::Path;

pub(super) fn yaml(text: &str) -> Result<Document, SpecError> {
    bounded(text)?;
    let options = serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
        merge_keys: serde_saphyr::MergeKeyPolicy::Error,
        reject_unsupported_tags: true,
        budget: serde_saphyr::budget! {
            max_documents: 1,
            max_depth: MAX_YAML_DEPTH,
            max_nodes: MAX_YAML_NODES,
            max_events: 2 * MAX_YAML_NODES,
            // A rollout has nothing to repeat, and an alias is how a small file becomes a large one.
            max_aliases: 0,
        },
    };
    let mut field = String::new();
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|refusal| {
            field = path(refusal.path());
            refusal.into_inner()
        })
    })
    .map_err(|refusal| SpecError::Document {
        field,
        problem: one_line(&refusal.render()),
    })
}

pub(super) fn json(text: &str) -> Result<Document, SpecError> {
    bounded(text)?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let document =
        serde_path_to_error::deserialize(&mut deserializer).map_err(|refusal| SpecError::Document {
            field: path(refusal.path()),
            problem: one_line(&refusal.inner().to_string()),
        })?;
    deserializer.end().map_err(|e| SpecError::Document {
        field: String::new(),
        problem: one_line(&e.to_string()),
    })?;
    Ok(document)
}

fn bounded(text: &str) -> Result<(), SpecError> {
    if text.len() > MAX_SPEC_BYTES {
        return Err(SpecError::TooLong { bytes: text.len() });
    }
    Ok(())
}

/// The root is no field: its path is empty.
fn path(path: &Path) -> String {
    if path.iter().len() == 0 {
        String::new()
    } else {
        path.to_string()
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
