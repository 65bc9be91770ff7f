//! The public keys that a user trusts, from files.

use std::path::{Path, PathBuf};

use knhk_receipts::audit::{Pin, PinnedKey, Trees};
use knhk_receipts::{MAX_KEYS, MAX_PEM_BYTES, PublicKey};
use serde::Deserialize;

use super::{Failure, input};

/// A key, and which trees it signed as far as its file says so.
#[derive(Debug, Clone)]
pub(super) struct Trusted {
    pub(super) key: PublicKey,
    /// A bare PEM says nothing of that.
    signed: Option<Trees>,
}

/// The answer of `GET /v1/keys`, as far as verification needs it.
#[derive(Debug, Deserialize)]
struct Set {
    keys: Vec<Listed>,
    acknowledges_with: Option<Acknowledging>,
}

/// The key that a region acknowledges other regions' logs with. It signs no log.
#[derive(Debug, Deserialize)]
struct Acknowledging {
    id: String,
    pem: String,
}

#[derive(Debug, Deserialize)]
struct Listed {
    id: String,
    pem: String,
    state: State,
    announced: u64,
    first_size: Option<u64>,
    last_size: Option<u64>,
}

/// As `knhk_receipts::KeyState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Announced,
    Active,
    Retired,
}

/// A key's own first tree has at least so many entries more than stand before the one that announced it: that entry was
/// covered by the key before, and another one came. The first key's has the two that every signed tree has.
const BEHIND_ANNOUNCEMENT: u64 = 2;

impl Trusted {
    /// Whether it can have signed a tree of this size.
    pub(super) fn is_valid_at(&self, size: u64) -> bool {
        match self.signed {
            None => true,
            Some(Trees::None) => false,
            Some(Trees::From(first)) => first <= size,
            Some(Trees::Signed { first, last }) => first <= size && last.is_none_or(|last| size <= last),
        }
    }

    /// Which trees it signed; `None` where its file does not say.
    pub(super) fn validity(&self) -> Option<String> {
        let (first, last) = match self.signed? {
            Trees::None => {
                return Some("it had signed nothing when the set was made: fetch the set again".to_owned());
            }
            Trees::From(first) => (first, None),
            Trees::Signed { first, last } => (first, last),
        };
        Some(match last {
            None => format!("it signs trees of {first} entries and more"),
            Some(last) => format!("it signed trees of {first} to {last} entries"),
        })
    }
}

/// The keys by which acknowledgements of these files' regions are checked: those that key sets name, and every bare PEM, which does
/// not say what it is for.
pub(super) fn acknowledging(files: &[PathBuf]) -> Result<Vec<PublicKey>, Failure> {
    let mut keys = Vec::new();
    for path in files {
        let text = input::text(path, MAX_PEM_BYTES)?;
        keys.extend(acknowledging_in(&text).map_err(|reason| located(path, &reason))?);
    }
    Ok(keys)
}

fn acknowledging_in(text: &str) -> Result<Vec<PublicKey>, String> {
    if !text.trim_start().starts_with('{') {
        return PublicKey::from_pem(text).map_err(|error| error.to_string());
    }
    let set: Set = read_set(text)?;
    let Some(named) = set.acknowledges_with else {
        return Ok(Vec::new());
    };
    one_key(&named.id, &named.pem).map(|key| vec![key])
}

/// Reads every key of these files: PEM, or the JSON of `GET /v1/keys`.
pub(super) fn read(files: &[PathBuf]) -> Result<Vec<Trusted>, Failure> {
    Ok(by_file(files)?.into_iter().flatten().collect())
}

/// The same for an audit, which compares what a set says with the whole log.
pub(super) fn pins(files: &[PathBuf]) -> Result<Vec<Pin>, Failure> {
    Ok(by_file(files)?.into_iter().flat_map(pins_of).collect())
}

/// A set says of all its keys what they signed, PEM of none.
fn pins_of(keys: Vec<Trusted>) -> Vec<Pin> {
    let pinned = |it: &Trusted| {
        let (key, trees) = (it.key.clone(), it.signed?);
        Some(PinnedKey { key, trees })
    };
    let set: Option<Vec<_>> = keys.iter().map(pinned).collect();
    match set {
        Some(set) => vec![Pin::Set(set)],
        None => keys.into_iter().map(|it| Pin::Key(it.key)).collect(),
    }
}

fn by_file(files: &[PathBuf]) -> Result<Vec<Vec<Trusted>>, Failure> {
    let (mut trusted, mut count) = (Vec::new(), 0);
    for path in files {
        let text = input::text(path, MAX_PEM_BYTES)?;
        let keys = parse(&text).map_err(|reason| located(path, &reason))?;
        count += keys.len();
        if count > MAX_KEYS {
            return Err(located(path, &format!("more than {MAX_KEYS} keys are given")));
        }
        trusted.push(keys);
    }
    Ok(trusted)
}

