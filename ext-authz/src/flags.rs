//! Flag definitions as an operator sends them: JSON or YAML, read within bounds and checked whole.

use knhk_flags::limits::{MAX_DEPTH, MAX_FLAGS_BYTES, MAX_VALUES};
use knhk_flags::message::one_line;
use knhk_flags::{Document, FlagSet, FlagsError, Refusal};
use serde_path_to_error::Segment;
use serde_saphyr::{Error, UserMessageFormatter};
use thiserror::Error as ThisError;

/// Why definitions are refused: one line that says where, what, and what would be right. Nothing of them is used.
#[derive(Debug, ThisError)]
pub(crate) enum FlagFileError {
    #[error("flags: {0}")]
    Flags(#[from] FlagsError),
    /// It is within the bound as it is written, and not as it is kept.
    #[error(
        "flags: as they are kept, with characters and numbers written out, they have {bytes} bytes, above the bound of {MAX_FLAGS_BYTES}: define fewer flags, or share rules with $evaluators"
    )]
    TooLargeAsKept { bytes: usize },
    /// It is no YAML, or none that is read here.
    #[error("flags: {field}{reason}")]
    Yaml { field: String, reason: String },
}

/// Reads definitions, in JSON where they begin with `{`, else in YAML. Anything that is not supported is refused.
pub(crate) fn read(text: &str) -> Result<Document, FlagFileError> {
    let bytes = text.as_bytes();
    if text.trim_start().starts_with('{') || bytes.len() > MAX_FLAGS_BYTES {
        return from_json(bytes);
    }
    checked(yaml(text)?)
}

/// Reads definitions in JSON.
pub(crate) fn from_json(bytes: &[u8]) -> Result<Document, FlagFileError> {
    checked(Document::parse(bytes)?)
}

/// What a file without any flag says.
pub(crate) fn none() -> Document {
    Document::parse(br#"{"flags":{}}"#).expect("it is a flag file")
}

/// Definitions that make sense, and that are within the bound also as they are kept: numbers and texts may be written shorter in a
/// file than there.
fn checked(document: Document) -> Result<Document, FlagFileError> {
    let bytes = document.to_bytes().len();
    if bytes > MAX_FLAGS_BYTES {
        return Err(FlagFileError::TooLargeAsKept { bytes });
    }
    FlagSet::compile(&document).map_err(|refusal: Refusal| FlagsError::from(refusal))?;
    Ok(document)
}

fn yaml(text: &str) -> Result<Document, FlagFileError> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        // Variants are often called on and off, which YAML 1.1 took for booleans.
        strict_booleans: true,
        merge_keys: serde_saphyr::MergeKeyPolicy::Error,
        reject_unsupported_tags: true,
        budget: serde_saphyr::budget! {
            max_documents: 1,
            max_depth: MAX_DEPTH,
            max_nodes: 2 * MAX_VALUES,
            max_events: 4 * MAX_VALUES,
            // An alias is how a small file becomes a large one; $evaluators share rules.
            max_aliases: 0,
        },
    };
    let mut field = String::new();
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|refusal| {
            field = place(refusal.path());
            refusal.into_inner()
        })
    })
    .map_err(|refusal| FlagFileError::Yaml {
        field,
        reason: reason(&refusal),
    })
}

/// `flags.banner.variants: `, as far as it is known; nothing for the document itself.
fn place(path: &serde_path_to_error::Path) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => {
                text.push('[');
                text.push_str(&index.to_string());
                text.push(']');
            }
            Segment::Map { key: name } | Segment::Enum { variant: name } => {
                text.push('.');
                text.push_str(&one_line(name));
            }
            Segment::Unknown => break,
        }
    }
    match text.trim_start_matches('.') {
        "" => String::new(),
        text => format!("{text}: "),
    }
}

fn reason(refusal: &Error) -> String {
    let at = refusal.location().map_or_else(String::new, |at| {
        format!(" at line {}, column {}", at.line(), at.column())
    });
    match refusal.without_snippet() {
        Error::Budget { .. } => format!(
            "too much{at}: write one document of at most {MAX_VALUES} values, {MAX_DEPTH} levels deep, without aliases"
        ),
        other => {
            let words = one_line(&other.render_with_formatter(&UserMessageFormatter));
            words.split_whitespace().collect::<Vec<_>>().join(" ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "
flags:
  beta:
    state: ENABLED
    variants: { on: true, off: false }
    defaultVariant: off
    targeting: { if: [ { in: [ { var: headers.x-plan }, [ pro, team ] ] }, on ] }
";

    fn refused(text: &str) -> String {
        let message = read(text).expect_err("refused").to_string();
        assert!(
            message.starts_with("flags: ") && !message.contains('\n'),
            "{message}"
        );
        message
    }

    #[test]
    fn json_and_yaml_are_the_same_definitions() {
        let json = r#"{ "flags": { "beta": { "state": "ENABLED", "variants": { "on": true, "off": false }, "defaultVariant": "off",
            "targeting": { "if": [{ "in": [{ "var": "headers.x-plan" }, ["pro", "team"]] }, "on"] } } } }"#;
        assert_eq!(read(YAML).expect("YAML"), read(json).expect("JSON"));
        assert_eq!(none().keys().count(), 0);
        checked(none()).expect("flags");
    }

    #[test]
    fn a_refusal_says_where_and_what_would_be_right() {
        let cases = [
            (
                YAML.replace("in:", "log:"),
                &["flags.beta.targeting.if[0].log", "leave it out"][..],
            ),
            (
                YAML.replace("ENABLED", "MAYBE"),
                &["flags.beta.state", "ENABLED or DISABLED"],
            ),
            (YAML.replace("state: ENABLED", "state: ["), &["line"]),
            (
                YAML.replace("state:", "variants: { a: 1 }\n    variants:"),
                &["variants", "line"],
            ),
            (
                "flags:\n  a: &a { state: ENABLED, variants: { on: true } }\n  b: *a\n".to_owned(),
                &["line 3", "without aliases"],
            ),
            (
                YAML.replace("beta:", "<<: { a: b }\n  beta:"),
                &["merge key", "line 3"],
            ),
            ("{ \"flags\": { \"a\": 1 ".to_owned(), &["flags", "line 1"]),
            (
                "{ \"flags\": { \"a\": { \"state\": 1 } } }".to_owned(),
                &["flags.a.state"],
            ),
            ("rollouts: []".to_owned(), &["rollouts", "flags, $evaluators"]),
            ("- a".to_owned(), &["is a list"]),
            (String::new(), &[]),
            ("x".repeat(MAX_FLAGS_BYTES + 1), &["1048577 bytes"]),
            (format!("flags: {}1{}", "[".repeat(80), "]".repeat(80)), &["64"]),
            (
                YAML.replace("pro,", &format!("\"{}\",", r"\a".repeat(200_000))),
                &["as they are kept", "1048576"],
            ),
        ];
        for (text, says) in cases {
            let message = refused(&text);
            assert!(says.iter().all(|part| message.contains(part)), "{message}");
        }
    }
}
