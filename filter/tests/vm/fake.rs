//! A model of Envoy: it holds one request's headers, streams and metrics, and lets go of a stream only when both sides
//! are closed, as Envoy does.

use std::collections::BTreeMap;

use knhk_decision::spec::{HeaderMatch, KeySpec, Record, StagingSpec, ValueMatch, Weight};
use knhk_decision::{PolicyDoc, PolicyId, RolloutRule, StagingRule};
use knhk_filter::host::{Host, LogLevel, MetricId, MetricKind, Mono, Refused, StreamToken};
use knhk_filter::in_flight::ContextId;
use knhk_filter::pairs;
use knhk_filter::vm::{TICK_MILLIS, Vm};
use knhk_proto::v1;
use prost::Message;
use sha2::{Digest, Sha256};

pub(crate) type Header = (Vec<u8>, Vec<u8>);

#[derive(Debug, Default)]
pub(crate) struct FakeHost {
    pub(crate) config: Vec<u8>,
    pub(crate) now: Mono,
    drawn: u64,
    /// The headers of the request that is being handled.
    pub(crate) headers: Vec<Header>,
    pub(crate) refuse_headers: bool,
    pub(crate) refuse_open: bool,
    pub(crate) peer: Option<String>,
    pub(crate) peer_reads: usize,
    pub(crate) clock_reads: usize,
    pub(crate) answered: Option<(u32, Vec<(String, String)>)>,
    pub(crate) status: Option<u16>,
    /// The answer's headers.
    pub(crate) answer: Vec<(String, String)>,
    pub(crate) answer_reads: usize,
    pub(crate) details: Option<String>,
    metrics: Vec<(String, u64)>,
    pub(crate) streams: BTreeMap<StreamToken, FakeStream>,
    last_stream: u32,
    incoming: Vec<u8>,
    pub(crate) lines: Vec<(LogLevel, String)>,
}

#[derive(Debug, Default)]
pub(crate) struct FakeStream {
    pub(crate) plugin: Option<ContextId>,
    pub(crate) cluster: String,
    pub(crate) sent: Vec<v1::Up>,
    remote_closed: bool,
    local_closed: bool,
}

impl FakeHost {
    pub(crate) fn metric(&self, name: &str) -> u64 {
        self.metrics
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| *value)
            .expect("a metric that was defined")
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let value = self
            .headers
            .iter()
            .find(|(known, _)| known == name.as_bytes())
            .map(|(_, value)| value);
        value.map(|value| String::from_utf8(value.clone()).expect("UTF-8"))
    }
}

impl Host for FakeHost {
    type Bytes = Vec<u8>;

    fn plugin_configuration(&mut self) -> Result<Vec<u8>, Refused> {
        Ok(self.config.clone())
    }

    fn node_id(&mut self) -> Option<String> {
        Some("proxy-1".to_owned())
    }

    fn set_tick(&mut self, millis: u32) {
        assert_eq!(millis, TICK_MILLIS);
    }

    fn log(&mut self, level: LogLevel, line: &str) {
        assert!(!line.contains('\n'), "{line}");
        self.lines.push((level, line.to_owned()));
    }

    fn mono(&mut self) -> Mono {
        self.now
    }

    fn wall_millis(&mut self) -> u64 {
        self.clock_reads += 1;
        1_700_000_000_000 + self.now.0 / 1_000_000
    }

    fn random(&mut self) -> Result<[u8; 16], Refused> {
        self.drawn += 1;
        Ok(Sha256::digest(self.drawn.to_le_bytes())[..16]
            .try_into()
            .expect("16 bytes"))
    }

    fn define_metric(&mut self, _kind: MetricKind, name: &str) -> Result<MetricId, Refused> {
        assert!(
            self.metrics.iter().all(|(known, _)| known != name),
            "{name} was defined before"
        );
        self.metrics.push((name.to_owned(), 0));
        Ok(MetricId(u32::try_from(self.metrics.len() - 1).expect("few")))
    }

    fn increment(&mut self, metric: MetricId, by: u64) {
        assert!(by > 0, "Envoy refuses to add 0");
        self.metrics[metric.0 as usize].1 += by;
    }

    fn record(&mut self, metric: MetricId, value: u64) {
        self.metrics[metric.0 as usize].1 = value;
    }

    fn request_headers(&mut self) -> Result<Vec<u8>, Refused> {
        if self.refuse_headers {
            return Err(Refused(2));
        }
        let borrowed: Vec<_> = self
            .headers
            .iter()
            .map(|(n, v)| (n.as_slice(), v.as_slice()))
            .collect();
        Ok(pairs::serialize(&borrowed))
    }

