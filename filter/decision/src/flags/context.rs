//! A request as a flag's rule sees it.

use knhk_flags::limits::BYTES_PER_UNIT;
use knhk_flags::{Budget, Context, Texts};

use super::needs::{HEADERS, HOST, Headers, METHOD, Needs, PATH, PEER};
use crate::facts::Facts;
use crate::headers::PREFIX;
use crate::limits::FLAG_HEADER_COST;
use crate::peer::SpiffeId;
use crate::rule::{Host, without_query};

/// What a rule may read of a request, and no more. What is not text, or empty, is not there.
pub(super) struct Gathered<'f> {
    timestamp: i64,
    method: Option<&'f str>,
    host: Option<Host<'f>>,
    path: Option<&'f str>,
    peer: Option<&'f str>,
    headers: Texts<'f>,
}

impl<'f> Gathered<'f> {
    pub(super) fn of(needs: &Needs, facts: &'f impl Facts, budget: &mut Budget) -> Self {
        let part = |needed: bool, bytes: &dyn Fn() -> &'f [u8]| if needed { text(bytes()) } else { None };
        let gathered = Self {
            timestamp: if needs.time { facts.unix_seconds() } else { 0 },
            method: part(needs.method, &|| facts.method()),
            host: needs.host.then(|| Host::of(facts.authority())),
            path: part(needs.path, &|| without_query(facts.path())),
            peer: if needs.peer {
                facts.peer_spiffe_id().map(SpiffeId::as_str)
            } else {
                None
            },
            headers: headers(&needs.headers, facts, budget),
        };
        let texts = [gathered.method, gathered.path, gathered.peer];
        texts
            .into_iter()
            .flatten()
            .for_each(|text| budget.take(cost_of_bytes(text.len())));
        gathered
    }

    pub(super) fn context<'a>(&'a self, targeting_key: Option<&'a str>) -> Context<'a> {
        let host = self.host.as_ref().and_then(|host| text(host.as_bytes()));
        let named = [
            (METHOD, self.method),
            (HOST, host),
            (PATH, self.path),
            (PEER, self.peer),
        ];
        let mut context = Context::at(self.timestamp).with_texts(HEADERS, &self.headers);
        for (name, text) in named {
            if let Some(text) = text {
                context = context.with_text(name, text);
            }
        }
        match targeting_key {
            Some(key) => context.for_key(key),
            None => context,
        }
    }
}

fn headers<'f>(needed: &Headers, facts: &'f impl Facts, budget: &mut Budget) -> Texts<'f> {
    let mut taken: Vec<(&str, &[u8])> = match needed {
        Headers::Named(names) if names.is_empty() => return Texts::default(),
        Headers::Named(names) => {
            let wanted = |name: &str| names.iter().any(|wanted| **wanted == *name);
            named(facts).filter(|(name, _)| wanted(name)).collect()
        }
        Headers::All => named(facts).collect(),
    };
    for (_, value) in &taken {
        budget.take(FLAG_HEADER_COST + cost_of_bytes(value.len()));
    }
    // Stable, and the first value is the one that counts, even where it is no text.
    taken.sort_by_key(|(name, _)| *name);
    taken.dedup_by_key(|(name, _)| *name);
    let texts = taken
        .into_iter()
        .filter_map(|(name, value)| Some((name, text(value)?)));
    Texts::new(texts.collect())
}

/// The headers that a client may set, by their names.
fn named(facts: &impl Facts) -> impl Iterator<Item = (&str, &[u8])> {
    facts.headers().filter_map(|(name, value)| {
        let name = text(name)?;
        let is_header = !name.starts_with(':') && name != "host" && !name.starts_with(PREFIX);
        is_header.then_some((name, value))
    })
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty())
}

/// What text costs that is looked at once.
pub(super) fn cost_of_bytes(bytes: usize) -> usize {
    bytes / BYTES_PER_UNIT
}
