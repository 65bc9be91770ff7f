//! A request as the decision sees it: one copy of its headers, read in place.

use std::cell::{OnceCell, RefCell};

use knhk_decision::{Facts, SpiffeId, XFCC_HEADER, headers, xfcc_peer};

use crate::config::PeerSource;
use crate::host::Host;
use crate::pairs::Pairs;

/// A request's headers. Nothing is copied out of the host's buffer.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    pairs: Pairs<'a>,
    method: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    /// Whether the client sent headers that are ours to set.
    spoofed: bool,
}

impl<'a> Headers<'a> {
    /// Reads serialised headers.
    pub fn new(serialized: &'a [u8]) -> Self {
        let pairs = Pairs::new(serialized);
        let mut headers = Self {
            pairs,
            method: None,
            authority: None,
            path: None,
            spoofed: false,
        };
        for (name, value) in pairs.iter() {
            match name {
                b":method" => _ = headers.method.get_or_insert(value),
                b":authority" => _ = headers.authority.get_or_insert(value),
                b":path" => _ = headers.path.get_or_insert(value),
                _ => headers.spoofed |= is_ours(name),
            }
        }
        headers
    }

    /// Names of headers that the client must not set; a name comes once for each of its values.
    pub fn spoofed(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let pairs = if self.spoofed { self.pairs } else { Pairs::new(&[]) };
        pairs.iter().map(|(name, _)| name).filter(|name| is_ours(name))
    }

    /// The first value of a header that is the client's to set.
    pub fn first(&self, lower_case_name: &str) -> Option<&'a [u8]> {
        let name = lower_case_name.as_bytes();
        if is_ours(name) {
            None
        } else {
            self.pairs.first(name)
        }
    }

    /// Every header in the request's order, names in lower case; the client's copies of ours, which are deleted, are among
    /// them.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        self.pairs.iter()
    }

    /// The last value of a header, which is what was said last of one that proxies add to.
    fn last(&self, lower_case_name: &str) -> Option<&'a [u8]> {
        let name = lower_case_name.as_bytes();
        let values = self.pairs.iter().filter(|(known, _)| *known == name);
        values.last().map(|(_, value)| value)
    }
}

fn is_ours(name: &[u8]) -> bool {
    name.starts_with(headers::PREFIX.as_bytes())
}

/// The request that is being decided: its headers, and the caller where a rule asks for it.
#[derive(Debug)]
pub struct Request<'a, H> {
    headers: Headers<'a>,
    host: RefCell<&'a mut H>,
    peer_source: PeerSource,
    /// What the certificate calls the caller, once that was asked for.
    certified: OnceCell<Option<String>>,
    /// When, in milliseconds since 1970, once that was asked for.
    decided_ms: OnceCell<u64>,
}

impl<'a, H: Host> Request<'a, H> {
    /// A request with these headers; `host` is asked for the rest when it is needed.
    pub fn new(headers: Headers<'a>, host: &'a mut H, peer_source: PeerSource) -> Self {
        Self {
            headers,
            host: RefCell::new(host),
            peer_source,
            certified: OnceCell::new(),
            decided_ms: OnceCell::new(),
        }
    }

    /// When the request is decided, in milliseconds since 1970: the same however often it is asked for.
    pub fn decided_ms(&self) -> u64 {
        let read = || {
            self.host
                .try_borrow_mut()
                .map_or(0, |mut host| host.wall_millis())
        };
        *self.decided_ms.get_or_init(read)
    }

    /// Bytes that nobody can guess, if the host has any.
    pub fn random(&self) -> Option<[u8; 16]> {
        self.host
            .try_borrow_mut()
            .ok()
            .and_then(|mut host| host.random().ok())
    }

    fn certified(&self) -> Option<&str> {
        let read = || {
            self.host
                .try_borrow_mut()
                .ok()
                .and_then(|mut host| host.peer_uri_san())
        };
        self.certified.get_or_init(read).as_deref()
    }
}

impl<H: Host> Facts for Request<'_, H> {
    fn method(&self) -> &[u8] {
        self.headers.method.unwrap_or_default()
    }

    fn authority(&self) -> &[u8] {
        self.headers.authority.unwrap_or_default()
    }

    fn path(&self) -> &[u8] {
        self.headers.path.unwrap_or_default()
    }

    fn header(&self, lower_case_name: &str) -> Option<&[u8]> {
        self.headers.first(lower_case_name)
    }

    fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.headers.iter()
    }

    fn unix_seconds(&self) -> i64 {
        i64::try_from(self.decided_ms() / 1000).unwrap_or(i64::MAX)
    }

    fn peer_spiffe_id(&self) -> Option<SpiffeId<'_>> {
        match self.peer_source {
            PeerSource::Certificate => SpiffeId::parse(self.certified()?),
            PeerSource::Xfcc => xfcc_peer(self.headers.last(XFCC_HEADER)?),
        }
    }
}
