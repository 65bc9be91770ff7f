//! The caller's identity.

/// Bytes of a SPIFFE ID (SPIFFE-ID, section 2.3).
pub const MAX_ID_BYTES: usize = 2048;
/// Bytes of a trust domain (SPIFFE-ID, section 2.1).
const MAX_TRUST_DOMAIN_BYTES: usize = 255;
const SCHEME: &str = "spiffe://";

/// A workload's SPIFFE ID (SPIFFE-ID, section 2): a trust domain in lower case and a path of whole segments. Other names
/// that a certificate may have are no such ID, and whoever has one of those has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId<'a>(&'a str);

impl<'a> SpiffeId<'a> {
    /// Reads an ID of at most [`MAX_ID_BYTES`]. A trust domain alone is none: no workload has it.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (_, path) = split(text)?;
        (!path.is_empty()).then_some(Self(text))
    }

    /// As it was read.
    pub fn as_str(self) -> &'a str {
        self.0
    }
}

/// Trust domain and path of an ID whose path may be empty.
pub(crate) fn split(id: &str) -> Option<(&str, &str)> {
    if id.len() > MAX_ID_BYTES {
        return None;
    }
    let rest = id.strip_prefix(SCHEME)?;
    let (trust_domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let named = (1..=MAX_TRUST_DOMAIN_BYTES).contains(&trust_domain.len())
        && trust_domain
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'));
    // What stands before the first slash is nothing.
    let whole = path.split('/').skip(1).all(is_segment);
    (named && whole).then_some((trust_domain, path))
}

fn is_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_a_trust_domain_and_a_path_of_whole_segments() {
        let longest = format!("spiffe://a/{}", "b".repeat(MAX_ID_BYTES - 11));
        for id in [
            "spiffe://a/b",
            "spiffe://example.org/ns/shop/sa/web-1_2.3",
            &longest,
        ] {
            assert_eq!(SpiffeId::parse(id).map(SpiffeId::as_str), Some(id));
        }
        let domain = format!("spiffe://{}/b", "a".repeat(MAX_TRUST_DOMAIN_BYTES + 1));
        for other in [
            "",
            "CN=web",
            "spiffe://",
            "spiffe:///b",
            "spiffe://a",
            "spiffe://a/",
            "spiffe://a/b/",
            "spiffe://a//b",
            "spiffe://a/./b",
            "spiffe://a/../b",
            "spiffe://a/b c",
            "spiffe://a/b%41",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/*",
            "spiffe://A/b",
            "spiffe://a:1/b",
            "spiffe://u@a/b",
            "SPIFFE://a/b",
            "https://a/b",
            " spiffe://a/b",
            "spiffe://a/b\n",
            "spiffe://a/\u{e4}",
            &format!("{longest}b"),
            &domain,
        ] {
            assert_eq!(SpiffeId::parse(other), None, "{other}");
        }
    }
}
