//! The caller in `x-forwarded-client-cert`, which Envoy writes where it, or a proxy before it, terminates mTLS.
//!
//! The form, as Envoy's documentation has it: elements with commas between them, one for each proxy on the way, the last
//! one of the nearest; an element is pairs `Key=Value` with semicolons between them; a value with a comma, semicolon or
//! equals sign in it stands in double quotes, where a backslash takes away the meaning of the character behind it.
//!
//! Who stands in an earlier element may have written what he liked. So the header is read as a whole from its start, and
//! one that does not keep to the form anywhere names nobody: no quote that is left open can hide what a proxy appended.

use crate::peer::SpiffeId;

/// The header's name.
pub const XFCC_HEADER: &str = "x-forwarded-client-cert";
/// Bytes of a header that are read; a longer one names nobody. Envoy takes 60 KiB of headers by default.
pub const MAX_XFCC_BYTES: usize = 64 * 1024;

/// The SPIFFE ID in the last element of a [`XFCC_HEADER`]: the client of the proxy that wrote it. Of several headers of that
/// name the last one is meant.
///
/// None if that element has no `URI` or several (an SVID has one: X509-SVID, section 2), if it is no workload's ID, or if
/// the header is longer than [`MAX_XFCC_BYTES`] or does not keep to its form.
pub fn xfcc_peer(header: &[u8]) -> Option<SpiffeId<'_>> {
    if header.len() > MAX_XFCC_BYTES {
        return None;
    }
    let mut rest = header;
    let mut uris = Uris::None;
    loop {
        let pair = Pair::read(rest)?;
        if pair.key.eq_ignore_ascii_case(b"uri") {
            uris = match uris {
                Uris::None => Uris::One(pair.value),
                Uris::One(_) | Uris::Several => Uris::Several,
            };
        }
        match pair.rest.split_first() {
            None => break,
            Some((b',', next)) => (rest, uris) = (next, Uris::None),
            Some((_, next)) => rest = next,
        }
    }
    match uris {
        // No ID has a character that has to be escaped, so what stands in the quotes is taken as it is.
        Uris::One(uri) => SpiffeId::parse(std::str::from_utf8(uri).ok()?),
        Uris::None | Uris::Several => None,
    }
}

/// What an element has under `URI` up to here.
enum Uris<'a> {
    None,
    One(&'a [u8]),
    Several,
}

/// `Key=Value`, and from its separator on what follows.
struct Pair<'a> {
    key: &'a [u8],
    value: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Pair<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let equals = bytes
            .iter()
            .position(|b| matches!(b, b'=' | b',' | b';' | b'"'))?;
        let (key, after) = bytes.split_at_checked(equals)?;
        let after = after.strip_prefix(b"=")?;
        let (value, rest) = match after.strip_prefix(b"\"") {
            Some(quoted) => split_quoted(quoted)?,
            None => split_bare(after)?,
        };
        Some(Self {
            key: key.trim_ascii(),
            value,
            rest,
        })
    }
}

/// Behind the closing quote comes a separator or the end.
fn split_quoted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut escaped = false;
    let close = bytes.iter().position(|&b| {
        let closes = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        closes
    })?;
    let (value, rest) = bytes.split_at_checked(close)?;
    let rest = rest.get(1..)?.trim_ascii_start();
    matches!(rest.first(), None | Some(b',' | b';')).then_some((value, rest))
}