fn located(path: &Path, reason: &str) -> Failure {
    Failure::new(format!("{}: {reason}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Trusted>, String> {
    if !text.trim_start().starts_with('{') {
        let keys = PublicKey::from_pem(text).map_err(|error| error.to_string())?;
        let bare = |key| Trusted { key, signed: None };
        return Ok(keys.into_iter().map(bare).collect());
    }
    let set = read_set(text)?;
    if set.keys.is_empty() {
        return Err("the key set has no key".to_owned());
    }
    set.keys.iter().map(listed).collect()
}

fn read_set(text: &str) -> Result<Set, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("it is not a key set as `GET /v1/keys` answers it: {error}"))
}

/// The key in a PEM, which has to be the one of this ID.
fn one_key(id: &str, pem: &str) -> Result<PublicKey, String> {
    let in_it = |reason: &str| format!("the key `{id}` in it: {reason}");
    let keys = PublicKey::from_pem(pem).map_err(|error| in_it(&error.to_string()))?;
    let [key] = keys
        .try_into()
        .map_err(|_| in_it("its `pem` has more than one key"))?;
    if key.to_string() != id {
        return Err(in_it(&format!("its `pem` is the key {key}")));
    }
    Ok(key)
}

fn listed(listed: &Listed) -> Result<Trusted, String> {
    let in_it = |reason: &str| format!("the key `{}` in it: {reason}", listed.id);
    let key = one_key(&listed.id, &listed.pem)?;
    let signed = match (listed.first_size, listed.last_size) {
        // It has taken over, and its first tree came after the set.
        (None, None) if listed.state == State::Active => {
            Trees::From(listed.announced.saturating_add(BEHIND_ANNOUNCEMENT))
        }
        (None, None) => Trees::None,
        (None, Some(_)) => return Err(in_it("it has `last_size` without `first_size`")),
        (Some(first), last) if last.is_none_or(|last| first <= last) => Trees::Signed { first, last },
        (Some(_), _) => return Err(in_it("its `last_size` is below its `first_size`")),
    };
    let signed = Some(signed);
    Ok(Trusted { key, signed })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Public keys of private keys 1 and 2: the curve's base point, and its double (SEC 2).
    const ONE: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt\n6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==\n-----END PUBLIC KEY-----\n";

    fn set(first: Option<u64>, last: Option<u64>) -> String {
        let state = if last.is_some() { "retired" } else { "active" };
        set_of(state, first, last)
    }

    fn set_of(state: &str, first: Option<u64>, last: Option<u64>) -> String {
        let id = PublicKey::from_pem(ONE).expect("a key")[0].to_string();
        json!({ "keys": [ { "id": id, "pem": ONE, "first_size": first, "last_size": last, "state": state, "announced": 8 } ], "rotation": {} })
            .to_string()
    }

    #[test]
    fn a_key_of_a_set_is_valid_for_the_trees_that_it_signed() {
        let at = |text: &str, size| parse(text).expect("a key")[0].is_valid_at(size);
        let retired = set(Some(10), Some(20));
        assert!([10, 15, 20].iter().all(|size| at(&retired, *size)));
        assert!([2, 9, 21].iter().all(|size| !at(&retired, *size)));
        assert!(at(&set(Some(10), None), 1_000) && !at(&set(Some(10), None), 9));
        let announced = set_of("announced", None, None);
        assert!(!at(&announced, 10), "an announced key has signed nothing");
        let unused = set(None, None);
        assert!(
            at(&unused, 10) && !at(&unused, 9),
            "its first tree may have come after the set"
        );
        assert!(at(ONE, 10) && at(ONE, 1), "a bare key says nothing of trees");
    }

    #[test]
    fn a_set_that_contradicts_itself_is_refused() {
        for bad in [
            "{",
            "{}",
            r#"{"keys":[]}"#,
            r#"{"keys":[{"id":"sha256:00","pem":"x","state":"active","announced":0}]}"#,
            &set_of("lost", Some(1), None),
            &set(None, Some(3)),
            &set(Some(4), Some(3)),
            &set(Some(1), None).replace("sha256:", "sha256:0"),
        ] {
            let error = parse(bad).expect_err(bad);
            assert!(!error.contains('\n'), "{error}");
        }
    }

    /// An audit is told of every key of a set what it signed, and of a bare one that nothing is known.
    #[test]
    fn an_audit_is_given_a_set_as_a_whole() {
        let pins = |text: &str| pins_of(parse(text).expect("keys"));
        for (text, wanted) in [
            (
                set(Some(10), Some(20)),
                Trees::Signed {
                    first: 10,
                    last: Some(20),
                },
            ),
            (set(None, None), Trees::From(10)),
            (set_of("announced", None, None), Trees::None),
        ] {
            let pins = pins(&text);
            assert!(
                matches!(pins.as_slice(), [Pin::Set(set)] if set.len() == 1 && set[0].trees == wanted),
                "{pins:?}"
            );
        }
        assert!(matches!(
            pins(&ONE.repeat(2)).as_slice(),
            [Pin::Key(_), Pin::Key(_)]
        ));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\{?.{0,200}") {
            let _ = parse(&text);
        }
    }
}
