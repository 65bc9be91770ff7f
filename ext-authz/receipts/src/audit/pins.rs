use super::report::Finding;
use crate::key::PublicKey;
use crate::log::LogKey;

/// What an auditor trusts beforehand.
#[derive(Clone, Debug)]
pub enum Pin {
    /// A key, whatever it signed.
    Key(PublicKey),
    /// The keys of one log as it listed them once, all of them. The log may have more by now, and no other ones.
    Set(Vec<PinnedKey>),
}

/// A key of a set.
#[derive(Clone, Debug)]
pub struct PinnedKey {
    /// What its signatures are verified with.
    pub key: PublicKey,
    /// What the set says that it signed.
    pub trees: Trees,
}

/// Trees that a key signed, by their sizes, when a set was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trees {
    /// None: it was announced, and had not taken over.
    None,
    /// None yet: it has taken over, and signs trees of so many entries and more.
    From(u64),
    /// From the first to the last, which is open while it signs.
    Signed {
        /// Size of the first.
        first: u64,
        /// Size of the last.
        last: Option<u64>,
    },
}

/// What the log shows of its keys.
pub(crate) struct Shown<'c> {
    pub(crate) keys: &'c [LogKey],
    /// The largest tree that was signed.
    pub(crate) last: Option<u64>,
}

/// What came of the pins.
#[derive(Debug, Default)]
pub(crate) struct Pinned {
    /// The log rests on one of them, and contradicts none.
    pub(crate) rests: bool,
    pub(crate) findings: Vec<Finding>,
}

impl Shown<'_> {
    /// Compares the log with what is trusted. A set is of this log if one of its keys signed in it; then everything that it says
    /// has to be so.
    pub(crate) fn compare(&self, pins: &[Pin]) -> Pinned {
        let mut pinned = Pinned::default();
        for pin in pins {
            match pin {
                Pin::Key(key) => pinned.rests |= self.signer(key).is_some(),
                Pin::Set(set) if set.iter().any(|it| self.is_rested_on(it)) => {
                    pinned.rests = true;
                    let wrong = set.iter().filter_map(|it| self.contradicts(it));
                    pinned.findings.extend(wrong.map(finding));
                }
                Pin::Set(_) => {}
            }
        }
        if !pins.is_empty() && !pinned.rests {
            let what = "none of the given keys is among those that signed it".to_owned();
            pinned.findings.push(finding(what));
        }
        pinned.rests &= pinned.findings.is_empty();
        pinned
    }

    /// The key, if it signed.
    fn signer(&self, key: &PublicKey) -> Option<&LogKey> {
        let signer = self.keys.iter().find(|it| it.key == *key);
        signer.filter(|it| it.first_size.is_some())
    }

    /// A key that had only been announced is not one to rest on: who gave the set did not yet trust it to sign.
    fn is_rested_on(&self, pinned: &PinnedKey) -> bool {
        pinned.trees != Trees::None && self.signer(&pinned.key).is_some()
    }

    /// What the log says otherwise than the set.
    fn contradicts(&self, pinned: &PinnedKey) -> Option<String> {
        let (key, signer) = (&pinned.key, self.signer(&pinned.key));
        let first = signer.and_then(|it| it.first_size);
        match pinned.trees {
            Trees::From(from) => {
                let before = first.filter(|first| *first < from)?;
                Some(format!(
                    "{key} signed a tree of {before} entries, and by the key set none of fewer than {from}"
                ))
            }
            Trees::Signed { first: wanted, .. } if first != Some(wanted) => {
                let has = first.map_or("it signed none here".to_owned(), |it| {
                    format!("here its first has {it}")
                });
                Some(format!(
                    "by the key set the first tree of {key} has {wanted} entries, and {has}"
                ))
            }
            Trees::Signed {
                last: Some(wanted), ..
            } => {
                // Which key follows is recorded before that one signs something.
                let last = signer.and_then(|it| it.last_size).or(self.last);
                (last != Some(wanted)).then(|| {
                    let state = signer.map_or("unknown", |it| it.state.as_str());
                    format!(
                        "by the key set {key} is retired and its last tree has {wanted} entries, here it is {state} and its \
                         newest has {}",
                        last.unwrap_or(0)
                    )
                })
            }
            Trees::None | Trees::Signed { last: None, .. } => None,
        }
    }
}

fn finding(what: String) -> Finding {
    Finding::new("keys", "checkpoint", what)
}
