//! Host patterns, and the host of a request.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::error::{Fault, FieldError, within};
use crate::limits::{MAX_HOST_BYTES, MAX_HOST_LABEL_BYTES};
use knhk_flags::message::quoted;

/// A host pattern, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HostPattern {
    /// This host.
    Exact(Box<str>),
    /// Every host that ends in a dot and this, with something before the dot.
    Suffix(Box<str>),
}

impl HostPattern {
    pub(crate) fn parse(field: &str, text: &str) -> Result<Self, FieldError> {
        within(field, text.len(), MAX_HOST_BYTES, "bytes")?;
        let lower = text.to_ascii_lowercase();
        if let Some(suffix) = lower.strip_prefix("*.") {
            check_name(field, text, suffix)?;
            if suffix.parse::<Ipv4Addr>().is_ok() {
                return Err(never(field, text, "there is no name below an address"));
            }
            return Ok(Self::Suffix(suffix.into()));
        }
        if let Some(address) = lower.strip_prefix('[') {
            let Some(address) = address.strip_suffix(']') else {
                return Err(bad(
                    field,
                    text,
                    "write an IPv6 address as [2001:db8::1], without a port",
                ));
            };
            if address.parse::<Ipv6Addr>().is_err() {
                return Err(bad(field, text, "there is no IPv6 address in the brackets"));
            }
        } else if lower.parse::<Ipv6Addr>().is_ok() {
            return Err(bad(
                field,
                text,
                "an IPv6 address stands in brackets, as in [2001:db8::1]",
            ));
        } else {
            check_name(field, text, &lower)?;
        }
        Ok(Self::Exact(lower.into()))
    }

    /// Whether a request's host, as [`Host::of`] gives it, satisfies this.
    pub(crate) fn holds(&self, host: &[u8]) -> bool {
        match self {
            Self::Exact(name) => host == name.as_bytes(),
            Self::Suffix(suffix) => host
                .strip_suffix(suffix.as_bytes())
                .and_then(|front| front.strip_suffix(b"."))
                .is_some_and(|front| !front.is_empty()),
        }
    }

    /// As it is written.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Exact(name) => name.to_string(),
            Self::Suffix(suffix) => format!("*.{suffix}"),
        }
    }
}

fn check_name(field: &str, text: &str, name: &str) -> Result<(), FieldError> {
    if name == "*" || name.is_empty() {
        return Err(bad(
            field,
            text,
            "leave hosts out for any host, or write *.example.com",
        ));
    }
    if name.contains('*') {
        return Err(bad(
            field,
            text,
            "a star may only stand first, as in *.example.com",
        ));
    }
    if let Some((host, port)) = name.rsplit_once(':')
        && !port.is_empty()
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        return Err(never(
            field,
            text,
            &format!("ports are ignored: write {}", quoted(host)),
        ));
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err(bad(
                field,
                text,
                "there is nothing between two dots, or before or after one",
            ));
        }
        within(field, label.len(), MAX_HOST_LABEL_BYTES, "bytes between two dots")?;
        if !label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        {
            return Err(bad(
                field,
                text,
                "a host has letters, digits, '-', '_' and dots; write others in punycode",
            ));
        }
    }
    Ok(())
}

fn bad(field: &str, text: &str, why: &str) -> FieldError {
    FieldError::new(
        field,
        Fault::BadForm,
        format!("{} is no host: {why}", quoted(text)),
    )
}

fn never(field: &str, text: &str, why: &str) -> FieldError {
    FieldError::new(
        field,
        Fault::NeverMatches,
        format!("{} can never match: {why}", quoted(text)),
    )
}

/// A request's host without its port, in lower case, and without an allocation.
pub struct Host<'a> {
    given: &'a [u8],
    lower: Option<[u8; MAX_HOST_BYTES]>,
}

