//! What a rollout file may say, and how it is refused.

use knhk_decision::spec::Weight;
use knhk_promotion::spec::{Fraction, MAX_SLOS, MAX_SPEC_BYTES, MAX_STEPS, Percent, Slo, Span, Stage};
use knhk_promotion::{RolloutSpec, SpecError};

const DESIGN: &str = "
apiVersion: knhk.dev/v1
kind: Rollout
metadata: { name: checkout }
spec:
  version: v42
  stable: v41
  match: { hosts: [checkout.example.com], pathPrefix: / }
  key: [ { header: x-user-id }, { cookie: session }, { requestId: {} } ]
  stages:
    - { name: canary, steps: [ { setWeight: 1, pause: 30s }, { setWeight: 5, pause: 1m }, { setWeight: 25, pause: 1m }, { setWeight: 50, pause: 1m } ] }
    - { name: production, watch: 15m }
  analysis:
    minRequests: 200
    alpha: 0.01
    tolerance: 0.5
    slos: [ { metric: request-success-rate, min: 99.5 }, { metric: request-duration, quantile: 0.99, max: 250ms } ]
  autoRollback: true
";

const SHORTEST: &str = "
apiVersion: knhk.dev/v1
kind: Rollout
metadata: { name: checkout }
spec:
  version: v42
  stable: v41
  match: {}
  key: [ { requestId: {} } ]
  stages: [ { name: canary, steps: [ { setWeight: 5 } ] } ]
  analysis: { slos: [ { metric: request-success-rate, min: 99.5 } ] }
";

fn read(yaml: &str) -> RolloutSpec {
    RolloutSpec::from_yaml(yaml).expect("it is a rollout")
}

fn refusal(from: &str, to: &str) -> String {
    assert!(DESIGN.contains(from), "{from:?} is not in the file");
    let refusal = RolloutSpec::from_yaml(&DESIGN.replace(from, to)).expect_err("it must be refused");
    let line = refusal.to_string();
    assert!(!line.contains('\n'), "more than one line: {line}");
    line
}

/// A key may go over several lines; fuzzing found one that took the refusal with it.
#[test]
fn a_refusal_is_one_line_whatever_a_key_has_in_it() {
    for text in ["{;\n\n\n)};", "{\"a\\nb\": {}}", "metadata: { \"x\\ry\": [ 1 ] }"] {
        let refusal = RolloutSpec::from_yaml(text).expect_err("refused").to_string();
        assert!(!refusal.contains(['\n', '\r']), "{refusal:?}");
    }
}

#[test]
fn the_designs_file_means_what_it_says() {
    let spec = read(DESIGN);
    assert_eq!(
        (spec.name(), spec.version(), spec.stable()),
        ("checkout", "v42", "v41")
    );
    let [Stage::Canary { steps, .. }, Stage::Production { watch, .. }] = spec.stages() else {
        panic!("{:?}", spec.stages())
    };
    let weights: Vec<String> = steps.iter().map(|step| step.weight.to_string()).collect();
    assert_eq!(weights, ["1 %", "5 %", "25 %", "50 %"]);
    let pauses: Vec<Span> = steps.iter().map(|step| step.pause).collect();
    assert_eq!(pauses, [30, 60, 60, 60].map(Span::from_secs));
    assert_eq!(*watch, Span::from_secs(900));
    assert_eq!(spec.thresholds(), [250_000]);
    assert_eq!(spec.first_weight(), Weight::from_percent(1.0).expect("a weight"));
    let analysis = spec.analysis();
    assert_eq!(analysis.min_requests, 200);
    let slos: Vec<String> = analysis.slos.iter().map(Slo::to_string).collect();
    assert_eq!(
        slos,
        [
            "request-success-rate min 99.5 %",
            "request-duration quantile 0.99 max 250ms"
        ]
    );
    assert!((analysis.slos[0].allowed() - 0.005).abs() < 1e-15);
    assert!((analysis.slos[1].allowed() - 0.01).abs() < 1e-15);
}

#[test]
fn what_is_left_out_has_the_documented_default() {
    let full = SHORTEST
        .replace("{ setWeight: 5 }", "{ setWeight: 5, pause: 0s }")
        .replace("analysis: { slos", "record: none\n  autoRollback: true\n  analysis: { minRequests: 200, alpha: 0.01, tolerance: 0.5, slos");
    assert_eq!(read(SHORTEST), read(&full));
}

