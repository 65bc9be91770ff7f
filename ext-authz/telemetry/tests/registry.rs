//! What `/metrics` shows and what the registry lists are the same, both ways round.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use knhk_telemetry::attribute::{
    AccessDoor, AppendReason, CheckOutcome, DecisionVia, ExchangeOutcome, KmsOperation, KmsOutcome,
    NackReason, ObservationReason, Phase, RegionBreakerState, RegionQuorumOutcome, RegionReceivedOutcome,
    RegionReplicationOutcome, RegionSendOutcome, RollbackReason, RotationOutcome, SvidRefusal,
    SvidSourceError, TlsOutcome, TlsSide,
};
use knhk_telemetry::{Definition, Instrument, ServiceMetrics, event, metric, span};

/// Every method called once, so that every metric has a sample.
fn everything() -> ServiceMetrics {
    let metrics = ServiceMetrics::new("0.1.0");
    metrics.workers(3, 1);
    metrics.report_received();
    metrics.observation_ignored(ObservationReason::Older);
    metrics.snapshot_made(7);
    metrics.snapshot_sent();
    metrics.snapshot_acked();
    metrics.snapshot_nacked(NackReason::Checksum);
    metrics.decisions_recorded(DecisionVia::Filter, 5);
    metrics.decisions_missing(2);
    metrics.decision_malformed();
    metrics.decisions_of_others(3);
    metrics.flags_failed(2);
    metrics.check(CheckOutcome::Recorded, Duration::from_micros(70));
    drop(metrics.exchange_opened());
    metrics.exchange_refused();
    metrics.exchange(ExchangeOutcome::Recorded);
    metrics.exchange_violated();
    metrics.exchange_answered(Duration::from_millis(2));
    metrics.log_sizes(10, 9);
    metrics.appended(Duration::from_millis(3));
    metrics.append_failed(AppendReason::DiskFull);
    metrics.signing_failed();
    metrics.key_rotated(RotationOutcome::Rotated);
    metrics.kms_called(KmsOperation::Sign, KmsOutcome::Ok, Duration::from_millis(3));
    metrics.svid_rotated(1_800_000_000);
    metrics.svid_update_refused(SvidRefusal::Expired);
    metrics.svid_source_failed(SvidSourceError::NoIdentity);
    metrics.tls_handshake(TlsSide::Server, TlsOutcome::Full);
    metrics.access_refused(AccessDoor::Gate);
    metrics.rollout("checkout", 0.0001, Phase::Progressing);
    metrics.reporters_set_aside("checkout", 1);
    metrics.rolled_back("checkout", RollbackReason::SuccessRate);
    metrics.http_request("/v1/rollouts/{name}", 404);
    let regions = &metrics.regions;
    regions.committed(9);
    regions.peer("eu-west-1", 8, 1, Duration::from_millis(40));
    regions.breaker("eu-west-1", RegionBreakerState::Closed);
    regions.split_view("eu-west-1", false);
    regions.sent("eu-west-1", RegionSendOutcome::Acknowledged);
    regions.received("eu-west-1", RegionReceivedOutcome::Taken);
    regions.replicated("eu-west-1", RegionReplicationOutcome::Taken);
    regions.quorum_waited(RegionQuorumOutcome::Reached);
    metrics
}

/// What the exposition says of one metric.
#[derive(Debug, Default, PartialEq, Eq)]
struct Exposed {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
    samples: usize,
}

/// Reads the text exposition. A sample belongs to the family that was declared last.
fn exposed(text: &str) -> BTreeMap<String, Exposed> {
    let mut families: BTreeMap<String, Exposed> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and a text");
            name.clone_into(&mut current);
            let family = Exposed {
                help: help.to_owned(),
                ..Exposed::default()
            };
            assert!(
                families.insert(name.to_owned(), family).is_none(),
                "{name} is declared twice"
            );
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            kind.clone_into(&mut families.get_mut(name).expect("HELP comes first").kind);
        } else if !line.starts_with('#') {
            assert!(line.starts_with(current.as_str()), "{line} is not of {current}");
            let family = families.get_mut(&current).expect("declared above");
            family.samples += 1;
            family.labels.extend(label_names(line));
        }
    }
    families
}

/// The names of a sample's labels, without the bucket's bound.
fn label_names(sample: &str) -> Vec<String> {
    let Some((_, rest)) = sample.split_once('{') else {
        return Vec::new();
    };
    let (labels, _) = rest.rsplit_once('}').expect("labels are closed");
    labels
        .split(',')
        .map(|label| label.split_once('=').expect("name=value").0.to_owned())
        .filter(|name| name != "le")
        .collect()
}

/// What the registry wants to see of one metric.
fn wanted(definition: &Definition) -> (String, Exposed) {
    let unit = definition
        .exposed_unit()
        .map(|unit| format!("_{}", unit.as_str()))
        .unwrap_or_default();
    let kind = match definition.instrument {
        Instrument::Counter => "counter",
        Instrument::UpDownCounter | Instrument::Gauge => "gauge",
        Instrument::Histogram => "histogram",
    };
    let labels = definition
        .attributes
        .iter()
        .map(|key| key.rsplit('.').next().unwrap_or(key).to_owned())
        .collect();
    let name = format!("{}{unit}", definition.exposed_name());
    (
        name,
        Exposed {
            kind: kind.into(),
            help: format!("{}.", definition.brief),
            labels,
            samples: 0,
        },
    )
}

