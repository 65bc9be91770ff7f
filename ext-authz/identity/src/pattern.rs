//! Patterns for SPIFFE IDs and for hosts.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use spiffe::{SpiffeId, TrustDomain};
use thiserror::Error;

/// Longest SPIFFE ID or pattern, in bytes (SPIFFE-ID, section 2.3).
pub const MAX_ID_BYTES: usize = 2048;
/// Longest host pattern, in bytes (RFC 1035, section 2.3.4).
pub const MAX_HOST_BYTES: usize = 253;
/// Longest part of a host between two dots, in bytes (RFC 1035, section 2.3.4).
const MAX_LABEL_BYTES: usize = 63;

/// Which SPIFFE IDs are meant: one, or all below a path of a trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdPattern(Ids);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Ids {
    Exact(SpiffeId),
    /// `path` is empty for a whole trust domain, else it begins with `/` and ends with a whole segment.
    Below {
        trust_domain: TrustDomain,
        path: String,
    },
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{text}` {why}")]
pub struct PatternError {
    text: String,
    why: &'static str,
}

impl PatternError {
    /// `text` is the user's; what is shown of it is bounded.
    fn new(text: &str, why: &'static str) -> Self {
        const SHOWN: usize = 100;
        let shown = text.chars().take(SHOWN).flat_map(char::escape_default).collect();
        Self { text: shown, why }
    }
}

impl IdPattern {
    /// Whether `id` is one of those that are meant.
    pub fn holds(&self, id: &SpiffeId) -> bool {
        match &self.0 {
            Ids::Exact(exact) => exact == id,
            Ids::Below { trust_domain, path } => {
                id.is_member_of(trust_domain)
                    && id
                        .path()
                        .strip_prefix(path.as_str())
                        .is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
            }
        }
    }

    /// The trust domain of all IDs that are meant.
    pub fn trust_domain(&self) -> &TrustDomain {
        match &self.0 {
            Ids::Exact(id) => id.trust_domain(),
            Ids::Below { trust_domain, .. } => trust_domain,
        }
    }
}

/// `spiffe://example.org/ns/prod/sa/web` is one ID; `spiffe://example.org/ns/prod/*` is every ID below that path, by
/// whole segments, however deep; `spiffe://example.org/*` is the whole trust domain.
impl FromStr for IdPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let bad = |why| Err(PatternError::new(text, why));
        if text.len() > MAX_ID_BYTES {
            return bad("is too long; a SPIFFE ID has at most 2048 bytes");
        }
        let (id, below) = match text.strip_suffix("/*") {
            Some(front) => (front, true),
            None => (text, false),
        };
        if id.contains('*') {
            return bad(
                "has a star that is not its last segment; write for example spiffe://example.org/ns/prod/*",
            );
        }
        let Ok(id) = SpiffeId::new(id) else {
            return bad("is not a SPIFFE ID; write for example spiffe://example.org/ns/prod/sa/web");
        };
        Ok(Self(match (below, id.path()) {
            (true, path) => Ids::Below {
                trust_domain: id.trust_domain().clone(),
                path: path.to_owned(),
            },
            (false, "") => {
                return bad(
                    "has no path; name a workload, or write spiffe://example.org/* for a whole trust domain",
                );
            }
            (false, _) => Ids::Exact(id),
        }))
    }
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ids::Exact(id) => write!(f, "{id}"),
            Ids::Below { trust_domain, path } => write!(f, "spiffe://{trust_domain}{path}/*"),
        }
    }
}

/// Which hosts are meant. The same patterns as a rollout's `match.hosts` has, and `*` for every host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern(Names);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Names {
    Every,
    Exact(String),
    /// Every host that ends in a dot and this, with something before the dot.
    Below(String),
}

impl HostPattern {
    /// `*`.
    pub fn every() -> Self {
        Self(Names::Every)
    }

    /// Whether `host`, without a port and in any case, is one of those that are meant.
    pub fn holds(&self, host: &str) -> bool {
        match &self.0 {
            Names::Every => true,
            Names::Exact(name) => name.eq_ignore_ascii_case(host),
            Names::Below(suffix) => is_below(host, suffix),
        }
    }

