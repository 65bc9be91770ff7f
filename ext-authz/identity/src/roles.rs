//! What a SPIFFE ID may do. Whoever is not named may do nothing.

use std::fmt;

use serde::Serialize;
use spiffe::SpiffeId;
use thiserror::Error;

use crate::pattern::{HostPattern, IdPattern};

/// What a caller may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A proxy: receives policy for its hosts, reports on them, asks `Check`.
    Filter,
    /// Another region: posts receipts and state.
    Peer,
    /// Applies and steers rollouts, and sets flags.
    Deployer,
    /// Rotates keys.
    KeyAdmin,
    /// Places and releases holds, runs retention.
    Custodian,
    /// Reads receipts and the log.
    Auditor,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] = [
        Self::Filter,
        Self::Peer,
        Self::Deployer,
        Self::KeyAdmin,
        Self::Custodian,
        Self::Auditor,
    ];

    /// The role's key under `spiffe.allow`; stable, for labels too.
    pub fn label(self) -> &'static str {
        match self {
            Self::Filter => "filters",
            Self::Peer => "peers",
            Self::Deployer => "deployers",
            Self::KeyAdmin => "key_admins",
            Self::Custodian => "custodians",
            Self::Auditor => "auditors",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A caller lacks what it needs. The text is what the caller and the log see.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{id} is not one of spiffe.allow.{}; add it there if it should be",
    list(needed)
)]
pub struct Denied {
    /// Who asked.
    pub id: SpiffeId,
    /// Any of these would have done.
    pub needed: Vec<Role>,
}

fn list(roles: &[Role]) -> String {
    roles
        .iter()
        .map(|role| role.label())
        .collect::<Vec<_>>()
        .join(" or ")
}

/// Who has which role. Empty, it denies everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    filters: Vec<FilterRule>,
    others: Vec<(Role, IdPattern)>,
}

/// These proxies, for these hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterRule {
    /// Which proxies.
    pub id: IdPattern,
    /// Which hosts they receive policy for and report on; never empty where it comes from a configuration.
    pub hosts: Vec<HostPattern>,
}

impl Roles {
    /// `others` names a role with each pattern; for [`Role::Filter`] only `filters` count, because it needs hosts.
    pub fn new(filters: Vec<FilterRule>, others: impl IntoIterator<Item = (Role, IdPattern)>) -> Self {
        let others = others
            .into_iter()
            .filter(|(role, _)| *role != Role::Filter)
            .collect();
        Self { filters, others }
    }

    /// Whether `id` has `role`.
    pub fn has(&self, id: &SpiffeId, role: Role) -> bool {
        match role {
            Role::Filter => self.filters.iter().any(|rule| rule.id.holds(id)),
            other => self
                .others
                .iter()
                .any(|(role, pattern)| *role == other && pattern.holds(id)),
        }
    }

    /// Refuses `id` unless it has one of `needed`.
    pub fn require(&self, id: &SpiffeId, needed: &[Role]) -> Result<(), Denied> {
        if needed.iter().any(|role| self.has(id, *role)) {
            return Ok(());
        }
        Err(Denied {
            id: id.clone(),
            needed: needed.to_vec(),
        })
    }

    /// Every role of `id`, in the order of [`Role::ALL`].
    pub fn of(&self, id: &SpiffeId) -> Vec<Role> {
        Role::ALL.into_iter().filter(|role| self.has(id, *role)).collect()
    }

    /// The hosts of the proxy `id`: those of every rule that names it. None where no rule does.
    pub fn hosts(&self, id: &SpiffeId) -> Option<Hosts> {
        let mut rules = self.filters.iter().filter(|rule| rule.id.holds(id)).peekable();
        rules.peek()?;
        Some(Hosts(rules.flat_map(|rule| rule.hosts.iter().cloned()).collect()))
    }
}

/// The hosts that a proxy receives policy for and reports on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts(Vec<HostPattern>);

impl Hosts {
    /// Every host: what a proxy has where no SPIFFE identities are used.
    pub fn every() -> Self {
        Self(vec![HostPattern::every()])
    }

    /// Whether `host`, without a port, is one of them.
    pub fn holds(&self, host: &str) -> bool {
        self.0.iter().any(|pattern| pattern.holds(host))
    }