    fn remove_request_header(&mut self, name: &[u8]) {
        self.headers.retain(|(known, _)| known != name);
    }

    fn add_request_header(&mut self, name: &str, value: &str) {
        self.headers.push((name.into(), value.into()));
    }

    fn peer_uri_san(&mut self) -> Option<String> {
        self.peer_reads += 1;
        self.peer.clone()
    }

    fn respond(&mut self, status: u32, _details: &str, headers: &[(&str, &str)], _body: &str) {
        let headers = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        self.answered = Some((status, headers));
    }

    fn logged_status(&mut self) -> Option<u16> {
        self.status
    }

    fn logged_header(&mut self, name: &str) -> Option<Vec<u8>> {
        self.answer_reads += 1;
        let value = self
            .answer
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        value.map(|(_, value)| value.as_bytes().to_vec())
    }

    fn answer_details(&mut self) -> Option<String> {
        self.details.clone()
    }

    fn response_status(&mut self) -> Option<u16> {
        self.status
    }

    fn open_stream(&mut self, cluster: &str, service: &str, method: &str) -> Result<StreamToken, Refused> {
        assert_eq!((service, method), ("knhk.v1.Gate", "Stream"));
        if self.refuse_open {
            return Err(Refused(10));
        }
        self.last_stream += 1;
        let token = StreamToken(self.last_stream);
        self.streams.insert(
            token,
            FakeStream {
                cluster: cluster.to_owned(),
                ..FakeStream::default()
            },
        );
        Ok(token)
    }

    fn send(&mut self, stream: StreamToken, message: &[u8]) -> Result<(), Refused> {
        let stream = self.streams.get_mut(&stream).ok_or(Refused(1))?;
        stream
            .sent
            .push(v1::Up::decode(message).expect("a message of the protocol"));
        Ok(())
    }

    fn close(&mut self, stream: StreamToken) {
        if let Some(open) = self.streams.get_mut(&stream) {
            open.local_closed = true;
            if open.remote_closed {
                self.streams.remove(&stream);
            }
        }
    }

    fn cancel(&mut self, stream: StreamToken) {
        self.streams.remove(&stream);
    }

    fn received(&mut self) -> Result<Vec<u8>, Refused> {
        Ok(self.incoming.clone())
    }
}

/// A worker: its filter, and the proxy around it.
#[derive(Debug, Default)]
pub(crate) struct Worker {
    pub(crate) vm: Vm,
    pub(crate) host: FakeHost,
    last_context: u32,
}

impl Worker {
    /// A worker with one plugin.
    pub(crate) fn new(config: &str) -> (Self, ContextId) {
        let mut worker = Self::default();
        let plugin = worker.configure(config).expect("a valid configuration");
        (worker, plugin)
    }

    /// A worker whose filter runs a snapshot of these rules.
    pub(crate) fn running(rules: &[RolloutRule]) -> (Self, ContextId) {
        let (mut worker, plugin) = Self::new("");
        worker.tick(plugin);
        worker.deliver_snapshot(plugin, &snapshot(1, rules));
        (worker, plugin)
    }

    /// A new plugin context gets its configuration.
    pub(crate) fn configure(&mut self, config: &str) -> Option<ContextId> {
        let plugin = self.next_context();
        self.host.config = config.as_bytes().to_vec();
        self.vm.on_configure(&mut self.host, plugin).then_some(plugin)
    }

    pub(crate) fn tick(&mut self, plugin: ContextId) {
        self.host.now = self.host.now.plus_millis(TICK_MILLIS.into());
        let known: Vec<_> = self.host.streams.keys().copied().collect();
        self.vm.on_tick(&mut self.host, plugin);
        for (token, stream) in &mut self.host.streams {
            if !known.contains(token) {
                stream.plugin = Some(plugin);
            }
        }
    }

    /// Ticks until a stream of this plugin is open.
    pub(crate) fn reconnect(&mut self, plugin: ContextId) -> StreamToken {
        loop {
            self.tick(plugin);
            if let Some(token) = self.stream(plugin) {
                return token;
            }
        }
    }

    /// The open stream of a plugin.
    pub(crate) fn stream(&self, plugin: ContextId) -> Option<StreamToken> {
        let open = |(_, stream): &(&StreamToken, &FakeStream)| {
            stream.plugin == Some(plugin) && !stream.remote_closed
        };
        self.host.streams.iter().find(open).map(|(token, _)| *token)
    }