fn split_bare(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes
        .iter()
        .position(|b| matches!(b, b',' | b';'))
        .unwrap_or(bytes.len());
    let (value, rest) = bytes.split_at_checked(end)?;
    (!value.contains(&b'"')).then_some((value.trim_ascii(), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(header: &str) -> Option<&str> {
        xfcc_peer(header.as_bytes()).map(SpiffeId::as_str)
    }

    #[test]
    fn the_last_elements_uri_is_the_peer() {
        let web = Some("spiffe://d/web");
        for header in [
            "URI=spiffe://d/web",
            "uri=spiffe://d/web",
            "URI=\"spiffe://d/web\"",
            "By=spiffe://d/me;Hash=00;URI=spiffe://d/web",
            "By=spiffe://d/me;By=spiffe://d/me2;Hash=00;Subject=\"\";URI=spiffe://d/web;DNS=a.com;DNS=b.com",
            "By=http://a?b=c;URI=spiffe://d/web",
            "Subject=\"/C=US/CN=a, b; \\\"c\\\",URI=spiffe://d/x\";URI=spiffe://d/web",
            "Subject=\"ends in \\\\\";URI=spiffe://d/web",
            "Cert=\"-----BEGIN%20CERTIFICATE\";URI=spiffe://d/web",
            "By=x;URI=spiffe://d/first,By=y;URI=spiffe://d/web",
            "URI=spiffe://d/first;URI=spiffe://d/second,URI=spiffe://d/web",
            "URI=spiffe://d/first , By=y ; URI=spiffe://d/web",
        ] {
            assert_eq!(peer(header), web, "{header}");
        }
    }

    #[test]
    fn what_names_nobody() {
        for header in [
            "",
            ",",
            "URI",
            "URI=",
            "URI=\"\"",
            "URI=https://d/web",
            "URI=spiffe://d",
            "URI=spiffe://d/web,",
            "URI=spiffe://d/web;",
            "URI=spiffe://d/web,Hash=00",
            "URI=spiffe://d/web;URI=spiffe://d/web",
            "URI=spiffe://d/web;uri=spiffe://d/other",
            "URI=\"spiffe://d/web",
            "URI=\"spiffe://d/web\\\"",
            "URI=\"spiffe://d/w\\eb\"",
            "URI=\"spiffe://d/web\"x",
            "URI=x\"spiffe://d/web\"",
            "\"URI\"=spiffe://d/web",
            "By=a\"b;URI=spiffe://d/web",
            "By=\"open;URI=spiffe://d/web",
            // The first one was the client's: it tries to make its own words of what the proxy appended.
            "By=\",By=me;Subject=\"x,URI=spiffe://d/admin\";URI=spiffe://d/web",
        ] {
            assert_eq!(peer(header), None, "{header}");
        }
        let long = format!("By={};URI=spiffe://d/web", "x".repeat(MAX_XFCC_BYTES));
        assert_eq!(peer(&long), None);
    }

    /// A value as Envoy writes one: quoted where it has to be.
    fn any_value() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-zA-Z0-9/:. ]{0,8}",
            "[a-z,;=\"\\\\ ]{0,8}".prop_map(|text: String| {
                format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
            }),
        ]
    }

    fn any_element() -> impl Strategy<Value = String> {
        let pair = (
            prop::sample::select(vec!["By", "Hash", "Subject", "URI", "DNS"]),
            any_value(),
        );
        prop::collection::vec(pair, 1..5).prop_map(|pairs| {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            pairs.join(";")
        })
    }

    proptest! {
        /// Whatever stands in the elements before it, and in its own other pairs, the one that was appended is read.
        #[test]
        fn what_a_proxy_appends_is_what_is_read(
            before in prop::collection::vec(any_element(), 0..4),
            others in prop::collection::vec((prop::sample::select(vec!["By", "Hash", "Subject", "DNS"]), any_value()), 0..4),
            at: prop::sample::Index,
        ) {
            let mut pairs: Vec<_> = others.iter().map(|(key, value)| format!("{key}={value}")).collect();
            pairs.insert(at.index(pairs.len() + 1), "URI=spiffe://d/web".to_owned());
            let elements: Vec<_> = before.into_iter().chain([pairs.join(";")]).collect();
            let header = elements.join(",");
            prop_assert_eq!(peer(&header), Some("spiffe://d/web"), "{}", header);
        }

        /// Whatever bytes a client puts before it, the appended element's ID is read or none is: never the client's.
        #[test]
        fn no_beginning_makes_another_peer(client in "[a-zA-Z=,;\"\\\\/: ]{0,24}", admin: bool, subject in any_value()) {
            let admin = if admin { "URI=spiffe://d/admin" } else { "" };
            let header = format!("{client}{admin},By=spiffe://d/me;Subject={subject};URI=spiffe://d/web");
            prop_assert!(matches!(peer(&header), None | Some("spiffe://d/web")), "{}", header);
        }

        #[test]
        fn any_bytes_are_read_without_panic(header: Vec<u8>) {
            let _ = xfcc_peer(&header);
        }
    }
}
