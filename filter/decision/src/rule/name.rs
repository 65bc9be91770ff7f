//! The forms that names have.

use crate::error::{Fault, FieldError, within};
use crate::headers;
use crate::limits::{MAX_HEADER_NAME_BYTES, MAX_NAME_BYTES, MAX_SALT_BYTES, MAX_VERSION_BYTES};
use knhk_flags::message::quoted;

/// A rollout's name is a DNS label: it goes into headers, metrics and URLs.
pub(crate) fn check_rollout(name: &str) -> Result<(), FieldError> {
    within("name", name.len(), MAX_NAME_BYTES, "bytes")?;
    let inner = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if name.is_empty() || !inner || name.starts_with('-') || name.ends_with('-') {
        let reason = format!(
            "{} is no name: write lower-case letters, digits and '-', a letter or digit at both ends",
            quoted(name)
        );
        return Err(FieldError::new("name", Fault::BadForm, reason));
    }
    Ok(())
}

/// The name of a version: visible ASCII, as it goes into tables and logs.
pub(crate) fn check_version(field: &str, version: &str) -> Result<(), FieldError> {
    within(field, version.len(), MAX_VERSION_BYTES, "bytes")?;
    if version.is_empty() || !version.bytes().all(|b| b.is_ascii_graphic()) {
        let reason = format!(
            "{} is no version: write visible ASCII without spaces, as in v42",
            quoted(version)
        );
        return Err(FieldError::new(field, Fault::BadForm, reason));
    }
    Ok(())
}

/// A salt ends where its zero byte stands, so it may not have one inside.
pub(crate) fn check_salt(salt: &str) -> Result<(), FieldError> {
    within("salt", salt.len(), MAX_SALT_BYTES, "bytes")?;
    if salt.is_empty() || salt.chars().any(char::is_control) {
        let reason = format!(
            "{} is no salt: write some text without control characters",
            quoted(salt)
        );
        return Err(FieldError::new("salt", Fault::BadForm, reason));
    }
    Ok(())
}

/// The name of a request header, in lower case.
pub(crate) fn parse_header(field: &str, name: &str) -> Result<Box<str>, FieldError> {
    within(field, name.len(), MAX_HEADER_NAME_BYTES, "bytes")?;
    let lower = name.to_ascii_lowercase();
    let refuse = |fault, why: &str| Err(FieldError::new(field, fault, format!("{} {why}", quoted(name))));
    if lower.starts_with(':') || lower == "host" {
        return refuse(
            Fault::BadForm,
            "is no header here: use hosts, path, pathPrefix or methods",
        );
    }
    if !is_token(&lower) {
        return refuse(
            Fault::BadForm,
            "is no header name: write letters, digits and '-', as in x-user-id",
        );
    }
    if lower.starts_with(headers::PREFIX) {
        return refuse(
            Fault::NeverMatches,
            "is never there: x-knhk- headers are removed before anything is decided",
        );
    }
    Ok(lower.into())
}

/// A token as HTTP has it: what header, method and cookie names are made of.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
