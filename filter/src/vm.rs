//! The filter: what each of the proxy's callbacks does.
//!
//! One VM serves one worker. It has a plugin context for each configuration in use: several while a changed one takes
//! over, or where several listeners use the filter. The newest one speaks to the service for all of them, and all
//! decide by the same snapshot. The main thread's VM behaves as any other: it never sees a request, and its reports
//! say so.

use std::collections::BTreeMap;

use knhk_decision::spec::Record;
use knhk_decision::{Admission, Routed, Variant, Verdict, decide, evidence, headers, is_sampled};

use crate::config::{Config, FailMode, PeerSource, Recording};
use crate::gate::{Gate, Link};
use crate::host::{Host, LogLevel, Mono, StreamToken};
use crate::in_flight::{ContextId, InFlight};
use crate::observe::{Finished, Shown, WindowRef};
use crate::record::Decided;
use crate::request::{Headers, Request};
use crate::snapshots::Snapshot;
use crate::stream::Stream;

/// How often the filter reports, looks after its stream and hands its statistics to Envoy.
pub const TICK_MILLIS: u32 = 250;

/// An answer of the filter in the upstream's place.
struct Answer {
    status: u32,
    /// For access logs.
    details: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
}

/// There is nothing to decide by, and the plugin says to fail closed.
const NO_SNAPSHOT: Answer = Answer {
    status: 503,
    details: "knhk_no_snapshot",
    headers: &[(headers::REASON, "no_snapshot"), ("retry-after", "1")],
    body: "knhk: no policy yet\n",
};

/// The rollout does not admit the caller.
const PEER_NOT_ALLOWED: Answer = Answer {
    status: headers::PEER_NOT_ALLOWED_STATUS as u32,
    details: "knhk_peer_not_allowed",
    headers: &[(headers::REASON, headers::PEER_NOT_ALLOWED)],
    body: "knhk: this rollout does not admit the caller\n",
};

/// The status that `ext_authz` refuses with unless it is told otherwise.
const FORBIDDEN: u16 = 403;
const SERVER_ERRORS: u16 = 500;
/// What the details of answers begin with that no version gave: of Envoy's `ext_authz` filter, of its `ext_proc` filter
/// when the service is away, and of the service itself through `ext_proc`.
const NO_VERSIONS_DETAILS: [&str; 3] = ["ext_authz", "ext_proc", "knhk_"];

const REQUEST_ID: &str = "x-request-id";
const OUR_HEADERS: [&str; 6] = [
    headers::VARIANT,
    headers::ROLLOUT,
    headers::FLAGS,
    headers::CLASS,
    headers::POLICY,
    headers::RECEIPT,
];

/// All that a worker's filter knows.
#[derive(Debug)]
pub struct Vm {
    plugins: BTreeMap<ContextId, Plugin>,
    /// Only those that are counted or recorded when they are over.
    requests: InFlight<DecidedRequest>,
    /// The request that began last, and its plugin. The host hands over its headers next.
    begun: Option<(ContextId, ContextId)>,
    gate: Gate,
    /// Configurations so far.
    configured: u64,
}

/// One plugin context.
#[derive(Debug)]
struct Plugin {
    link: Link,
    fail_mode: FailMode,
    peer: PeerSource,
    record: Recording,
    /// What to decide by until the service has sent a snapshot.
    inline: Option<Snapshot>,
    /// The how-manieth configuration it is; host numbers wrap round, this does not.
    age: u64,
}

/// A request that is not over, and that a snapshot's rollout routed or denied.
#[derive(Debug)]
struct DecidedRequest {
    started: Mono,
    /// Where its version is observed. A request that was denied is no version's.
    observed: Option<Observed>,
    /// Set if it is to be recorded.
    decided: Option<Box<Decided>>,
}

/// Where a request is counted when it is over, and as what.
#[derive(Clone, Copy, Debug)]
struct Observed {
    window: WindowRef,
    variant: Variant,
    group: u8,
}

impl Default for Vm {
    fn default() -> Self {
        Self::new()
    }
}

impl Vm {
    /// A VM that has seen nothing.
    pub const fn new() -> Self {
        Self {
            plugins: BTreeMap::new(),
            requests: InFlight::new(),
            begun: None,
            gate: Gate::new(),
            configured: 0,
        }
    }