    /// Whether every host that `other` means is meant by this one.
    pub fn covers(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Names::Every, _) => true,
            (_, Names::Every) | (Names::Exact(_), Names::Below(_)) => false,
            (_, Names::Exact(name)) => self.holds(name),
            (Names::Below(mine), Names::Below(theirs)) => mine == theirs || is_below(theirs, mine),
        }
    }

    /// Whether some host is meant by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        // Of two patterns either one holds the other or they have nothing in common.
        self.covers(other) || other.covers(self)
    }
}

fn is_below(host: &str, suffix: &str) -> bool {
    // Bytes, because `host` comes from outside and a cut through a character must not panic.
    let (host, suffix) = (host.as_bytes(), suffix.as_bytes());
    let Some(front) = host
        .len()
        .checked_sub(suffix.len() + 1)
        .filter(|front| *front > 0)
    else {
        return false;
    };
    host[front] == b'.' && host[front + 1..].eq_ignore_ascii_case(suffix)
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let bad = |why| Err(PatternError::new(text, why));
        if text.len() > MAX_HOST_BYTES {
            return bad("is too long; a host has at most 253 bytes");
        }
        let lower = text.to_ascii_lowercase();
        if lower == "*" {
            return Ok(Self(Names::Every));
        }
        if let Some(suffix) = lower.strip_prefix("*.") {
            if suffix.parse::<Ipv4Addr>().is_ok() {
                return bad("can never match: there is no name below an address");
            }
            return match name_fault(suffix) {
                Some(why) => bad(why),
                None => Ok(Self(Names::Below(suffix.to_owned()))),
            };
        }
        if let Some(address) = lower.strip_prefix('[') {
            let address = address.strip_suffix(']').map(str::parse::<Ipv6Addr>);
            return match address {
                Some(Ok(_)) => Ok(Self(Names::Exact(lower))),
                _ => bad("is not a host; write an IPv6 address as [2001:db8::1], without a port"),
            };
        }
        match name_fault(&lower) {
            Some(why) => bad(why),
            None => Ok(Self(Names::Exact(lower))),
        }
    }
}