impl<'a> Host<'a> {
    /// The host of an authority. One that is too long to be a name is empty: no pattern names it.
    pub fn of(authority: &'a [u8]) -> Self {
        let given = without_port(authority);
        let given = if given.len() > MAX_HOST_BYTES { &[] } else { given };
        if !given.iter().any(u8::is_ascii_uppercase) {
            return Self { given, lower: None };
        }
        let mut lower = [0; MAX_HOST_BYTES];
        for (to, from) in lower.iter_mut().zip(given) {
            *to = from.to_ascii_lowercase();
        }
        Self {
            given,
            lower: Some(lower),
        }
    }

    /// The host, which is what patterns are compared with.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.lower {
            Some(lower) => lower.get(..self.given.len()).unwrap_or_default(),
            None => self.given,
        }
    }
}

/// `host`, `host:`, `host:80`, `[::1]`, `[::1]:80`. What is none of these is left as it is.
fn without_port(authority: &[u8]) -> &[u8] {
    let Some(colon) = authority.iter().rposition(|&b| b == b':') else {
        return authority;
    };
    let (host, port) = authority.split_at(colon);
    let in_brackets = host.first() == Some(&b'[') && host.last() == Some(&b']');
    let digits = port.iter().skip(1).all(u8::is_ascii_digit);
    if digits && (in_brackets || !host.contains(&b':')) {
        host
    } else {
        authority
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(authority: &str) -> String {
        String::from_utf8_lossy(Host::of(authority.as_bytes()).as_bytes()).into_owned()
    }

    #[test]
    fn case_and_port_do_not_count() {
        for (authority, expected) in [
            ("Shop.Example.com:8443", "shop.example.com"),
            ("shop.example.com", "shop.example.com"),
            ("shop.example.com:", "shop.example.com"),
            ("[2001:DB8::1]:80", "[2001:db8::1]"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
            ("10.0.0.1:80", "10.0.0.1"),
            ("", ""),
            (":80", ""),
            ("::1", "::1"),
            ("host:http", "host:http"),
        ] {
            assert_eq!(host(authority), expected, "{authority}");
        }
    }

    #[test]
    fn a_host_longer_than_a_name_is_none() {
        assert_eq!(host(&"a".repeat(MAX_HOST_BYTES)).len(), MAX_HOST_BYTES);
        assert_eq!(host(&"a".repeat(MAX_HOST_BYTES + 1)), "");
        assert_eq!(
            host(&format!("{}:80", "A".repeat(MAX_HOST_BYTES))),
            "a".repeat(MAX_HOST_BYTES)
        );
    }

    #[test]
    fn a_suffix_wants_something_before_its_dot() {
        let suffix = HostPattern::parse("hosts[0]", "*.Example.com").expect("a pattern");
        for host in ["a.example.com", "b.a.example.com"] {
            assert!(suffix.holds(host.as_bytes()), "{host}");
        }
        for host in ["example.com", ".example.com", "aexample.com", "a.example.com.org"] {
            assert!(!suffix.holds(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn refusals_say_what_to_write() {
        for (text, says) in [
            ("*", "leave hosts out"),
            ("*.", "leave hosts out"),
            ("", "leave hosts out"),
            ("a.*.com", "star may only stand first"),
            ("a.com:80", "ports are ignored: write \"a.com\""),
            ("[::1]:80", "without a port"),
            ("[zz]", "no IPv6 address"),
            ("::1", "stands in brackets"),
            ("a..com", "between two dots"),
            ("a.com.", "between two dots"),
            ("a/b", "letters, digits"),
            ("m\u{fc}ller.de", "punycode"),
            ("*.10.0.0.1", "no name below an address"),
        ] {
            let error = HostPattern::parse("match.hosts[0]", text).expect_err(text);
            assert!(error.reason.contains(says), "{text}: {}", error.reason);
        }
        let long = HostPattern::parse("match.hosts[0]", &"a".repeat(64)).expect_err("a long label");
        assert!(long.reason.contains("bound of 63"), "{}", long.reason);
    }
}