    /// A plugin has a configuration. `false` refuses it, after one line in the log that says why.
    pub fn on_configure<H: Host>(&mut self, host: &mut H, context: ContextId) -> bool {
        let config = host
            .plugin_configuration()
            .map_err(Into::into)
            .and_then(|bytes| Config::parse(&bytes));
        let config = match config {
            Ok(config) => config,
            Err(error) => {
                host.log(LogLevel::Error, &format!("knhk: {error}"));
                return false;
            }
        };
        host.set_tick(TICK_MILLIS);
        self.configured += 1;
        let stream = self
            .plugins
            .get(&context)
            .map_or(Stream::NEW, |plugin| plugin.link.stream);
        let plugin = Plugin {
            link: Link {
                cluster: config.cluster,
                stream,
            },
            fail_mode: config.fail_mode,
            peer: config.peer,
            record: config.record,
            inline: config.policy.map(Snapshot::inline),
            age: self.configured,
        };
        self.plugins.insert(context, plugin);
        true
    }

    /// The tick's period has passed for a plugin.
    pub fn on_tick<H: Host>(&mut self, host: &mut H, context: ContextId) {
        let speaks = self.speaks(context);
        match self.plugins.get_mut(&context) {
            Some(plugin) if speaks => self.gate.tick(host, &mut plugin.link),
            Some(plugin) => self.gate.replaced(host, &mut plugin.link),
            None => {}
        }
    }

    /// A message came on a stream of a plugin. What comes for one that has been replaced is not read: the newest
    /// plugin's stream brings the same.
    pub fn on_receive<H: Host>(&mut self, host: &mut H, context: ContextId, stream: StreamToken) {
        if !self.speaks(context) {
            return;
        }
        if let Some(plugin) = self.plugins.get_mut(&context) {
            self.gate.receive(host, &mut plugin.link, stream);
        }
    }

    /// A stream of a plugin was closed by the service, or broke.
    pub fn on_close<H: Host>(&mut self, host: &mut H, context: ContextId, stream: StreamToken, status: u32) {
        match self.plugins.get_mut(&context) {
            Some(plugin) => self.gate.closed(host, &mut plugin.link, stream, status),
            None => host.close(stream),
        }
    }

    /// A request begins.
    pub fn on_request(&mut self, context: ContextId, plugin: ContextId) {
        self.begun = Some((context, plugin));
    }

    /// A request's headers came: decide.
    pub fn on_request_headers<H: Host>(&mut self, host: &mut H, context: ContextId) {
        self.gate.count_request();
        let Ok(serialized) = host.request_headers() else {
            // It goes on undecided, to stable; but not with headers that look like a decision.
            for name in OUR_HEADERS {
                host.remove_request_header(name.as_bytes());
            }
            return;
        };
        let headers = Headers::new(&serialized);
        headers
            .spoofed()
            .for_each(|name| host.remove_request_header(name));

        let Some(plugin) = self.begun.take().and_then(|(begun, plugin)| {
            if begun == context {
                self.plugins.get(&plugin)
            } else {
                None
            }
        }) else {
            return;
        };
        let Some(snapshot) = self.gate.snapshot().or(plugin.inline.as_ref()) else {
            if plugin.fail_mode == FailMode::Closed {
                respond(host, &NO_SNAPSHOT);
                self.gate.count_denied();
            }
            return;
        };

        let facts = Request::new(headers, host, plugin.peer);
        let decision = decide(snapshot.policy(), &facts);
        let verdict = decision.verdict;
        let flags_failed = decision.flags_failed();
        let admission = verdict.admission();
        let records = plugin.record == Recording::Rollout || admission == Admission::Denied;
        let mut decided = None;
        if let (Some(routed), true, Some(policy)) = (verdict.routed(), records, snapshot.name())
            && is_recorded(routed, admission, &headers, &facts)
        {
            decided = Some(Box::new(Decided {
                time_unix_ms: facts.decided_ms(),
                policy: *policy,
                evidence: evidence(snapshot.policy(), &facts, &decision),
            }));
        }
        drop(facts);

        if let Verdict::Denied(_) = verdict {
            self.gate.count_peer_not_allowed();
            self.gate.count_flags_failed(flags_failed);
            if decided.is_some() {
                let started = host.mono();
                self.requests.insert(
                    context,
                    DecidedRequest {
                        started,
                        observed: None,
                        decided,
                    },
                );
            }
            respond(host, &PEER_NOT_ALLOWED);
            return;
        }
        for (name, value) in snapshot.headers(&verdict) {
            host.add_request_header(name, value);
        }
        if let Some(flags) = decision.flags_header() {
            host.add_request_header(headers::FLAGS, &flags);
        }
        let Verdict::Routed(routed) = &verdict else {
            self.gate.count_flags_failed(flags_failed);
            return;
        };
        let keyless = routed.key.is_none() && routed.variant != Variant::Staging;
        if let Some(window) = snapshot.window(routed) {
            let in_flight = DecidedRequest {
                started: host.mono(),
                observed: Some(Observed {
                    window,
                    variant: routed.variant,
                    group: routed.group,
                }),
                decided,
            };
            self.requests.insert(context, in_flight);
        }
        if keyless {
            self.gate.count_keyless();
        }
        self.gate.count_flags_failed(flags_failed);
    }

