//! The chain of keys: which part of a request makes it stick to a variant.

use std::borrow::Cow;

use crate::bucket::{Hashed, KeyHash};
use crate::error::{Fault, FieldError, within};
use crate::facts::Facts;
use crate::limits::{MAX_KEY_NAME_BYTES, MAX_KEYS};
use crate::rule::name;
use crate::spec::KeySpec;
use knhk_flags::message::quoted;

/// Where the request ID stands.
const REQUEST_ID: &str = "x-request-id";
/// Characters of a request ID that is a UUID.
const UUID_LEN: usize = 36;
/// The character of a UUID that Envoy's tracing rewrites to carry its sampling decision.
const TRACE_NIBBLE: usize = 14;

/// One place where a key may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Header(Box<str>),
    Cookie(Box<str>),
    Query(Box<str>),
    PeerSpiffeId,
    RequestId,
}

impl Key {
    /// A chain with at least one key, and none that an earlier one makes useless.
    pub(crate) fn parse_chain(chain: &[KeySpec]) -> Result<Box<[Self]>, FieldError> {
        within("key", chain.len(), MAX_KEYS, "keys")?;
        if chain.is_empty() {
            let reason =
                "no key, so every request would go to stable: give at least one, as in {header: x-user-id}";
            return Err(FieldError::new("key", Fault::NeverMatches, reason));
        }
        let mut keys = Vec::with_capacity(chain.len());
        for (i, spec) in chain.iter().enumerate() {
            let key = Self::parse(i, spec)?;
            if keys.contains(&key) {
                let reason = "is there twice, and the second can never be used: keep one";
                return Err(FieldError::new(format!("key[{i}]"), Fault::Duplicate, reason));
            }
            keys.push(key);
        }
        Ok(keys.into())
    }

    fn parse(i: usize, spec: &KeySpec) -> Result<Self, FieldError> {
        match spec {
            KeySpec::Header(header) => {
                let field = format!("key[{i}].header");
                let header = name::parse_header(&field, header)?;
                if &*header == REQUEST_ID {
                    let reason = "tracing rewrites a part of x-request-id on the way: write {requestId: {}}";
                    return Err(FieldError::new(field, Fault::BadForm, reason));
                }
                Ok(Self::Header(header))
            }
            KeySpec::Cookie(cookie) => {
                let field = format!("key[{i}].cookie");
                within(field.as_str(), cookie.len(), MAX_KEY_NAME_BYTES, "bytes")?;
                if !name::is_token(cookie) {
                    let reason = format!("{} is no cookie name: write one as in session", quoted(cookie));
                    return Err(FieldError::new(field, Fault::BadForm, reason));
                }
                Ok(Self::Cookie(cookie.as_str().into()))
            }
            KeySpec::Query(parameter) => {
                let field = format!("key[{i}].query");
                within(field.as_str(), parameter.len(), MAX_KEY_NAME_BYTES, "bytes")?;
                if parameter.is_empty() || parameter.chars().any(char::is_control) {
                    let reason = format!("{} is no parameter name: write one as in uid", quoted(parameter));
                    return Err(FieldError::new(field, Fault::BadForm, reason));
                }
                Ok(Self::Query(parameter.as_str().into()))
            }
            KeySpec::PeerSpiffeId {} => Ok(Self::PeerSpiffeId),
            KeySpec::RequestId {} => Ok(Self::RequestId),
        }
    }

    /// The hash of the request's key here, if it has one.
    pub(crate) fn hash(&self, salt: &str, facts: &impl Facts) -> Option<Hashed> {
        match self {
            Self::Header(name) => whole(salt, facts.header(name)?),
            Self::Cookie(name) => whole(salt, cookie(facts.header("cookie")?, name.as_bytes())?),
            Self::Query(name) => decoded(salt, parameter(facts.path(), name)?),
            Self::PeerSpiffeId => whole(salt, facts.peer_spiffe_id()?.as_str().as_bytes()),
            Self::RequestId => request_id(salt, facts.header(REQUEST_ID)?),
        }
    }
}

impl Key {
    /// The request's key here, if it has one: what [`Key::hash`] hashes.
    pub(crate) fn value<'f>(&self, facts: &'f impl Facts) -> Option<Cow<'f, [u8]>> {
        let value = match self {
            Self::Header(name) => Cow::Borrowed(facts.header(name)?),
            Self::Cookie(name) => Cow::Borrowed(cookie(facts.header("cookie")?, name.as_bytes())?),
            Self::Query(name) => match parameter(facts.path(), name)? {
                plain if !is_encoded(plain) => Cow::Borrowed(plain),
                encoded => Cow::Owned(Decoded(encoded).collect()),
            },
            Self::PeerSpiffeId => Cow::Borrowed(facts.peer_spiffe_id()?.as_str().as_bytes()),
            Self::RequestId => match facts.header(REQUEST_ID)? {
                id if id.len() == UUID_LEN => {
                    let mut id = id.to_vec();
                    *id.get_mut(TRACE_NIBBLE)? = b'0';
                    Cow::Owned(id)
                }
                id => Cow::Borrowed(id),
            },
        };
        (!value.is_empty()).then_some(value)
    }

    /// The bytes that are looked through for it, which may be many.
    pub(crate) fn searched(&self, facts: &impl Facts) -> usize {
        match self {
            Self::Cookie(_) => facts.header("cookie").map_or(0, <[u8]>::len),
            Self::Query(_) => facts.path().len(),
            Self::Header(_) | Self::PeerSpiffeId | Self::RequestId => 0,
        }
    }
}

