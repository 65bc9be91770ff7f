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
    roles: Option<Roles>,
    anybody: Arc<Proxy>,
    known: Mutex<HashMap<SpiffeId, Arc<Proxy>>>,
    refusals: Refusals,
}

impl Proxies {
    pub(crate) fn new(roles: Option<Roles>, refusals: Refusals) -> Self {
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