#[test]
fn it_comes_back_from_json_as_it_was() {
    let guarded = SHORTEST.replace(
        "match: {}",
        "match: { peers: ['spiffe://example.org/*'] }\n  admit: { peers: ['spiffe://example.org/ns/shop/*'] }",
    );
    let staged = DESIGN.replace(
        "    - { name: production",
        "    - { name: staging, match: { headers: [ { name: x-tester, present: true } ], peers: [ 'spiffe://a/*' ], flags: { beta: on } }, pause: 5m, deadline: 1h, skipAnalysis: { reason: no testers }, approval: { by: [ada] } }\n    - { name: production",
    );
    for yaml in [DESIGN, SHORTEST, &guarded, &staged] {
        let spec = read(yaml);
        assert_eq!(RolloutSpec::from_json(&spec.to_json()), Ok(spec.clone()));
        let value: serde_json::Value = serde_json::from_str(&spec.to_json()).expect("JSON");
        assert_eq!(value["apiVersion"], "knhk.dev/v1");
        assert_eq!(
            serde_json::from_value::<RolloutSpec>(value).expect("a rollout"),
            spec
        );
    }
}

#[test]
fn a_weight_can_be_as_small_as_a_ten_thousandth_of_a_percent() {
    let spec = read(&DESIGN.replace(
        "{ setWeight: 1, pause: 30s }",
        "{ setWeight: 0.0001, pause: 30s }",
    ));
    assert_eq!(spec.first_weight().ppm(), 1);
    assert!(refusal("setWeight: 1,", "setWeight: 0.00001,").contains("spec.stages[0].steps[0].setWeight"));
}

#[test]
fn versions_that_look_like_numbers_stay_as_they_are_written() {
    let spec = read(
        &DESIGN
            .replace("version: v42", "version: 1.10")
            .replace("stable: v41", "stable: 1.9"),
    );
    assert_eq!((spec.version(), spec.stable()), ("1.10", "1.9"));
}

