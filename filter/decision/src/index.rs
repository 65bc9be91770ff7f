//! Where the rules are looked up: by host, then by path.
//!
//! A look-up touches one hash table for the host, one entry of another for each of its labels while there are
//! suffixes, and one for each segment of the path that patterns know. How many rules there are does not matter, only
//! how many stand in one place, and that is bounded.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::iter;

use xxhash_rust::xxh3::xxh3_64;

use crate::document::RolloutRule;
use crate::error::{Fault, FieldError, PolicyError};
use crate::limits::MAX_ROLLOUTS_PER_PLACE;
use crate::rule::{Compiled, HostPattern, PathPattern};
use knhk_flags::message::quoted;

/// Rules by host. Rules are named by their place in the policy.
#[derive(Debug, Default)]
pub(crate) struct Index {
    exact: ByName<Node>,
    suffixes: ByName<Node>,
    any: Node,
}

/// Rules by path: one node for each segment. The children of a node are the segments that may follow.
#[derive(Debug, Default)]
struct Node {
    children: ByName<Node>,
    /// Rules whose exact path ends here, the first in precedence first.
    exact: Vec<usize>,
    /// Rules whose prefix ends here, the first in precedence first.
    prefix: Vec<usize>,
}

impl Index {
    /// Refuses a rule that never gets a request on one of its hosts, because another one always comes first there.
    pub(crate) fn build(rules: &[RolloutRule], compiled: &[Compiled]) -> Result<Self, PolicyError> {
        let mut ordered: Vec<_> = rules.iter().zip(compiled).enumerate().collect();
        ordered.sort_by_key(|(_, (rule, compiled))| (usize::MAX - compiled.conditions.len(), &rule.name));
        let mut index = Self::default();
        for (i, (rule, parsed)) in ordered {
            for (h, host) in parsed
                .hosts
                .iter()
                .map(Some)
                .chain(parsed.hosts.is_empty().then_some(None))
                .enumerate()
            {
                let place = index.tree(host).place(&parsed.path);
                let field = if host.is_some() {
                    format!("match.hosts[{h}]")
                } else {
                    "match".to_owned()
                };
                check_reachable(field, host, parsed, place, rules, compiled)
                    .map_err(|error| error.of(&rule.name))?;
                place.push(i);
            }
        }
        Ok(index)
    }

    /// Shows `visit` the rules for this host and path, the first in precedence first, until it returns something.
    /// What the rules ask beyond host and path is for `visit` to find out.
    pub(crate) fn find<T>(
        &self,
        host: &[u8],
        path: &[u8],
        visit: &mut impl FnMut(usize) -> Option<T>,
    ) -> Option<T> {
        self.exact
            .get(host)
            .into_iter()
            .chain(self.by_suffix(host))
            .chain(iter::once(&self.any))
            .find_map(|tree| tree.find_all(path, visit))
    }

    /// The trees of the suffixes of `host`, the longest first.
    fn by_suffix(&self, host: &[u8]) -> impl Iterator<Item = &Node> {
        let host = if self.suffixes.is_empty() { &[] } else { host };
        // Something has to stand before the dot.
        let dots = host.iter().enumerate().skip(1).filter(|&(_, &b)| b == b'.');
        dots.filter_map(move |(dot, _)| self.suffixes.get(host.get(dot + 1..)?))
    }

    fn tree(&mut self, host: Option<&HostPattern>) -> &mut Node {
        match host {
            Some(HostPattern::Exact(name)) => self.exact.entry(name.as_bytes().into()).or_default(),
            Some(HostPattern::Suffix(suffix)) => self.suffixes.entry(suffix.as_bytes().into()).or_default(),
            None => &mut self.any,
        }
    }
}

impl Node {
    /// Where rules with this path stand, below this root.
    fn place(&mut self, path: &PathPattern) -> &mut Vec<usize> {
        match path {
            PathPattern::Any => &mut self.prefix,
            PathPattern::Prefix(prefix) => &mut self.descend(prefix).prefix,
            PathPattern::Exact(exact) => &mut self.descend(exact).exact,
        }
    }

    fn descend(&mut self, path: &str) -> &mut Self {
        // What stands before the first slash is nothing.
        path.split('/').skip(1).fold(self, |node, segment| {
            node.children.entry(segment.as_bytes().into()).or_default()
        })
    }

    fn find_all<T>(&self, path: &[u8], visit: &mut impl FnMut(usize) -> Option<T>) -> Option<T> {
        match path.split_first() {
            Some((b'/', segments)) => self.find(Some(segments), visit),
            _ => self.prefix.iter().find_map(|&rule| visit(rule)),
        }
    }

    /// Deeper nodes come first: their patterns are longer. `rest` is what follows the slash after this node's segment,
    /// if there is a slash. No deeper than a pattern has segments.
    fn find<T>(&self, rest: Option<&[u8]>, visit: &mut impl FnMut(usize) -> Option<T>) -> Option<T> {
        let deeper = match rest {
            None => self.exact.iter().find_map(|&rule| visit(rule)),
            Some(_) if self.children.is_empty() => None,
            Some(rest) => {
                let mut parts = rest.splitn(2, |&b| b == b'/');
                let child = parts.next().and_then(|segment| self.children.get(segment));
                child.and_then(|child| child.find(parts.next(), visit))
            }
        };
        deeper.or_else(|| self.prefix.iter().find_map(|&rule| visit(rule)))
    }
}

/// Whether a rule gets any request at a place where the rules `earlier` come before it.
fn check_reachable(
    field: String,
    host: Option<&HostPattern>,
    rule: &Compiled,
    earlier: &[usize],
    rules: &[RolloutRule],
    compiled: &[Compiled],
) -> Result<(), FieldError> {
    let host = host.map_or_else(|| "any host".to_owned(), |host| format!("host {}", host.text()));
    let path = quoted(&rule.path.to_string());
    if earlier.len() >= MAX_ROLLOUTS_PER_PLACE {
        let reason = format!(
            "more rollouts for {host} and path {path} than the bound of {MAX_ROLLOUTS_PER_PLACE}: give some their own path"
        );
        return Err(FieldError::new(field, Fault::AboveBound, reason));
    }
    let shadow = earlier.iter().find_map(|&i| {
        let (other_rule, other) = (rules.get(i)?, compiled.get(i)?);
        rule.implies_conditions_of(other).then_some(other_rule)
    });
    match shadow {
        None => Ok(()),
        Some(other) => {
            let reason = format!(
                "never gets a request for {host} and path {path}: rollout {} has the same ones, its conditions hold \
                 whenever these do, and it comes first by name: change one of the two matches",
                quoted(&other.name)
            );
            Err(FieldError::new(field, Fault::Shadowed, reason))
        }
    }
}

/// A table by name. Clients choose what is looked up in it, but only operators what is in it, so a fast hash without a
/// secret does.
type ByName<T> = HashMap<Box<[u8]>, T, BuildHasherDefault<NameHasher>>;

/// Hashes one byte string.
#[derive(Default)]
struct NameHasher(u64);

impl Hasher for NameHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 ^= xxh3_64(bytes);
    }

    fn write_usize(&mut self, _length: usize) {
        // The bytes' own hash depends on how many they are.
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