fn whole(salt: &str, key: &[u8]) -> Option<Hashed> {
    if key.is_empty() {
        return None;
    }
    let mut hash = KeyHash::new(salt);
    hash.push(key);
    Some(hash.finish())
}

/// The bucket of an `x-request-id`: as [`crate::bucket()`], with the nibble that tracing rewrites read as `0`. None of an
/// empty one.
pub fn request_id_bucket(salt: &str, id: &[u8]) -> Option<u32> {
    request_id(salt, id).map(Hashed::bucket)
}

fn request_id(salt: &str, id: &[u8]) -> Option<Hashed> {
    if id.len() != UUID_LEN {
        return whole(salt, id);
    }
    let (before, rest) = id.split_at_checked(TRACE_NIBBLE)?;
    let mut hash = KeyHash::new(salt);
    hash.push(before);
    hash.push(b"0");
    hash.push(rest.get(1..)?);
    Some(hash.finish())
}

/// The value of the first cookie of that name.
fn cookie<'a>(header: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = header.split(|&b| b == b';').find_map(|pair| {
        let (given, value) = split_once(pair, b'=')?;
        (given.trim_ascii() == name).then(|| value.trim_ascii())
    })?;
    Some(
        value
            .strip_prefix(b"\"")
            .and_then(|value| value.strip_suffix(b"\""))
            .unwrap_or(value),
    )
}

/// The value, not yet decoded, of the first query parameter of that name.
fn parameter<'a>(path: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let path = path.split(|&b| b == b'#').next()?;
    let (_, query) = split_once(path, b'?')?;
    query.split(|&b| b == b'&').find_map(|pair| {
        let (given, value) = split_once(pair, b'=').unwrap_or((pair, b""));
        Decoded(given).eq(name.bytes()).then_some(value)
    })
}

fn decoded(salt: &str, value: &[u8]) -> Option<Hashed> {
    if !is_encoded(value) {
        return whole(salt, value);
    }
    let mut hash = KeyHash::new(salt);
    for byte in Decoded(value) {
        hash.push(&[byte]);
    }
    Some(hash.finish())
}

fn is_encoded(value: &[u8]) -> bool {
    value.iter().any(|b| matches!(b, b'%' | b'+'))
}

/// Bytes of a query's name or value: `%41` is `A`, `+` a space, a `%` without two hex digits itself.
struct Decoded<'a>(&'a [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        if first == b'%'
            && let Some((&[high, low], after)) = rest.split_first_chunk()
            && let (Some(high), Some(low)) = (hex(high), hex(low))
        {
            self.0 = after;
            return Some(high << 4 | low);
        }
        self.0 = rest;
        Some(if first == b'+' { b' ' } else { first })
    }
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

fn split_once(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = bytes.iter().position(|&b| b == at)?;
    let (before, rest) = bytes.split_at_checked(place)?;
    Some((before, rest.get(1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(path: &str) -> Option<Vec<u8>> {
        parameter(path.as_bytes(), "u id").map(|value| Decoded(value).collect())
    }

    #[test]
    fn cookies_are_found_by_their_whole_name_and_lose_their_quotes() {
        let header = b"asession=1; session=\"two\" ;session=3; empty=; other";
        assert_eq!(cookie(header, b"session"), Some(&b"two"[..]));
        assert_eq!(cookie(header, b"asession"), Some(&b"1"[..]));
        assert_eq!(cookie(header, b"empty"), Some(&b""[..]));
        assert_eq!(cookie(header, b"other"), None);
        assert_eq!(cookie(header, b"Session"), None);
        assert_eq!(cookie(b"session=a=b", b"session"), Some(&b"a=b"[..]));
        assert_eq!(cookie(b"session=\"", b"session"), Some(&b"\""[..]));
    }

    #[test]
    fn parameters_are_percent_decoded_and_the_first_of_a_name_counts() {
        assert_eq!(query("/p?a=1&u+id=x%41+%2b&u%20id=2"), Some(b"xA +".to_vec()));
        assert_eq!(query("/p?u%20id=%zz%4"), Some(b"%zz%4".to_vec()));
        assert_eq!(query("/p?u%20id"), Some(Vec::new()));
        assert_eq!(query("/p?u%20id=&u%20id=2"), Some(Vec::new()));
        assert_eq!(query("/p?u%20id=1#u+id=2"), Some(b"1".to_vec()));
        assert_eq!(query("/p#?u+id=2"), None);
        assert_eq!(query("/p?x=1?u+id=2"), None);
        assert_eq!(query("/p"), None);
    }

    #[test]
    fn a_decoded_key_is_in_the_bucket_of_its_plain_form() {
        assert_eq!(decoded("s", b"a%20b%2B"), whole("s", b"a b+"));
        assert_eq!(decoded("s", b"a+b+"), whole("s", b"a b "));
        assert_eq!(decoded("s", b""), None);
    }

    #[test]
    fn the_nibble_that_tracing_rewrites_does_not_count() {
        let id = "5f2e8c1a-9b3d-4c7e-8a1f-0d2b4c6e8f90";
        let masked = whole("s", id.replacen("4c7e", "0c7e", 1).as_bytes());
        for nibble in ["4", "9", "a", "b", "0"] {
            let traced = id.replacen("4c7e", &format!("{nibble}c7e"), 1);
            assert_eq!(request_id("s", traced.as_bytes()), masked);
        }
        assert_eq!(request_id("s", b"short"), whole("s", b"short"));
        assert_eq!(request_id("s", b""), None);
    }
}