/// What is written instead of what, the start of the refusal, and what it must contain besides.
#[rustfmt::skip]
const REFUSALS: &[(&str, &str, &str, &str)] = &[
    ("apiVersion: knhk.dev/v1", "apiVersion: knhk.dev/v2", "apiVersion: ", "write knhk.dev/v1"),
    ("kind: Rollout", "kind: Rolout", "kind: ", "write Rollout"),
    ("name: checkout", "name: Check_out", "metadata.name: ", "Check_out"),
    ("version: v42", "version: v41", "spec.version: ", "two different versions"),
    ("version: v42", "version: 'a b'", "spec.version: ", "a b"),
    ("version: v42\n", "version: v42\n  versoin: v43\n", "spec.versoin: ", "line 7"),
    ("  version: v42\n", "", "spec: ", "version"),
    ("  stable: v41", "  salt: ''\n  stable: v41", "spec.salt: ", ""),
    ("hosts: [checkout.example.com]", "hosts: ['bad host']", "spec.match.hosts[0]: ", "bad host"),
    ("pathPrefix: /", "pathPrefix: api", "spec.match.pathPrefix: ", "slash"),
    ("pathPrefix: /", "pathprefix: /", "spec.match.pathprefix: ", "pathPrefix"),
    ("pathPrefix: /", "pathPrefix: /, peers: [ci]", "spec.match.peers[0]: ", "spiffe://example.org/ns/prod/sa/web"),
    ("  key:", "  admit: { peers: [] }\n  key:", "spec.admit.peers: ", "leave admit out"),
    ("  key:", "  admit: { peers: ['spiffe://a'] }\n  key:", "spec.admit.peers[0]: ", "spiffe://a/*"),
    ("  key:", "  admit: {}\n  key:", "spec.admit: ", "peers"),
    ("  key:", "  admit: { hosts: [a] }\n  key:", "spec.admit.hosts: ", "peers"),
    ("{ header: x-user-id }", "{ header: 'x user' }", "spec.key[0]", "x user"),
    ("{ header: x-user-id }", "{ heder: x-user-id }", "spec.key[0]", "header"),
    ("pause: 30s", "pause: 30", "spec.stages[0].steps[0].pause: ", "30s"),
    ("pause: 30s", "pause: 31days", "spec.stages[0].steps[0].pause: ", "at most 30days"),
    ("setWeight: 5,", "setWeight: 101,", "spec.stages[0].steps[1].setWeight: ", "0 to 100"),
    ("setWeight: 5,", "setWeight: five,", "spec.stages[0].steps[1].setWeight: ", "percent"),
    ("setWeight: 5,", "setWeight: 1,", "spec.stages[0].steps[1].setWeight: ", "rise"),
    ("setWeight: 25,", "setWeight: 3,", "spec.stages[0].steps[2].setWeight: ", "5 %"),
    ("setWeight: 5,", "setweight: 5,", "spec.stages[0].steps[1].setweight: ", "setWeight"),
    ("name: canary", "name: cannary", "spec.stages[0].name: ", "write canary, staging or production"),
    ("name: canary", "name: staging", "spec.stages[0].steps: ", "give it a match and a pause"),
    ("{ name: production, watch: 15m }", "{ name: staging, pause: 10m }", "spec.stages[1].match: ", "at least one of headers, peers and flags"),
    ("{ name: production, watch: 15m }", "{ name: staging, match: {} }", "spec.stages[1].match: ", "at least one of headers, peers and flags"),
    ("{ name: production, watch: 15m }", "{ name: staging, match: { hosts: [a.com] } }", "spec.stages[1].match.hosts: ", "headers"),
    ("{ name: production, watch: 15m }", "{ name: staging, match: { flags: { beta: on } }, watch: 10m }", "spec.stages[1].watch: ", "a pause"),
    ("{ name: production, watch: 15m }", "{ name: staging, match: { headers: [ { name: x-a } ] } }", "spec.stages[1].match.headers[0]: ", "give exact, prefix or present"),
    ("{ name: production, watch: 15m }", "{ name: staging, match: { headers: [ { name: 'x a', present: true } ] } }", "spec.stages[1].match.headers[0].name: ", ""),
    ("{ name: production, watch: 15m }", "{ name: staging, match: { peers: [web] } }", "spec.stages[1].match.peers[0]: ", "spiffe://example.org"),
    ("{ name: production, watch: 15m }", "{ name: staging, match: { flags: { beta: on } }, pause: 1h, deadline: 1h }", "spec.stages[1].deadline: ", "counted from the beginning"),
    ("{ name: production, watch: 15m }", "{ name: staging, match: { flags: { beta: on } }, pause: 31days }", "spec.stages[1].pause: ", "at most 30days"),
    ("{ name: production, watch: 15m }", "{ name: staging, match: { flags: { beta: on } }, approval: { by: [] } }", "spec.stages[1].approval.by: ", "name 1 to 64"),
    ("{ name: production, watch: 15m }", "{ name: staging, match: { flags: { beta: on } }, skipAnalysis: { reason: '' } }", "spec.stages[1].skipAnalysis.reason: ", "in one line"),
    ("steps: [ {", "pause: 1m, steps: [ {", "spec.stages[0].pause: ", "in each of its steps"),
    ("watch: 15m }", "watch: 15m, match: {} }", "spec.stages[1].match: ", "a production stage has no match"),
    ("pause: 30s }", "pause: 30s, deadline: 30s }", "spec.stages[0].steps[0].deadline: ", "counted from the beginning"),
    ("alpha: 0.01", "deadline: 10m", "spec.analysis.deadline: ", "not longer than the pause or watch of 15m"),
    ("pause: 30s }", "pause: 30s, skipAnalysis: { reason: ' ' } }", "spec.stages[0].steps[0].skipAnalysis.reason: ", "in one line"),
    ("metric: request-success-rate, min: 99.5", "metric: request-outcome, min: 99", "spec.analysis.slos[0].outcome: ", "good: [ok]"),
    ("metric: request-success-rate, min: 99.5", "metric: request-outcome, outcome: { header: x-result, good: [] }, min: 99", "spec.analysis.slos[0].outcome.good: ", "write some"),
    ("metric: request-success-rate, min: 99.5", "metric: request-success-rate, outcome: { header: x, good: [a] }, min: 99", "spec.analysis.slos[0].outcome: ", "write { metric"),
    ("watch: 15m }", "watch: 15m, approval: { by: [] } }", "spec.stages[1].approval.by: ", "name 1 to 64"),
    ("watch: 15m }", "watch: 15m, approval: { by: [ops, ops] } }", "spec.stages[1].approval.by[1]: ", "keep one"),
    ("name: canary,", "name: canary, approval: { by: [ops] },", "spec.stages[0].approval: ", "on a stage after it"),
    ("watch: 15m", "watch: 0s", "spec.stages[1].watch: ", "15m"),
    ("watch: 15m", "watch: 31days", "spec.stages[1].watch: ", "at most 30days"),
    (", watch: 15m", "", "spec.stages[1].watch: ", "15m"),
    ("watch: 15m", "watch: 15m, steps: []", "spec.stages[1].steps: ", "a production stage has no steps"),
    ("minRequests: 200", "minRequests: 0", "spec.analysis.minRequests: ", "no data is never good data"),
    ("minRequests: 200", "minRequests: -1", "spec.analysis.minRequests: ", ""),
    ("minRequests: 200", "minRequests: 100000001", "spec.analysis.minRequests: ", "100000000"),
    ("alpha: 0.01", "alpha: 0", "spec.analysis.alpha: ", "at most 0.5"),
    ("alpha: 0.01", "alpha: 0.6", "spec.analysis.alpha: ", "at most 0.5"),
    ("alpha: 0.01", "alpha: .nan", "spec.analysis.alpha: ", "between 0 and 1"),
    ("tolerance: 0.5", "tolerance: 100.5", "spec.analysis.tolerance: ", "0 to 100"),
    ("tolerance: 0.5", "tolerance: -1", "spec.analysis.tolerance: ", "0 to 100"),
    ("min: 99.5", "min: 0", "spec.analysis.slos[0].min: ", "at most 100"),
    ("min: 99.5", "max: 1s", "spec.analysis.slos[0].max: ", "min: 99.5"),
    (", min: 99.5", "", "spec.analysis.slos[0].min: ", "missing"),
    ("quantile: 0.99", "quantile: 1", "spec.analysis.slos[1].quantile: ", "below 1"),
    ("quantile: 0.99", "quantile: 99", "spec.analysis.slos[1].quantile: ", "between 0 and 1"),
    ("max: 250ms", "max: 2h", "spec.analysis.slos[1].max: ", "at most 1h"),
    ("max: 250ms", "max: 0s", "spec.analysis.slos[1].max: ", "250ms"),
    ("max: 250ms", "max: 100ns", "spec.analysis.slos[1].max: ", "microsecond"),
    ("metric: request-success-rate", "metric: errors", "spec.analysis.slos[0].metric: ", "request-success-rate, request-duration or request-outcome"),
    ("autoRollback: true", "autoRollback: yes", "spec.autoRollback: ", ""),
    ("autoRollback: true", "autorollback: true", "spec.autorollback: ", "autoRollback"),
    ("metadata: { name: checkout }", "metadata: { name: checkout, labels: {} }", "metadata.labels: ", "name"),
    ("version: v42", "version: *anchor", "", ""),
    ("kind: Rollout", "kind: Rollout\nkind: Rollout", "duplicate", "`kind` is not allowed here at line"),
    ("autoRollback: true", "autoRollback: true\n---\nmore: true", "too much", "one document of at most 4096"),
    ("kind: Rollout", "kind: [", "kind: ", "expected a text"),
    ("hosts: [checkout.example.com]", "hosts: checkout.example.com", "spec.match.hosts: ", "expected a list"),
    ("metadata: { name: checkout }", "metadata: checkout", "metadata: ", "expected a mapping"),
];