    /// Whether `wanted`, a rollout's hosts, has a host among these. No hosts mean every host.
    pub fn overlap(&self, wanted: &[HostPattern]) -> bool {
        wanted.is_empty()
            || wanted
                .iter()
                .any(|each| self.0.iter().any(|mine| mine.overlaps(each)))
    }

    /// Whether all of `wanted`, a rollout's hosts, are among these. No hosts mean every host.
    pub fn cover(&self, wanted: &[HostPattern]) -> bool {
        let every = Self::every().0;
        let wanted = if wanted.is_empty() { &every } else { wanted };
        wanted
            .iter()
            .all(|each| self.0.iter().any(|mine| mine.covers(each)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(text: &str) -> SpiffeId {
        SpiffeId::new(text).expect("an ID")
    }

    fn patterns(texts: &[&str]) -> Vec<HostPattern> {
        texts
            .iter()
            .map(|text| text.parse().expect("a pattern"))
            .collect()
    }

    fn roles() -> Roles {
        Roles::new(
            vec![
                FilterRule {
                    id: "spiffe://example.org/ns/shop/*".parse().expect("a pattern"),
                    hosts: patterns(&["shop.example"]),
                },
                FilterRule {
                    id: "spiffe://example.org/ns/shop/gateway".parse().expect("a pattern"),
                    hosts: patterns(&["*.example"]),
                },
            ],
            [
                (
                    Role::Deployer,
                    "spiffe://example.org/ci/*".parse().expect("a pattern"),
                ),
                (
                    Role::Auditor,
                    "spiffe://audit.example/*".parse().expect("a pattern"),
                ),
                (
                    Role::Filter,
                    "spiffe://example.org/no-hosts".parse().expect("a pattern"),
                ),
            ],
        )
    }

    #[test]
    fn who_is_not_named_may_nothing() {
        let roles = roles();
        for stranger in [
            "spiffe://example.org/other",
            "spiffe://evil.example/ci/a",
            "spiffe://example.org/no-hosts",
        ] {
            assert_eq!(roles.of(&id(stranger)), [], "{stranger}");
            assert_eq!(roles.hosts(&id(stranger)), None);
        }
        assert!(
            Role::ALL
                .iter()
                .all(|role| !Roles::default().has(&id("spiffe://example.org/ci/a"), *role))
        );
    }

    #[test]
    fn a_role_is_not_another_one() {
        let (roles, deployer) = (roles(), id("spiffe://example.org/ci/main"));
        assert_eq!(roles.of(&deployer), [Role::Deployer]);
        roles
            .require(&deployer, &[Role::KeyAdmin, Role::Deployer])
            .expect("one is enough");
        let denied = roles
            .require(&deployer, &[Role::KeyAdmin])
            .expect_err("not that")
            .to_string();
        assert_eq!(
            denied,
            "spiffe://example.org/ci/main is not one of spiffe.allow.key_admins; add it there if it should be"
        );
    }

    #[test]
    fn a_proxy_has_the_hosts_of_every_rule_that_names_it() {
        let roles = roles();
        let web = roles
            .hosts(&id("spiffe://example.org/ns/shop/web"))
            .expect("a filter");
        assert!(web.holds("SHOP.example") && !web.holds("pay.example"));
        let gateway = roles
            .hosts(&id("spiffe://example.org/ns/shop/gateway"))
            .expect("a filter");
        assert!(gateway.holds("shop.example") && gateway.holds("pay.example"));
        assert!(web.overlap(&patterns(&["*.example"])) && !web.cover(&patterns(&["*.example"])));
        assert!(gateway.cover(&patterns(&["*.example", "a.b.example"])));
        assert!(web.overlap(&[]) && !gateway.cover(&[]), "no hosts are every host");
        assert!(Hosts::every().cover(&[]));
    }

    proptest! {
        /// No pattern of another trust domain gives a role here.
        #[test]
        fn roles_stay_in_their_trust_domain(name in "[a-z]{1,8}\\.test", path in "(/[a-z]{1,3}){1,4}") {
            let stranger = id(&format!("spiffe://{name}{path}"));
            prop_assert!(roles().of(&stranger).is_empty());
        }
    }
}
