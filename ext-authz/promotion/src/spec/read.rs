//! Text to document: bounded, and with the path of the field in every refusal.

use super::document::Document;
use super::{MAX_SPEC_BYTES, MAX_YAML_DEPTH, MAX_YAML_NODES, SpecError};
use serde_path_to_error::{Path, Segment};
use serde_saphyr::{Error, UserMessageFormatter};

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
        problem: yaml_problem(&refusal),
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

/// The path as far as it is known, in one line whatever a key has in it: of the root, and of a key that could not be read, there is
/// none.
fn path(path: &Path) -> String {
    let known = path
        .iter()
        .take_while(|segment| !matches!(segment, Segment::Unknown));
    let mut text = String::new();
    for segment in known {
        if !text.is_empty() && !matches!(segment, Segment::Seq { .. }) {
            text.push('.');
        }
        text.push_str(&segment.to_string());
    }
    one_line(&text)
}

/// The reader's reason in the words of a rollout file, with the line where it knows one.
fn yaml_problem(refusal: &Error) -> String {
    let place = refusal.location().map_or_else(String::new, |at| {
        format!(" at line {}, column {}", at.line(), at.column())
    });
    match refusal.without_snippet() {
        Error::Unexpected { expected, .. } => {
            let expected = match *expected {
                "sequence start" => "a list, such as [ a, b ]",
                "mapping start" => "a mapping, such as { name: value }",
                "string scalar" => "a text or a number",
                other => other,
            };
            format!("expected {expected}{place}")
        }
        Error::Budget { .. } => format!(
            "too much{place}: write one document of at most {MAX_YAML_NODES} values, {MAX_YAML_DEPTH} levels deep, without aliases"
        ),
        other => one_line(&other.render_with_formatter(&UserMessageFormatter)),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
