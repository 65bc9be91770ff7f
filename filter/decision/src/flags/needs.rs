//! What a flag's rule needs of a request.

use knhk_flags::Reads;
use knhk_flags::message::quoted;

use crate::headers::PREFIX;
use crate::limits::MAX_FLAG_HEADERS;

/// Names that a rule's `var` may have here, beside flagd's own and `targetingKey`.
pub(super) const METHOD: &str = "method";
pub(super) const HOST: &str = "host";
pub(super) const PATH: &str = "path";
pub(super) const PEER: &str = "peerSpiffeId";
pub(super) const HEADERS: &str = "headers";
const TARGETING_KEY: &str = "targetingKey";
const FLAGD: &str = "$flagd";
const TIMESTAMP: &str = "timestamp";

/// Nothing else is looked up in the request.
#[derive(Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Needs {
    pub(super) targeting_key: bool,
    pub(super) method: bool,
    pub(super) host: bool,
    pub(super) path: bool,
    pub(super) peer: bool,
    pub(super) time: bool,
    pub(super) headers: Headers,
}

/// Which headers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Headers {
    /// By these names, in lower case; often none.
    Named(Box<[Box<str>]>),
    All,
}

impl Needs {
    pub(super) fn of(reads: &Reads) -> Self {
        let all = reads.everything();
        let heads = || reads.paths().map(split);
        let reads_one = |name| all || heads().any(|(head, _)| head == name);
        let names: Vec<Box<str>> = heads()
            .filter(|(head, _)| *head == HEADERS)
            .filter_map(|(_, rest)| Some(first(rest?).into()))
            .collect();
        let whole = heads().any(|(head, rest)| head == HEADERS && rest.is_none());
        let all_headers = all || whole || names.len() > MAX_FLAG_HEADERS;
        let reads_time =
            heads().any(|(head, rest)| head == FLAGD && rest.is_none_or(|rest| first(rest) == TIMESTAMP));
        Self {
            targeting_key: reads_one(TARGETING_KEY),
            method: reads_one(METHOD),
            host: reads_one(HOST),
            path: reads_one(PATH),
            peer: reads_one(PEER),
            time: all || reads_time,
            headers: if all_headers {
                Headers::All
            } else {
                Headers::Named(names.into())
            },
        }
    }
}

/// Why a rule that reads this looks for a header that is never there, if it does.
pub(super) fn unreadable(reads: &Reads) -> Option<String> {
    let headers = reads.paths().map(split).filter(|(head, _)| *head == HEADERS);
    headers.filter_map(|(_, rest)| rest.map(first)).find_map(|name| {
        if name.bytes().any(|b| b.is_ascii_uppercase()) {
            let lower = name.to_ascii_lowercase();
            let path = format!("{HEADERS}.{name}");
            Some(format!(
                "reads {}, which is never there: headers' names are in lower case, write {HEADERS}.{lower}",
                quoted(&path)
            ))
        } else if name.starts_with(PREFIX) {
            let path = format!("{HEADERS}.{name}");
            Some(format!(
                "reads {}, which is never there: x-knhk- headers are removed before anything is decided",
                quoted(&path)
            ))
        } else {
            None
        }
    })
}

fn split(path: &str) -> (&str, Option<&str>) {
    path.split_once('.')
        .map_or((path, None), |(head, rest)| (head, Some(rest)))
}

fn first(rest: &str) -> &str {
    rest.split('.').next().unwrap_or_default()
}