#[test]
fn each_refusal_names_the_field_and_what_would_be_right() {
    for &(from, to, field, right) in REFUSALS {
        let line = refusal(from, to);
        assert!(
            line.starts_with(field),
            "{to}: the field {field:?} does not start {line:?}"
        );
        assert!(line.contains(right), "{to}: {right:?} is not in {line:?}");
    }
}

#[test]
fn stages_stand_in_one_order() {
    let canary = "- { name: canary, steps: [ { setWeight: 1 } ] }\n";
    let production = "- { name: production, watch: 1m }\n";
    let with = |stages: &[&str]| {
        let stages = format!("    {}", stages.join("    "));
        let yaml = SHORTEST.replace(
            "stages: [ { name: canary, steps: [ { setWeight: 5 } ] } ]",
            &format!("stages:\n{stages}"),
        );
        RolloutSpec::from_yaml(&yaml)
    };
    assert!(with(&[canary]).is_ok());
    assert!(with(&[canary, production]).is_ok());
    let staging = "- { name: staging, match: { flags: { beta: on } } }\n";
    for stages in [
        &[staging][..],
        &[staging, production],
        &[staging, canary],
        &[canary, staging],
        &[staging, canary, production],
        &[canary, staging, production],
    ] {
        with(stages).expect("any order with production last");
    }
    for (stages, field) in [
        (&[production][..], "spec.stages[0].name"),
        (&[production, canary], "spec.stages[0].name"),
        (&[canary, canary], "spec.stages[1].name"),
        (&[canary, production, production], "spec.stages[2].name"),
        (&[canary, production, canary], "spec.stages[2].name"),
        (&[staging, canary, staging], "spec.stages[2].name"),
        (&[canary, production, staging], "spec.stages[2].name"),
    ] {
        assert_eq!(with(stages).expect_err("refused").path(), field, "{stages:?}");
    }
    let none = SHORTEST.replace("[ { name: canary, steps: [ { setWeight: 5 } ] } ]", "[]");
    assert_eq!(
        RolloutSpec::from_yaml(&none).expect_err("refused").path(),
        "spec.stages"
    );
    let never_seen = SHORTEST.replace("setWeight: 5", "setWeight: 0");
    assert_eq!(
        RolloutSpec::from_yaml(&never_seen).expect_err("refused").path(),
        "spec.stages[0].steps[0].setWeight"
    );
}

