//! Which proxies may ask, and for which hosts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use knhk_decision::Host;
use knhk_identity::{Hosts, PeerInfo, Role, Roles, SpiffeId};
use knhk_telemetry::attribute::AccessDoor;
use tonic::{Extensions, Status};

use super::refusals::{Refusals, Refused, Who};
use crate::api::in_one_line;

/// Identities whose hosts are remembered; past it they are looked up again each time.
const MAX_REMEMBERED: usize = 16 * 1024;

/// A proxy as the service knows it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// Its SPIFFE ID. None where none is asked for: the listener is loopback's.
    pub(crate) identity: Option<Arc<str>>,
    /// The hosts that it receives policy for, reports on and asks about.
    pub(crate) hosts: Arc<Hosts>,
}

/// Lets proxies in.
#[derive(Debug)]
pub(crate) struct Proxies {
    /// None without `spiffe`.
    roles: Option<Arc<Roles>>,
    anybody: Arc<Proxy>,
    known: Mutex<HashMap<SpiffeId, Arc<Proxy>>>,
    refusals: Refusals,
}

impl Proxies {
    pub(crate) fn new(roles: Option<Arc<Roles>>, refusals: Refusals) -> Self {
        let anybody = Proxy {
            identity: None,
            hosts: Arc::new(Hosts::every()),
        };
        Self {
            roles,
            anybody: Arc::new(anybody),
            known: Mutex::default(),
            refusals,
        }
    }

    /// The proxy that made a call with these extensions, if it may ask at this door.
    pub(crate) fn admit(&self, extensions: &Extensions, door: AccessDoor) -> Result<Arc<Proxy>, Status> {
        let Some(roles) = &self.roles else {
            return Ok(Arc::clone(&self.anybody));
        };
        // A listener with roles is one over mutual TLS, which puts this in each call.
        let Some(PeerInfo { peer, .. }) = extensions.get::<PeerInfo>() else {
            return Err(Status::unauthenticated("the connection proves no SPIFFE ID"));
        };
        if let Some(proxy) = self.remembered(&peer.id) {
            return Ok(proxy);
        }
        let Some(hosts) = roles.hosts(&peer.id) else {
            let denied = roles
                .require(&peer.id, &[Role::Filter])
                .err()
                .map_or_else(String::new, |denied| denied.to_string());
            return Err(self.tell(Who::Proven(peer.id.clone()), door, target(door), denied));
        };
        let proxy = Arc::new(Proxy {
            identity: Some(peer.id.to_string().into()),
            hosts: Arc::new(hosts),
        });
        self.remember(&peer.id, &proxy);
        Ok(proxy)
    }

    /// Refuses a proxy that asks about a request to a host that is not its own.
    pub(crate) fn admit_host(&self, proxy: &Proxy, door: AccessDoor, authority: &[u8]) -> Result<(), Status> {
        let host = Host::of(authority);
        let host = String::from_utf8_lossy(host.as_bytes());
        if proxy.hosts.holds(&host) {
            return Ok(());
        }
        let reason = format!(
            "`{}` is not among its hosts in spiffe.allow.filters; add it there if it should be",
            in_one_line(&host)
        );
        Err(self.refuse(proxy, door, "about another's host", &reason))
    }

    /// Refuses a proxy that was let in at this door, for what it says or asks there. `what` is one of few.
    pub(crate) fn refuse(&self, proxy: &Proxy, door: AccessDoor, what: &str, reason: &str) -> Status {
        let id = proxy.identity.as_deref().and_then(|id| SpiffeId::new(id).ok());
        let who = id.map_or(Who::Unproven(None), Who::Proven);
        let reason = format!("{who}: {reason}");
        self.tell(who, door, &format!("{} {what}", target(door)), reason)
    }

    /// Tells of a refusal, and gives the answer.
    fn tell(&self, who: Who, door: AccessDoor, target: &str, reason: String) -> Status {
        self.refusals.tell(Refused {
            door,
            who,
            target: target.to_owned(),
            reason: reason.clone(),
        });
        Status::permission_denied(reason)
    }

    fn remembered(&self, id: &SpiffeId) -> Option<Arc<Proxy>> {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .map(Arc::clone)
    }

    fn remember(&self, id: &SpiffeId, proxy: &Arc<Proxy>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_REMEMBERED {
            known.insert(id.clone(), Arc::clone(proxy));
        }
    }
}

fn target(door: AccessDoor) -> &'static str {
    match door {
        AccessDoor::Gate => "Gate/Stream",
        AccessDoor::Check => "Authorization/Check",
        AccessDoor::Process => "ExternalProcessor/Process",
        AccessDoor::Handshake => "handshake",
        AccessDoor::Http => "HTTP",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knhk_identity::FilterRule;
    use knhk_telemetry::ServiceMetrics;

    #[test]
    fn a_proxy_asks_for_its_hosts_and_a_refusal_names_it_and_is_counted() {
        let text = "spiffe://example.org/ns/shop/sa/web";
        let rule = FilterRule {
            id: text.parse().expect("a pattern"),
            hosts: vec!["shop.example".parse().expect("a host")],
        };
        let roles = Roles::new(vec![rule], []);
        let id = SpiffeId::new(text).expect("an ID");
        let proxy = Proxy {
            identity: Some(text.into()),
            hosts: Arc::new(roles.hosts(&id).expect("a filter")),
        };
        let metrics = Arc::new(ServiceMetrics::new("0.1.0"));
        let (refusals, _waiting) = Refusals::new(Arc::clone(&metrics));
        let proxies = Proxies::new(Some(Arc::new(roles)), refusals);
        let asks = |host: &[u8]| proxies.admit_host(&proxy, AccessDoor::Check, host);
        asks(b"SHOP.example:8080").expect("its own");
        let refused = asks(b"pay.example").expect_err("another's");
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        assert!(refused.message().starts_with(text), "{}", refused.message());
        assert!(
            metrics
                .expose()
                .contains("knhk_access_refused_total{door=\"check\"} 1\n")
        );
    }

    #[test]
    fn a_call_without_an_identity_is_let_in_only_where_none_is_asked_for() {
        let metrics = Arc::new(ServiceMetrics::new("0.1.0"));
        let (refusals, _waiting) = Refusals::new(metrics);
        let admit =
            |roles| Proxies::new(roles, refusals.clone()).admit(&Extensions::default(), AccessDoor::Gate);
        let anybody = admit(None).expect("loopback");
        assert!(anybody.identity.is_none() && anybody.hosts.holds("any.example"));
        let refused = admit(Some(Arc::new(Roles::default()))).expect_err("it proves nothing");
        assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    }
}
