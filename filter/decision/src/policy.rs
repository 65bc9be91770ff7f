//! A policy in the form that decides.

use std::collections::HashSet;

use serde_json::Value;
use serde_path_to_error::Segment;

use crate::document::{API_VERSION, KIND, PolicyDoc, PolicyId, RolloutRule};
use crate::error::{Fault, FieldError, PolicyError};
use crate::flags::Flags;
use crate::index::Index;
use crate::limits::{MAX_POLICY_BYTES, MAX_ROLLOUTS};
use crate::rule::Compiled;
use knhk_flags::message::{one_line, quoted};

/// A policy that was checked once, whole, and is ready to decide. It does not change.
#[derive(Debug, Default)]
pub struct Policy {
    id: PolicyId,
    rules: Vec<RolloutRule>,
    /// As many as `rules`, in the same order.
    compiled: Vec<Compiled>,
    index: Index,
    flags: Flags,
    reads_peer: bool,
}

impl Policy {
    /// Reads a policy document, which is JSON: the bytes of a snapshot.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        PolicyDoc::parse(bytes).and_then(Self::build)
    }

    /// Checks a policy document and makes it ready to decide.
    pub fn compile(doc: PolicyDoc) -> Result<Self, PolicyError> {
        check_size(&doc.to_bytes())?;
        Self::build(doc)
    }

    /// No rollouts: every request goes where its route says. Its ID is `0.0`.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The snapshot's number.
    pub fn id(&self) -> PolicyId {
        self.id
    }

    /// The rollouts as the document has them, in its order.
    pub fn rules(&self) -> &[RolloutRule] {
        &self.rules
    }

    /// Whether a decision may ask for the peer's SPIFFE ID. Where it never does, there is no need to get it.
    pub fn reads_peer(&self) -> bool {
        self.reads_peer
    }

    fn build(doc: PolicyDoc) -> Result<Self, PolicyError> {
        check_head(&doc)?;
        let id = doc.id();
        let rules = doc.rollouts;
        let mut names = HashSet::new();
        if let Some(twice) = rules.iter().find(|rule| !names.insert(rule.name.as_str())) {
            let reason = "another rollout has the same name: rename or remove one";
            return Err(FieldError::new("name", Fault::Duplicate, reason).of(&twice.name));
        }
        let compiled = rules.iter().map(Compiled::of).collect::<Result<Vec<_>, _>>()?;
        let flags = Flags::parse(doc.flags.as_ref())?;
        for rule in &rules {
            flags.check(rule).map_err(|error| error.of(&rule.name))?;
        }
        // After what is wrong with a rule and its flags: one that cannot be does not take another one's requests.
        let index = Index::build(&rules, &compiled)?;
        let reads_peer = compiled.iter().any(Compiled::reads_peer)
            || rules
                .iter()
                .flat_map(RolloutRule::asks_for)
                .any(|key| flags.reads_peer(key));
        Ok(Self {
            id,
            rules,
            compiled,
            index,
            flags,
            reads_peer,
        })
    }

    /// The flags that its rollouts ask for.
    pub(crate) fn flags(&self) -> &Flags {
        &self.flags
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    pub(crate) fn rule(&self, i: usize) -> Option<(&RolloutRule, &Compiled)> {
        self.rules.get(i).zip(self.compiled.get(i))
    }

    pub(crate) fn all_rules(&self) -> impl Iterator<Item = (&RolloutRule, &Compiled)> {
        self.rules.iter().zip(&self.compiled)
    }
}

impl PolicyDoc {
    /// Reads a policy document of at most [`MAX_POLICY_BYTES`], which is JSON. It has the right shape;
    /// [`Policy::compile`] says whether it makes sense.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        check_size(bytes)?;
        read(bytes)
    }
}

fn check_size(bytes: &[u8]) -> Result<(), PolicyError> {
    if bytes.len() > MAX_POLICY_BYTES {
        return Err(PolicyError::TooLarge { bytes: bytes.len() });
    }
    Ok(())
}

fn check_head(doc: &PolicyDoc) -> Result<(), PolicyError> {
    let refuse = |field, fault, reason| Err(PolicyError::Document { field, fault, reason });
    if doc.api_version != API_VERSION {
        let reason = format!(
            "{} is not understood: write {API_VERSION}",
            quoted(&doc.api_version)
        );
        return refuse("apiVersion", Fault::BadForm, reason);
    }
    if doc.kind != KIND {
        return refuse(
            "kind",
            Fault::BadForm,
            format!("{} is no policy: write {KIND}", quoted(&doc.kind)),
        );
    }
    let count = doc.rollouts.len();
    if count > MAX_ROLLOUTS {
        let reason =
            format!("{count} rollouts are above the bound of {MAX_ROLLOUTS}: remove those that are over");
        return refuse("rollouts", Fault::AboveBound, reason);
    }
    Ok(())
}

fn read(bytes: &[u8]) -> Result<PolicyDoc, PolicyError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let doc = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let reason = one_line(&error.inner().to_string());
        malformed(bytes, &error.path().iter().collect::<Vec<_>>(), reason)
    })?;
    json.end()
        .map_err(|error| malformed(bytes, &[], one_line(&error.to_string())))?;
    Ok(doc)
}

/// Names the place of a fault in the document's shape: within a rollout by that one's name, where it can be read.
fn malformed(bytes: &[u8], path: &[&Segment], reason: String) -> PolicyError {
    match path {
        [Segment::Map { key }, Segment::Seq { index }, inner @ ..] if key == "rollouts" => {
            let document: Option<Value> = serde_json::from_slice(bytes).ok();
            let name = document
                .as_ref()
                .and_then(|doc| doc.get("rollouts")?.get(index)?.get("name")?.as_str());
            PolicyError::Rule {
                rollout: name.map_or_else(|| format!("rollouts[{index}]"), quoted),
                field: dotted(inner, "fields"),
                fault: Fault::Malformed,
                reason,
            }
        }
        _ => PolicyError::Malformed {
            field: dotted(path, "document"),
            reason,
        },
    }
}

/// `match.headers[1].exact`; `whole` for the whole thing.
fn dotted(path: &[&Segment], whole: &str) -> String {
    let text: String = path
        .iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("[{index}]"),
            Segment::Map { key: name } | Segment::Enum { variant: name } => format!(".{}", one_line(name)),
            Segment::Unknown => String::new(),
        })
        .collect();
    match text.trim_start_matches('.') {
        "" => whole.to_owned(),
        text => text.to_owned(),
    }
}
