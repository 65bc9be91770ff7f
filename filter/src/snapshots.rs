//! What the filter decides by: a policy from the service, validated whole before it replaces the last one.

use knhk_decision::{Policy, PolicyError, PolicyId, Routed, Verdict, headers};
use knhk_proto::v1;
use sha2::{Digest, Sha256};

use crate::observe::{Observations, WindowRef, WindowReused};

/// A policy that is in force.
#[derive(Debug)]
pub struct Snapshot {
    policy: Policy,
    /// Absent for a plugin's inline policy, which the service does not know.
    issued: Option<Issued>,
}

/// What a snapshot is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotName {
    /// Its number.
    pub id: PolicyId,
    /// SHA-256 of its policy document.
    pub sha256: [u8; 32],
}

/// What only a snapshot from the service has.
#[derive(Debug)]
struct Issued {
    name: SnapshotName,
    /// The value of `x-knhk-policy`.
    id_text: String,
    /// Where each rule's requests are counted, in the rules' order.
    windows: Vec<WindowRef>,
}

/// Why a snapshot is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The message is no protobuf.
    #[error("message: {0}")]
    Undecodable(#[from] prost::DecodeError),
    /// There is no number.
    #[error("id: missing; a snapshot has a number")]
    NoId,
    /// The bytes are not the ones that were summed.
    #[error("sha256: does not belong to the policy's {bytes} bytes; send both again")]
    Checksum {
        /// How many bytes came.
        bytes: usize,
    },
    /// The document is not valid.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The document has another number than the message.
    #[error("policy: epoch and n say {document}, the snapshot's id says {message}; they must be the same")]
    OtherId {
        /// The document's.
        document: PolicyId,
        /// The message's.
        message: PolicyId,
    },
    /// The rules cannot be observed.
    #[error(transparent)]
    Window(#[from] WindowReused),
}

impl SnapshotError {
    /// A stable name of the kind of refusal: a value of `knhk.nack.reason` in `registry/`.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Checksum { .. } => "checksum",
            Self::Policy(PolicyError::TooLarge { .. }) => "too_large",
            Self::Undecodable(_) | Self::NoId | Self::Policy(PolicyError::Malformed { .. }) => "malformed",
            Self::Policy(_) | Self::OtherId { .. } | Self::Window(_) => "invalid",
        }
    }
}

impl Snapshot {
    /// A plugin's inline policy.
    pub fn inline(policy: Policy) -> Self {
        Self { policy, issued: None }
    }

    /// A snapshot from the service, once all of it has been found good; then, and only then, its rules' windows are
    /// adopted.
    pub fn issued(message: &v1::Snapshot, observations: &mut Observations) -> Result<Self, SnapshotError> {
        let id = message.id.ok_or(SnapshotError::NoId)?;
        let id = PolicyId {
            epoch: id.epoch,
            n: id.n,
        };
        let sha256: [u8; 32] = Sha256::digest(&message.policy).into();
        if sha256.as_slice() != message.sha256 {
            return Err(SnapshotError::Checksum {
                bytes: message.policy.len(),
            });
        }
        let policy = Policy::parse(&message.policy)?;
        if policy.id() != id {
            return Err(SnapshotError::OtherId {
                document: policy.id(),
                message: id,
            });
        }
        observations.check(policy.rules())?;
        let windows = observations.adopt(policy.rules());
        Ok(Self {
            policy,
            issued: Some(Issued {
                name: SnapshotName { id, sha256 },
                id_text: id.to_string(),
                windows,
            }),
        })
    }

    /// What to decide by.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What the service knows it by, if the service issued it.
    pub fn name(&self) -> Option<&SnapshotName> {
        self.issued.as_ref().map(|issued| &issued.name)
    }

    /// Where a request that this snapshot routed is counted; nowhere if the service did not issue it.
    pub fn window(&self, routed: &Routed<'_>) -> Option<WindowRef> {
        self.issued.as_ref()?.windows.get(routed.index).copied()
    }

    /// The headers that tell the upstream, the route table and later filters.
    pub fn headers<'a>(&'a self, verdict: &Verdict<'a>) -> impl Iterator<Item = (&'static str, &'a str)> {
        let routed = match verdict {
            Verdict::NoRollout | Verdict::Denied(_) => None,
            Verdict::Routed(routed) => Some([
                (headers::VARIANT, routed.variant.as_str()),
                (headers::ROLLOUT, routed.rule.name.as_str()),
            ]),
        };
        let policy = self
            .issued
            .as_ref()
            .map(|issued| (headers::POLICY, issued.id_text.as_str()));
        routed.into_iter().flatten().chain(policy)
    }
}