#[test]
fn bounds_are_in_the_message() {
    let steps: Vec<String> = (0..=MAX_STEPS)
        .map(|i| format!("{{ setWeight: 0.{i:04} }}"))
        .collect();
    let yaml = SHORTEST.replace("{ setWeight: 5 }", &steps.join(", "));
    let line = RolloutSpec::from_yaml(&yaml)
        .expect_err("too many steps")
        .to_string();
    assert!(
        line.contains(&MAX_STEPS.to_string()) && line.starts_with("spec.stages[0].steps: "),
        "{line}"
    );

    let slos: Vec<String> = (0..=MAX_SLOS)
        .map(|i| format!("{{ metric: request-success-rate, min: 9{i} }}"))
        .collect();
    let yaml = SHORTEST.replace("{ metric: request-success-rate, min: 99.5 }", &slos.join(", "));
    let line = RolloutSpec::from_yaml(&yaml)
        .expect_err("too many SLOs")
        .to_string();
    assert!(
        line.contains(&MAX_SLOS.to_string()) && line.starts_with("spec.analysis.slos: "),
        "{line}"
    );

    let yaml = format!("{SHORTEST}#{}", "x".repeat(MAX_SPEC_BYTES));
    let refusal = RolloutSpec::from_yaml(&yaml).expect_err("too long");
    assert_eq!(refusal, SpecError::TooLong { bytes: yaml.len() });
    assert!(refusal.to_string().contains(&MAX_SPEC_BYTES.to_string()));
}

#[test]
fn the_same_slo_twice_is_refused() {
    let line = refusal(
        "{ metric: request-duration, quantile: 0.99, max: 250ms }",
        "{ metric: request-success-rate, min: 99.50 }",
    );
    assert!(
        line.starts_with("spec.analysis.slos[1]: ") && line.contains("twice"),
        "{line}"
    );
}

#[test]
fn thresholds_ascend_and_are_there_once() {
    let slos = "{ metric: request-duration, quantile: 0.999, max: 1s }, { metric: request-duration, quantile: 0.5, max: 20ms }, { metric: request-duration, quantile: 0.9, max: 1s }";
    let spec = read(&SHORTEST.replace("{ metric: request-success-rate, min: 99.5 }", slos));
    assert_eq!(spec.thresholds(), [20_000, 1_000_000]);
}

#[test]
fn hostile_documents_are_refused_and_never_panic() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]";
    for text in [
        "",
        "null",
        "- 1",
        "\u{feff}",
        "{}",
        &deep,
        bomb,
        "? [a]\n: b",
        "!!binary aGk=",
        "\0",
        "a: b: c",
    ] {
        let line = RolloutSpec::from_yaml(text).expect_err("no rollout").to_string();
        assert!(!line.contains('\n') && line.len() < 2_000, "{line}");
        let line = RolloutSpec::from_json(text).expect_err("no rollout").to_string();
        assert!(!line.contains('\n') && line.len() < 2_000, "{line}");
    }
    let trailing = format!("{} x", read(SHORTEST).to_json());
    assert!(RolloutSpec::from_json(&trailing).is_err());
}

#[test]
fn numbers_print_as_they_are_written() {
    let percent = |text: &str| {
        serde_json::from_str::<Percent>(text)
            .expect("a percentage")
            .to_string()
    };
    assert_eq!(
        ["99.5", "0.0001", "100", "33.3333", "0"].map(percent),
        ["99.5 %", "0.0001 %", "100 %", "33.3333 %", "0 %"]
    );
    let fraction = |text: &str| {
        serde_json::from_str::<Fraction>(text)
            .expect("a fraction")
            .to_string()
    };
    assert_eq!(
        ["0.99", "0.999999", "1", "0.05"].map(fraction),
        ["0.99", "0.999999", "1", "0.05"]
    );
    assert!(serde_json::from_str::<Percent>("99.99999").is_err());
    assert!(serde_json::from_str::<Fraction>("0.9999999").is_err());
}