    /// A request is over.
    pub fn on_log<H: Host>(&mut self, host: &mut H, context: ContextId) {
        if let Some(request) = self.requests.remove(context) {
            let status = host.logged_status();
            self.finish(host, request, status, |host, name| {
                host.logged_header(name).map_or(Shown::Missing, Shown::Value)
            });
        }
    }

    /// A plugin or a request goes away; the host has reset a plugin's streams.
    pub fn on_delete<H: Host>(&mut self, host: &mut H, context: ContextId) {
        // Envoy logs a request first, but for two kinds: one that it redirects internally is not logged, and one over
        // HTTP/3 is logged when its last byte is acknowledged.
        if let Some(request) = self.requests.remove(context) {
            let status = host.response_status();
            self.finish(host, request, status, |_, _| Shown::Nothing);
        } else {
            self.plugins.remove(&context);
        }
    }

    fn finish<H: Host>(
        &mut self,
        host: &mut H,
        request: DecidedRequest,
        status: Option<u16>,
        header: impl Fn(&mut H, &str) -> Shown<H::Bytes>,
    ) {
        let duration_us = host.mono().micros_since(request.started);
        if let Some(observed) = request.observed
            && !status.is_some_and(|status| was_given_by_no_version(host, status))
        {
            let finished = Finished {
                variant: observed.variant,
                group: observed.group,
                status,
                duration_us,
            };
            self.gate
                .count_finished(observed.window, finished, |name| header(host, name));
        }
        if let Some(decided) = request.decided {
            self.gate.record(&decided.finished(status, duration_us));
        }
    }

    /// Whether a plugin is the one that speaks to the service.
    fn speaks(&self, context: ContextId) -> bool {
        let newest = self.plugins.iter().max_by_key(|(_, plugin)| plugin.age);
        newest.is_some_and(|(newest, _)| *newest == context)
    }
}

/// Whether the answer is one of the service, or of Envoy's filters that ask it: it says nothing about the version. A
/// service of ours that is away must not roll a version back. Asked only where the status may be such a refusal.
fn was_given_by_no_version<H: Host>(host: &mut H, status: u16) -> bool {
    (status == FORBIDDEN || status >= SERVER_ERRORS)
        && host.answer_details().is_some_and(|details| {
            NO_VERSIONS_DETAILS
                .iter()
                .any(|prefix| details.starts_with(prefix))
        })
}

fn respond<H: Host>(host: &mut H, answer: &Answer) {
    host.respond(answer.status, answer.details, answer.headers, answer.body);
}

/// Whether a rule wants this request's decision recorded.
fn is_recorded<H: Host>(
    routed: &Routed<'_>,
    admission: Admission,
    headers: &Headers<'_>,
    facts: &Request<'_, H>,
) -> bool {
    match &routed.rule.record {
        Record::None => false,
        Record::Denials => admission == Admission::Denied,
        Record::All => true,
        Record::Sample(share) => match headers.first(REQUEST_ID).filter(|id| !id.is_empty()) {
            Some(id) => is_sampled(*share, id),
            // Without an ID, chance draws; without chance it is rather recorded.
            None => facts.random().is_none_or(|bytes| is_sampled(*share, &bytes)),
        },
    }
}