    /// What was sent on the plugin's open stream and not looked at yet.
    pub(crate) fn sent(&mut self, plugin: ContextId) -> Vec<v1::up::Message> {
        let token = self.stream(plugin).expect("an open stream");
        let sent = std::mem::take(&mut self.host.streams.get_mut(&token).expect("it").sent);
        sent.into_iter()
            .map(|up| up.message.expect("a message"))
            .collect()
    }

    pub(crate) fn deliver_bytes(&mut self, plugin: ContextId, bytes: Vec<u8>) {
        let token = self.stream(plugin).expect("an open stream");
        self.host.incoming = bytes;
        self.vm.on_receive(&mut self.host, plugin, token);
    }

    pub(crate) fn deliver(&mut self, plugin: ContextId, message: v1::down::Message) {
        self.deliver_bytes(
            plugin,
            v1::Down {
                message: Some(message),
            }
            .encode_to_vec(),
        );
    }

    pub(crate) fn deliver_snapshot(&mut self, plugin: ContextId, snapshot: &v1::Snapshot) {
        self.deliver(plugin, v1::down::Message::Snapshot(snapshot.clone()));
    }

    /// The service closes the plugin's stream.
    pub(crate) fn remote_close(&mut self, plugin: ContextId, status: u32) {
        let token = self.stream(plugin).expect("an open stream");
        self.host.streams.get_mut(&token).expect("it").remote_closed = true;
        self.vm.on_close(&mut self.host, plugin, token, status);
    }

    /// A request comes and is decided; its headers are then in `host.headers`.
    pub(crate) fn request(&mut self, plugin: ContextId, headers: Vec<Header>) -> ContextId {
        let request = self.next_context();
        self.host.headers = headers;
        self.host.answered = None;
        self.vm.on_request(request, plugin);
        self.vm.on_request_headers(&mut self.host, request);
        request
    }

    /// A request ends, after so many microseconds.
    pub(crate) fn finish(&mut self, request: ContextId, status: Option<u16>, after_us: u64) {
        self.host.now = Mono(self.host.now.0 + after_us * 1_000);
        self.host.status = status;
        self.vm.on_log(&mut self.host, request);
        self.vm.on_delete(&mut self.host, request);
    }

    pub(crate) fn next_context(&mut self) -> ContextId {
        self.last_context += 1;
        ContextId(self.last_context)
    }
}

/// A rule for every request to `checkout.example.com`, keyed by `x-user-id`.
pub(crate) fn rule(weight_percent: u32, window: u64) -> RolloutRule {
    RolloutRule {
        name: "checkout".to_owned(),
        generation: 1,
        window,
        salt: None,
        r#match: knhk_decision::spec::MatchSpec {
            hosts: vec!["checkout.example.com".to_owned()],
            ..Default::default()
        },
        admit: None,
        staging: None,
        key: vec![KeySpec::Header("x-user-id".to_owned())],
        weight: Weight::from_ppm(weight_percent * 10_000).expect("a weight"),
        stable: "v1".to_owned(),
        canary: "v2".to_owned(),
        flags: Vec::new(),
        record: Record::None,
        thresholds: vec![250_000],
        outcomes: Vec::new(),
    }
}

/// A staging stage that picks requests with the header `x-tester`.
pub(crate) fn testers() -> StagingRule {
    StagingRule {
        active: true,
        r#match: StagingSpec {
            headers: vec![HeaderMatch {
                name: "x-tester".to_owned(),
                value: ValueMatch::Present(true),
            }],
            ..StagingSpec::default()
        },
    }
}

/// A good snapshot.
pub(crate) fn snapshot(n: u64, rules: &[RolloutRule]) -> v1::Snapshot {
    of_document(&PolicyDoc::new(PolicyId { epoch: 7, n }, rules.to_vec()))
}

/// A snapshot of this document, whatever it says.
pub(crate) fn of_document(document: &PolicyDoc) -> v1::Snapshot {
    let policy = document.to_bytes();
    let PolicyId { epoch, n } = document.id();
    v1::Snapshot {
        id: Some(v1::SnapshotId { epoch, n }),
        sha256: Sha256::digest(&policy).to_vec(),
        policy,
    }
}

/// The headers of a request by this user.
pub(crate) fn request_of(user: &str) -> Vec<Header> {
    [
        (":method", "GET"),
        (":authority", "checkout.example.com"),
        (":path", "/cart?x=1"),
        ("x-user-id", user),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .to_vec()
}