fn name_fault(name: &str) -> Option<&'static str> {
    if name.contains('*') {
        return Some("has a star that does not stand first; write *.example.com, or * for every host");
    }
    if name.contains(':') {
        return Some("is not a host: leave the port out, and write an IPv6 address as [2001:db8::1]");
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Some("is not a host: there is nothing between two dots, or before or after one");
        }
        if label.len() > MAX_LABEL_BYTES {
            return Some("is not a host: more than 63 bytes between two dots");
        }
        if !label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        {
            return Some(
                "is not a host: it has letters, digits, '-', '_' and dots; write others in punycode",
            );
        }
    }
    None
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Names::Every => f.write_str("*"),
            Names::Exact(name) => f.write_str(name),
            Names::Below(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> IdPattern {
        text.parse().expect("a pattern")
    }

    fn id(text: &str) -> SpiffeId {
        SpiffeId::new(text).expect("an ID")
    }

    #[test]
    fn a_path_is_matched_by_whole_segments() {
        let prod = pattern("spiffe://example.org/ns/prod/*");
        for (text, held) in [
            ("spiffe://example.org/ns/prod/web", true),
            ("spiffe://example.org/ns/prod/sa/web", true),
            ("spiffe://EXAMPLE.org/ns/prod/web", true),
            ("spiffe://example.org/ns/prod", false),
            ("spiffe://example.org/ns/production/web", false),
            ("spiffe://example.org/ns/PROD/web", false),
            ("spiffe://example.org.evil/ns/prod/web", false),
            ("spiffe://other.org/ns/prod/web", false),
        ] {
            assert_eq!(prod.holds(&id(text)), held, "{text}");
        }
        let all = pattern("spiffe://example.org/*");
        assert!(all.holds(&id("spiffe://example.org/a")));
        assert!(!all.holds(&id("spiffe://example.org")), "no workload has that ID");
    }

    #[test]
    fn what_is_no_pattern_is_refused_in_one_line() {
        let long = format!("spiffe://example.org/{}", "a".repeat(MAX_ID_BYTES));
        for text in [
            "",
            "*",
            "example.org/web",
            "https://example.org/web",
            "spiffe://example.org",
            "spiffe://example.org/",
            "spiffe:///web",
            "spiffe:///*",
            "spiffe://*/web",
            "spiffe://example.org/*/web",
            "spiffe://example.org/web*",
            "spiffe://example.org/a/../b",
            "spiffe://example.org//*",
            "spiffe://example.org/a b",
            "spiffe://example.org:8080/a",
            "spiffe://example.org/a\nb",
            &long,
        ] {
            let message = text.parse::<IdPattern>().expect_err(text).to_string();
            assert!(!message.contains('\n') && message.len() < 400, "{message}");
        }
    }

    #[test]
    fn a_host_is_exact_or_below() {
        let below: HostPattern = "*.Shop.example".parse().expect("a pattern");
        for (host, held) in [
            ("a.shop.example", true),
            ("A.B.SHOP.EXAMPLE", true),
            ("shop.example", false),
            (".shop.example", false),
            ("ashop.example", false),
            ("a.shop.example.evil", false),
            ("é.shop.example", true),
            ("éshop.example", false),
        ] {
            assert_eq!(below.holds(host), held, "{host}");
        }
        for text in [
            "",
            "a..b",
            "*.",
            "*.*",
            "a.*",
            "a:80",
            "::1",
            "[::1",
            "*.10.0.0.1",
            "a b",
            "ä.de",
        ] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }

    fn segment() -> impl Strategy<Value = String> {
        "[a-zA-Z0-9_-]{1,4}"
    }

    fn path() -> impl Strategy<Value = Vec<String>> {
        prop::collection::vec(segment(), 1..5)
    }

    fn host_text() -> impl Strategy<Value = String> {
        prop_oneof![Just("*".to_owned()), "(\\*\\.)?[ab](\\.[ab]){0,3}",]
    }

    proptest! {
        /// The pattern against the definition: same trust domain, and the pattern's segments are a strict prefix.
        #[test]
        fn below_is_a_strict_prefix_of_segments(front in path(), other in path(), same in any::<bool>()) {
            let full: Vec<String> = if same { front.iter().chain(&other).cloned().collect() } else { other };
            let prefix = pattern(&format!("spiffe://example.org/{}/*", front.join("/")));
            let expected = full.len() > front.len() && full[..front.len()] == front[..];
            prop_assert_eq!(prefix.holds(&id(&format!("spiffe://example.org/{}", full.join("/")))), expected);
        }

        #[test]
        fn an_exact_pattern_holds_its_own_id_only(a in path(), b in path()) {
            let text = format!("spiffe://example.org/{}", a.join("/"));
            prop_assert!(pattern(&text).holds(&id(&text)));
            prop_assert_eq!(pattern(&text).holds(&id(&format!("spiffe://example.org/{}", b.join("/")))), a == b);
        }

        #[test]
        fn a_pattern_is_written_as_it_is_read(segments in path(), below in any::<bool>()) {
            let text = format!("spiffe://example.org/{}{}", segments.join("/"), if below { "/*" } else { "" });
            prop_assert_eq!(pattern(&text).to_string(), text);
        }

        #[test]
        fn no_text_panics(text in any::<String>(), host in any::<String>()) {
            let _ = text.parse::<IdPattern>();
            if let Ok(pattern) = text.parse::<HostPattern>() {
                pattern.holds(&host);
            }
            let below: HostPattern = "*.a.b".parse().expect("a pattern");
            below.holds(&host);
        }

        /// Covering and overlapping mean what they say of single hosts.
        #[test]
        fn host_patterns_agree_with_their_hosts(a in host_text(), b in host_text(), host in "[ab](\\.[ab]){0,4}") {
            let (a, b): (HostPattern, HostPattern) = (a.parse().expect("one"), b.parse().expect("one"));
            if a.covers(&b) && b.holds(&host) {
                prop_assert!(a.holds(&host));
            }
            if a.holds(&host) && b.holds(&host) {
                prop_assert!(a.overlaps(&b));
            }
        }
    }
}
