//! Patterns for the caller's SPIFFE ID: the language of the service's roles.

use crate::error::{Fault, FieldError, within};
use crate::limits::MAX_PEERS;
use crate::peer::{self, MAX_ID_BYTES, SpiffeId};
use knhk_flags::message::quoted;

/// Any of these. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peers(Box<[PeerPattern]>);

/// Which IDs are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
enum PeerPattern {
    /// This one.
    Exact(Box<str>),
    /// Every one that begins with this, which ends in a slash: an ID has a whole segment after it.
    Below(Box<str>),
}

impl Peers {
    /// `None` without patterns.
    pub(crate) fn parse(field: &str, patterns: &[String]) -> Result<Option<Self>, FieldError> {
        within(field, patterns.len(), MAX_PEERS, "patterns")?;
        let mut parsed = Vec::with_capacity(patterns.len());
        for (i, text) in patterns.iter().enumerate() {
            let field = format!("{field}[{i}]");
            let pattern = PeerPattern::parse(&field, text)?;
            if parsed.contains(&pattern) {
                let reason = format!("{} is there twice: keep one", quoted(text));
                return Err(FieldError::new(field, Fault::Duplicate, reason));
            }
            parsed.push(pattern);
        }
        Ok((!parsed.is_empty()).then(|| Self(parsed.into())))
    }

    /// Whether the caller is one of these. Who has no ID is none.
    pub(crate) fn hold(&self, peer: Option<SpiffeId<'_>>) -> bool {
        peer.is_some_and(|peer| self.0.iter().any(|pattern| pattern.holds(peer)))
    }

    /// Whether every ID of `other` is one of these.
    pub(crate) fn cover(&self, other: &Self) -> bool {
        other
            .0
            .iter()
            .all(|theirs| self.0.iter().any(|ours| ours.covers(theirs)))
    }

    /// Whether some ID is one of both.
    pub(crate) fn meet(&self, other: &Self) -> bool {
        // Of two patterns either one covers the other or they have nothing in common.
        let common = |ours: &PeerPattern, theirs: &PeerPattern| ours.covers(theirs) || theirs.covers(ours);
        self.0
            .iter()
            .any(|ours| other.0.iter().any(|theirs| common(ours, theirs)))
    }
}

impl PeerPattern {
    fn parse(field: &str, text: &str) -> Result<Self, FieldError> {
        within(field, text.len(), MAX_ID_BYTES, "bytes")?;
        let bad = |why: String| {
            let reason = format!("{} {why}", quoted(text));
            Err(FieldError::new(field, Fault::BadForm, reason))
        };
        let (id, below) = match text.strip_suffix("/*") {
            Some(front) => (front, true),
            None => (text, false),
        };
        if id.contains('*') {
            return bad(
                "has a star that is not its last segment: write one as in spiffe://example.org/ns/prod/*"
                    .to_owned(),
            );
        }
        let lower = with_lower_trust_domain(id);
        let Some((trust_domain, path)) = peer::split(&lower) else {
            return bad("is no SPIFFE ID: write one as in spiffe://example.org/ns/prod/sa/web".to_owned());
        };
        match (below, path) {
            (true, _) => Ok(Self::Below(format!("{lower}/").into())),
            (false, "") => bad(format!(
                "has no path: name a workload, or write spiffe://{trust_domain}/* for a whole trust domain"
            )),
            (false, _) => Ok(Self::Exact(lower.into())),
        }
    }

    fn holds(&self, id: SpiffeId<'_>) -> bool {
        match self {
            Self::Exact(exact) => id.as_str() == &**exact,
            Self::Below(front) => id.as_str().starts_with(&**front),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(ours), Self::Exact(theirs)) => ours == theirs,
            (Self::Exact(_), Self::Below(_)) => false,
            (Self::Below(front), Self::Exact(theirs) | Self::Below(theirs)) => theirs.starts_with(&**front),
        }
    }
}

/// Case does not count in scheme and trust domain; IDs have them in lower case.
fn with_lower_trust_domain(id: &str) -> String {
    let path = id.match_indices('/').nth(2).map_or(id.len(), |(at, _)| at);
    let (front, path) = id.split_at_checked(path).unwrap_or((id, ""));
    front.to_ascii_lowercase() + path
}
