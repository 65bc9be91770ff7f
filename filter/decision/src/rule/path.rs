//! Path patterns, and the path of a request.

use std::fmt;

use crate::error::{Fault, FieldError, within};
use crate::limits::{MAX_PATH_BYTES, MAX_PATH_SEGMENTS};
use knhk_flags::message::quoted;

/// A path pattern.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PathPattern {
    /// Every path, one that does not begin with a slash included.
    Any,
    /// These whole segments, and whatever follows. Begins with a slash and does not end in one.
    Prefix(Box<str>),
    /// Exactly this. Begins with a slash.
    Exact(Box<str>),
}

impl PathPattern {
    /// The pattern of a match that may give an exact path, a prefix, or both.
    pub(crate) fn parse(path: Option<&str>, prefix: Option<&str>) -> Result<Self, FieldError> {
        let prefix = match prefix {
            None => Self::Any,
            Some(text) => Self::prefix(text)?,
        };
        let Some(text) = path else { return Ok(prefix) };
        check("match.path", text)?;
        if !prefix.holds(text.as_bytes()) {
            let reason = format!(
                "{} lies outside match.pathPrefix: leave out one of them",
                quoted(text)
            );
            return Err(FieldError::new("match.path", Fault::NeverMatches, reason));
        }
        Ok(Self::Exact(text.into()))
    }

    fn prefix(text: &str) -> Result<Self, FieldError> {
        check("match.pathPrefix", text)?;
        match text.strip_suffix('/').unwrap_or(text) {
            "" => Ok(Self::Any),
            prefix => Ok(Self::Prefix(prefix.into())),
        }
    }

    /// Whether a request's path, as [`without_query`] gives it, satisfies this.
    pub(crate) fn holds(&self, path: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => path == exact.as_bytes(),
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_bytes())
                .is_some_and(|rest| rest.first().is_none_or(|&next| next == b'/')),
        }
    }

    /// What of two patterns that both hold for one path decides: the longer one, and of equal ones the exact one.
    pub(crate) fn rank(&self) -> (usize, bool) {
        match self {
            Self::Any => (0, false),
            Self::Prefix(prefix) => (prefix.len(), false),
            Self::Exact(exact) => (exact.len(), true),
        }
    }
}

/// As evidence names it: `/api` is the prefix, `=/api` the exact path, `/` every path.
impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("/"),
            Self::Prefix(prefix) => f.write_str(prefix),
            Self::Exact(exact) => write!(f, "={exact}"),
        }
    }
}

/// The path up to its query or fragment.
pub(crate) fn without_query(path: &[u8]) -> &[u8] {
    let end = path
        .iter()
        .position(|&b| b == b'?' || b == b'#')
        .unwrap_or(path.len());
    path.get(..end).unwrap_or_default()
}

/// Refuses what no request's path can be once the proxy has normalised it.
fn check(field: &str, text: &str) -> Result<(), FieldError> {
    within(field, text.len(), MAX_PATH_BYTES, "bytes")?;
    let bad = |why: &str| {
        let reason = format!("{} can never match: {why}", quoted(text));
        Err(FieldError::new(field, Fault::NeverMatches, reason))
    };
    let Some(segments) = text.strip_prefix('/') else {
        return bad("a path begins with a slash");
    };
    if text.contains(['?', '#']) {
        return bad("the query is not part of the path");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return bad(
            "a path has no spaces and only ASCII; write others percent-encoded, as clients send them",
        );
    }
    within(field, segments.split('/').count(), MAX_PATH_SEGMENTS, "segments")?;
    // One empty segment at the end is a trailing slash.
    let inner = segments.strip_suffix('/').unwrap_or(segments);
    if !segments.is_empty() && inner.split('/').any(str::is_empty) {
        return bad("there is nothing between two slashes");
    }
    if segments
        .split('/')
        .any(|segment| segment == "." || segment == "..")
    {
        return bad("proxies resolve . and .. before they match; write the path that results");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> PathPattern {
        PathPattern::parse(None, Some(text)).expect("a prefix")
    }

    fn exact(text: &str) -> PathPattern {
        PathPattern::parse(Some(text), None).expect("a path")
    }

    #[test]
    fn a_prefix_means_whole_segments_and_its_trailing_slash_nothing() {
        assert_eq!(prefix("/api"), prefix("/api/"));
        for path in ["/api", "/api/", "/api/x", "/api//x"] {
            assert!(prefix("/api").holds(path.as_bytes()), "{path}");
        }
        for path in ["/apix", "/ap", "/", "", "api", "/API", "/x/api"] {
            assert!(!prefix("/api").holds(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn the_root_prefix_is_every_path() {
        for path in ["/", "/x", "*", ""] {
            assert!(prefix("/").holds(path.as_bytes()), "{path}");
        }
        assert_eq!(PathPattern::parse(None, None).expect("any path"), prefix("/"));
    }

    #[test]
    fn an_exact_path_is_byte_for_byte() {
        assert!(exact("/api").holds(b"/api"));
        assert!(!exact("/api").holds(b"/api/"));
        assert!(exact("/api/").holds(b"/api/"));
        assert!(!exact("/api/").holds(b"/api"));
        assert!(exact("/").holds(b"/"));
        assert!(!exact("/").holds(b"/x"));
    }

    #[test]
    fn the_query_and_the_fragment_are_cut_off() {
        assert_eq!(without_query(b"/a?b=/c#d"), b"/a");
        assert_eq!(without_query(b"/a#b?c"), b"/a");
        assert_eq!(without_query(b"/a"), b"/a");
        assert_eq!(without_query(b""), b"");
    }

    #[test]
    fn an_exact_path_lies_inside_its_prefix() {
        assert_eq!(
            PathPattern::parse(Some("/a/b"), Some("/a/")).expect("inside"),
            exact("/a/b")
        );
        let error = PathPattern::parse(Some("/ab"), Some("/a")).expect_err("outside");
        assert!(
            error.reason.contains("outside match.pathPrefix"),
            "{}",
            error.reason
        );
    }

    #[test]
    fn refusals_say_why() {
        for (text, says) in [
            ("", "begins with a slash"),
            ("api", "begins with a slash"),
            ("/a?b", "query is not part"),
            ("/a#b", "query is not part"),
            ("/a b", "no spaces"),
            ("/\u{e9}", "percent-encoded"),
            ("//", "between two slashes"),
            ("/a//b", "between two slashes"),
            ("/a//", "between two slashes"),
            ("/a/../b", "resolve"),
            ("/.", "resolve"),
        ] {
            for parsed in [
                PathPattern::parse(Some(text), None),
                PathPattern::parse(None, Some(text)),
            ] {
                let error = parsed.expect_err(text);
                assert!(error.reason.contains(says), "{text}: {}", error.reason);
            }
        }
        let long =
            PathPattern::parse(None, Some(&format!("/{}", "a".repeat(MAX_PATH_BYTES)))).expect_err("long");
        assert!(long.reason.contains("bound of 1024"), "{}", long.reason);
        let deep = PathPattern::parse(None, Some(&"/a".repeat(MAX_PATH_SEGMENTS + 1))).expect_err("deep");
        assert!(deep.reason.contains("bound of 32"), "{}", deep.reason);
    }
}
