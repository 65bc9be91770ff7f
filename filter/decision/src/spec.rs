//! What people write: the parts that a rollout file and the policy document share.
//!
//! These types only have the right shape. [`crate::RolloutRule::check`] says whether they make sense.

mod weight;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::weight::{Weight, WeightError};

/// Which requests a rollout routes. All that is given must hold; nothing given means every request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MatchSpec {
    /// Any of these: a name (`shop.example.com`), a name and all below it (`*.example.com`, without `example.com`
    /// itself), an address (`10.0.0.1`, `[2001:db8::1]`). Case and the request's port do not count. Empty: any host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Whole segments, without the query: `/api` holds for `/api`, `/api/` and `/api/x`, not for `/apix`. A slash at
    /// the end changes nothing. `/` is every path, as is leaving it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_prefix: Option<String>,
    /// Exactly this path, byte for byte, without the query. Here a slash at the end counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Any of these methods, in upper case. Empty: any method.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// All of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    /// The caller is any of these, see [`AdmitSpec::peers`]. Empty: any caller, with or without an ID.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
    /// All of these flags give these variants: variants by the flags' keys. A flag is evaluated for the rollout's key; one
    /// that gives none, since it is disabled or fails, holds for no request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub flags: BTreeMap<String, String>,
}

/// Which of the requests that a rollout routes are admitted. The others are denied, whatever variant they would get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdmitSpec {
    /// The caller's SPIFFE ID is any of these: an ID (`spiffe://example.org/ns/shop/sa/web`), all IDs below a path, by
    /// whole segments (`spiffe://example.org/ns/shop/*`), a whole trust domain (`spiffe://example.org/*`). Who has no ID
    /// is not admitted.
    pub peers: Vec<String>,
}

/// Which of the requests that a rollout routes its staging stage picks: all of them go to the version. All that is given
/// must hold, and something must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StagingSpec {
    /// As [`MatchSpec::headers`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    /// As [`MatchSpec::peers`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<String>,
    /// As [`MatchSpec::flags`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub flags: BTreeMap<String, String>,
}

/// What a response says about how its request went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OutcomeSpec {
    /// The response header whose first value says it; case does not count.
    pub header: String,
    /// The values that are good, byte for byte. Any other one is bad, and so is none.
    pub good: Vec<String>,
}

impl OutcomeSpec {
    /// Whether the first value of the header, if there is one, is good.
    pub fn is_good(&self, value: Option<&[u8]>) -> bool {
        value.is_some_and(|value| self.good.iter().any(|good| good.as_bytes() == value))
    }
}

/// A condition on the first value of one request header. An empty value counts as absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "HeaderForm", into = "HeaderForm")]
pub struct HeaderMatch {
    /// The header's name; case does not count.
    pub name: String,
    /// What must hold for its value.
    pub value: ValueMatch,
}

/// What must hold for a header's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// `exact:` the value is this, byte for byte.
    Exact(String),
    /// `prefix:` the value begins with this.
    Prefix(String),
    /// `present: true` there is a value; `present: false` there is none.
    Present(bool),
}

/// A header condition as it is written: one of the three has to be there.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderForm {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exact: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefix: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    present: Option<bool>,
}

impl TryFrom<HeaderForm> for HeaderMatch {
    type Error = String;

    fn try_from(form: HeaderForm) -> Result<Self, String> {
        let value = match (form.exact, form.prefix, form.present) {
            (Some(value), None, None) => ValueMatch::Exact(value),
            (None, Some(value), None) => ValueMatch::Prefix(value),
            (None, None, Some(present)) => ValueMatch::Present(present),
            (None, None, None) => {
                return Err(format!(
                    "header {:?} has no condition: give exact, prefix or present",
                    form.name
                ));
            }
            _ => {
                return Err(format!(
                    "header {:?} has several conditions: give exactly one of exact, prefix and present",
                    form.name
                ));
            }
        };
        Ok(Self {
            name: form.name,
            value,
        })
    }
}

impl From<HeaderMatch> for HeaderForm {
    fn from(header: HeaderMatch) -> Self {
        let bare = Self {
            name: header.name,
            exact: None,
            prefix: None,
            present: None,
        };
        match header.value {
            ValueMatch::Exact(value) => Self {
                exact: Some(value),
                ..bare
            },
            ValueMatch::Prefix(value) => Self {
                prefix: Some(value),
                ..bare
            },
            ValueMatch::Present(present) => Self {
                present: Some(present),
                ..bare
            },
        }
    }
}

/// One place where a request's key may stand. An empty value counts as absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum KeySpec {
    /// `{header: NAME}`: the first value of a header, byte for byte.
    Header(String),
    /// `{cookie: NAME}`: the first cookie of that name, without the double quotes around it if there are any.
    Cookie(String),
    /// `{query: NAME}`: the first query parameter of that name. `%41` is read as `A` and `+` as a space, in names and
    /// values; a `%` without two hex digits stays as it is.
    Query(String),
    /// `{peerSpiffeId: {}}`: the SPIFFE ID of the caller, where the proxy terminates mTLS or is told by one that does.
    PeerSpiffeId {},
    /// `{requestId: {}}`: `x-request-id`. In an ID of 36 characters, character 14 (from 0) is read as `0`: Envoy's
    /// tracing rewrites it on the way.
    RequestId {},
}

/// Which of a route's decisions the filter records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Record {
    /// `none`
    #[default]
    None,
    /// `denials`: requests that were not admitted.
    Denials,
    /// `all`
    All,
    /// `{sample: PERCENT}`: that share of the requests.
    Sample(Weight),
}

impl Record {
    /// Whether this is `none`: what is left out of a document.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}