#[test]
fn every_metric_that_is_shown_is_in_the_registry_and_the_other_way_round() {
    let mut shown = exposed(&everything().expose());
    for (name, family) in &mut shown {
        assert!(
            family.samples > 0,
            "{name} has no sample: does everything() record it?"
        );
        family.samples = 0;
    }
    let listed: BTreeMap<String, Exposed> = metric::service::ALL.iter().map(|d| wanted(d)).collect();
    assert_eq!(shown, listed);
}

#[test]
fn names_of_filter_and_service_differ() {
    let filter: BTreeSet<&str> = metric::filter::ALL.iter().map(|d| d.name).collect();
    let service: BTreeSet<&str> = metric::service::ALL.iter().map(|d| d.name).collect();
    assert_eq!(filter.intersection(&service).count(), 0);
    assert!(
        metric::filter::ALL.iter().all(|d| d.attributes.is_empty()),
        "Envoy gives a filter's statistics no labels"
    );
}

/// The filter is built for wasm without this crate, so its names are read where they stand.
#[test]
fn the_filter_defines_what_the_registry_lists() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../filter/src/stats.rs");
    let source = std::fs::read_to_string(source).expect("the filter's statistics");
    let defined: BTreeSet<String> = source
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|text| text.starts_with("knhk_"))
        .map(str::to_owned)
        .collect();
    let listed: BTreeSet<String> = metric::filter::ALL.iter().map(|d| d.exposed_name()).collect();
    assert_eq!(defined, listed);
}

/// What is not in the registry has no constant; that none of it is only written down is seen where the service uses them.
#[test]
fn every_span_and_event_that_the_registry_lists_is_in_the_service() {
    let mut source = String::new();
    read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../src"), &mut source);
    let listed = [("span", span::ALL), ("event", event::ALL)];
    for (module, (constant, name)) in listed
        .iter()
        .flat_map(|(module, all)| all.iter().map(move |one| (module, one)))
    {
        assert!(source.contains(&format!("{module}::{constant}")), "{name}");
    }
    assert!(!span::ALL.is_empty() && !event::ALL.is_empty());
}

/// The text of all Rust files below a folder.
fn read_all(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read_all(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(&path).expect("text"));
        }
    }
}

#[test]
fn closed_labels_are_shown_as_zero_from_the_start() {
    let text = ServiceMetrics::new("0.1.0").expose();
    for sample in [
        r#"knhk_checks_total{outcome="failed_open"} 0"#,
        r#"knhk_gate_workers{newest="false"} 0"#,
        r#"knhk_snapshots_nacked_total{reason="_OTHER"} 0"#,
        r#"knhk_build{version="0.1.0"} 1"#,
        "knhk_check_duration_seconds_count 0",
    ] {
        assert!(
            text.lines().any(|line| line == sample),
            "{sample} is not in:\n{text}"
        );
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn a_stream_counts_while_it_is_open() {
    let metrics = ServiceMetrics::new("0.1.0");
    let streams = |n: u32| {
        metrics
            .expose()
            .lines()
            .any(|line| line == format!("knhk_gate_streams {n}"))
    };
    let first = metrics.stream_opened();
    let second = metrics.stream_opened();
    assert!(streams(2));
    drop(first);
    assert!(streams(1));
    drop(second);
    assert!(streams(0));
}

#[test]
fn a_rollout_is_in_one_phase_and_is_gone_when_deleted() {
    let metrics = ServiceMetrics::new("0.1.0");
    metrics.rollout("checkout", 5.0, Phase::Progressing);
    metrics.rollout("checkout", 0.0, Phase::Failed);
    metrics.rolled_back("checkout", RollbackReason::Duration);
    let text = metrics.expose();
    assert!(
        text.contains("knhk_rollout_phase{rollout=\"checkout\",phase=\"failed\"} 1"),
        "{text}"
    );
    assert!(
        text.contains("knhk_rollout_phase{rollout=\"checkout\",phase=\"progressing\"} 0"),
        "{text}"
    );
    assert!(
        text.contains("knhk_rollout_weight_percent{rollout=\"checkout\"} 0"),
        "{text}"
    );
    metrics.rollout_deleted("checkout");
    let text = metrics.expose();
    assert!(
        !text.contains("knhk_rollout_phase{") && !text.contains("knhk_rollout_weight_percent{"),
        "{text}"
    );
    assert!(
        text.contains("knhk_rollbacks_total{rollout=\"checkout\",reason=\"request-duration\"} 1"),
        "{text}"
    );
}

#[test]
fn what_a_sender_makes_up_is_no_label() {
    assert_eq!(NackReason::from_label("checksum"), NackReason::Checksum);
    assert_eq!(
        NackReason::from_label("a\"} 1\nknhk_checks_total 9"),
        NackReason::Other
    );
    assert_eq!(NackReason::from_label(""), NackReason::Other);
}

#[test]
fn label_values_are_escaped() {
    let metrics = ServiceMetrics::new("0.1.0");
    metrics.http_request("/a\"b\\c\nd", 200);
    let text = metrics.expose();
    assert!(text.contains(r#"route="/a\"b\\c\nd""#), "{text}");
}

/// The registry by the judgement of OpenTelemetry's own tool, where it is installed.
#[test]
fn weaver_finds_nothing_wrong() {
    let registry = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../registry");
    let Some(weaver) = on_path("weaver") else {
        eprintln!("not run: weaver is not on PATH");
        return;
    };
    let run = Command::new(weaver)
        .args(["registry", "check", "-r"])
        .arg(&registry)
        .output()
        .expect("weaver starts");
    assert!(
        run.status.success(),
        "weaver registry check:\n{}{}",
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr)
    );
}

fn on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
