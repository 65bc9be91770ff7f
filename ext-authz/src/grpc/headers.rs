//! Headers as Envoy sends them, and the ones that a verdict sets.

use knhk_decision::headers::{CLASS, FLAGS, POLICY, RECEIPT, ROLLOUT, VARIANT};
use knhk_decision::{Decision, Verdict};
use knhk_proto::envoy::pb::envoy::config::core::v3::HeaderValue;

use crate::app::snapshots::Snapshot;

/// Every header that this service sets on a request; a copy that a client sent is deleted.
const OURS: [&str; 6] = [VARIANT, ROLLOUT, FLAGS, CLASS, POLICY, RECEIPT];

/// A list of headers in Envoy's order, names in lower case.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeaderList<'a>(pub(super) &'a [HeaderValue]);

impl<'a> HeaderList<'a> {
    /// Every header.
    pub(super) fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.0.iter().map(|header| (header.key.as_bytes(), value(header)))
    }

    /// The first value of a header: as in the filter, it is the one that counts.
    pub(super) fn first(self, name: &str) -> Option<&'a [u8]> {
        self.0.iter().find(|header| header.key == name).map(value)
    }

    /// The last value of a header: what was said last of one that proxies add to.
    pub(super) fn last(self, name: &str) -> Option<&'a [u8]> {
        self.0.iter().rfind(|header| header.key == name).map(value)
    }

    /// Whether this value is all that the list has under this name.
    pub(super) fn is_only(self, name: &str, wanted: &[u8]) -> bool {
        let mut values = self.0.iter().filter(|header| header.key == name).map(value);
        values.next() == Some(wanted) && values.next().is_none()
    }
}

/// Envoy fills one of the two.
fn value(header: &HeaderValue) -> &[u8] {
    if header.raw_value.is_empty() {
        header.value.as_bytes()
    } else {
        &header.raw_value
    }
}

/// What the upstream and later filters are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Headers(Vec<(&'static str, String)>);

impl Headers {
    pub(super) fn of(snapshot: &Snapshot, decision: &Decision<'_>) -> Self {
        let mut headers = Self(vec![(POLICY, snapshot.id.to_string())]);
        if let Verdict::Routed(routed) = &decision.verdict {
            headers.push(VARIANT, routed.variant.as_str().to_owned());
        }
        if let Some(routed) = decision.routed() {
            headers.push(ROLLOUT, routed.rule.name.clone());
        }
        if let Some(flags) = decision.flags_header() {
            headers.push(FLAGS, flags);
        }
        headers
    }

    pub(super) fn push(&mut self, name: &'static str, value: String) {
        self.0.push((name, value));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.as_str()))
    }

    /// The headers of ours that are not set. Envoy's two filters set and remove in different orders, so what is set must
    /// not be among what is removed.
    pub(super) fn unset(&self) -> impl Iterator<Item = &'static str> {
        let is_set = |name: &str| self.0.iter().any(|(set, _)| *set == name);
        OURS.into_iter().filter(move |name| !is_set(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(key: &str, value: &str, raw_value: &[u8]) -> HeaderValue {
        HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            raw_value: raw_value.to_vec(),
        }
    }

    #[test]
    fn the_first_value_of_a_repeated_header_counts_in_either_form() {
        let list = [
            header("x-user-id", "", b"one\xff"),
            header("x-user-id", "two", b""),
            header("x-plain", "text", b""),
        ];
        let list = HeaderList(&list);
        assert_eq!(list.first("x-user-id"), Some(b"one\xff".as_slice()));
        assert_eq!(list.last("x-user-id"), Some(b"two".as_slice()));
        assert_eq!(list.first("x-plain"), Some(b"text".as_slice()));
        assert_eq!(list.first("x-other"), None);
        assert!(list.is_only("x-plain", b"text") && !list.is_only("x-plain", b"other"));
        assert!(!list.is_only("x-user-id", b"one\xff") && !list.is_only("x-other", b""));
    }

    #[test]
    fn what_is_set_is_not_removed_and_the_rest_of_ours_is() {
        let mut headers = Headers(vec![(POLICY, "1.2".into())]);
        headers.push(VARIANT, "canary".into());
        let unset: Vec<_> = headers.unset().collect();
        assert_eq!(unset, [ROLLOUT, FLAGS, CLASS, RECEIPT]);
    }
}
