//! Exchanges without a network.

mod sequences;
mod support;

use std::collections::HashMap;
use std::time::Duration;

use knhk_decision::{Admission, PolicyId};
use knhk_proto::envoy::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use knhk_proto::envoy::pb::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode as Mode;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::processing_request::Request;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::processing_response::Response;
use knhk_proto::envoy::pb::envoy::service::ext_proc::v3::{HttpHeaders, ProtocolConfiguration};
use knhk_receipts::Via;
use knhk_telemetry::attribute::ExchangeOutcome as Outcome;

use super::exchange::{Effect, Violation};
use crate::app::recorder::Seen;
use support::{
    HOST, REGION, Run, after_check, headers, message, mutation, observed, record_of, refused, reply_of,
    request, response, to_guarded, to_request, to_response, with_peer,
};

#[test]
fn a_request_is_decided_and_its_receipt_has_the_outcome() {
    let mut run = Run::with(&[]);
    let (set, removed, rerouted) = to_request(run.replied(request(&[("x-user-id", "u1")])));
    assert_eq!(
        (
            set["x-knhk-variant"].as_str(),
            set["x-knhk-rollout"].as_str(),
            set["x-knhk-policy"].as_str()
        ),
        ("canary", "shop", "1.2")
    );
    assert_eq!(removed, ["x-knhk-flags", "x-knhk-class", "x-knhk-receipt"]);
    assert!(rerouted);
    assert_eq!(run.outcomes, []);

    run.now += Duration::from_micros(1_234);
    let own = run.recording(response("418"));
    assert_eq!(
        (own.via, own.seen),
        (
            Via::ExtProc,
            Some(Seen {
                status: Some(418),
                duration_us: 1_234
            })
        )
    );
    assert_eq!(own.decision.policy, PolicyId { epoch: 1, n: 2 });
    let evidence = &own.decision.evidence;
    assert_eq!((evidence.method.as_str(), evidence.host.as_str()), ("GET", HOST));
    assert_eq!(evidence.rollout.as_ref().expect("routed").key, Some(0));

    let (set, removed, _) = to_response(run.durable(7));
    assert_eq!(
        set,
        HashMap::from([("x-knhk-receipt".to_owned(), format!("{REGION}/7"))])
    );
    assert_eq!(removed, [""; 0]);
    assert_eq!(run.outcomes, [Outcome::Recorded]);
    assert_eq!(run.ends(), Effect::Wait);
    assert_eq!(
        run.outcomes.len(),
        1,
        "an end after the response is no second outcome"
    );
}

#[test]
fn the_snapshot_that_the_filter_named_decides_and_an_unknown_one_does_not() {
    for (named, variant, policy) in [
        ("1.1", "stable", "1.1"),
        ("9.9", "canary", "1.2"),
        ("x", "canary", "1.2"),
    ] {
        let mut run = Run::with(&[]);
        let reply = run.replied(request(&[("x-user-id", "u1"), ("x-knhk-policy", named)]));
        let Response::RequestHeaders(reply) = reply else {
            panic!("not decided")
        };
        let (set, ..) = mutation(reply.response);
        assert_eq!(set["x-knhk-variant"], variant, "{named}");
        assert_eq!(run.recording(response("200")).decision.policy.to_string(), policy);
    }
}

const SHOP: &str = "spiffe://example.org/ns/shop/sa/web";
const OTHER: &str = "spiffe://example.org/ns/other/sa/web";

/// Status, reason, receipt and gRPC code of an answer in the upstream's place.
fn denial(reply: Response) -> (i32, String, Option<String>, u32) {
    let (reason, _, refusal) = refused(reply);
    let set = refusal.headers.expect("headers").set_headers;
    let receipt = set
        .into_iter()
        .filter_map(|option| option.header)
        .find_map(|header| {
            (header.key == "x-knhk-receipt").then(|| String::from_utf8(header.raw_value).expect("text"))
        });
    let status = refusal.status.expect("a status").code;
    (
        status,
        reason,
        receipt,
        refusal.grpc_status.expect("a status").status,
    )
}

#[test]
fn whom_the_rollout_does_not_admit_is_denied_once_that_is_durable() {
    let mut run = Run::with(&[("record", "denials")]);
    let own = run.recording(with_peer(to_guarded(&[("x-user-id", "u1")]), OTHER));
    assert_eq!((own.via, own.seen), (Via::ExtProc, None));
    let evidence = &own.decision.evidence;
    assert_eq!(evidence.admission, Admission::Denied);
    assert_eq!(evidence.subject.as_deref(), Some(OTHER));
    assert_eq!(run.outcomes, []);
    let answer = denial(reply_of(run.durable(7)));
    let receipt = Some(format!("{REGION}/7"));
    assert_eq!(answer, (403, "peer_not_allowed".to_owned(), receipt, 7));
    assert_eq!(run.outcomes, [Outcome::Denied]);
    // Whatever Envoy still shows of it, there is no second record and no second outcome.
    let (set, removed, _) = to_response(run.send(response("403")).expect("it may come"));
    assert_eq!((set.len(), removed), (0, vec!["x-knhk-receipt".to_owned()]));
    assert_eq!((run.ends(), run.outcomes.len()), (Effect::Wait, 1));

    // Admitted: of denials there is a record, of this there is none.
    let mut run = Run::with(&[("record", "denials")]);
    let (set, ..) = to_request(run.replied(with_peer(to_guarded(&[("x-user-id", "u1")]), SHOP)));
    assert_eq!(set["x-knhk-variant"], "canary");
    run.replied(response("200"));
    assert_eq!(run.outcomes, [Outcome::NotRecorded]);
}

#[test]
fn a_denial_without_a_record_is_one_where_the_route_says_so_or_fails_open() {
    let not_allowed = |receipt| (403, "peer_not_allowed".to_owned(), receipt, 7);
    let mut run = Run::with(&[("record", "none")]);
    assert_eq!(denial(run.replied(to_guarded(&[]))), not_allowed(None));
    assert_eq!(
        (run.ends(), &run.outcomes[..]),
        (Effect::Wait, &[Outcome::Denied][..])
    );

    let mut run = Run::with(&[("on_error", "open")]);
    run.recording(to_guarded(&[]));
    assert_eq!(denial(reply_of(run.fails("io"))), not_allowed(None));
    assert_eq!(run.outcomes, [Outcome::FailedOpen]);

    let mut run = Run::with(&[]);
    run.recording(to_guarded(&[]));
    let (status, reason, ..) = denial(reply_of(run.fails("io")));
    assert_eq!((status, reason.as_str()), (503, "not_recorded"));
    assert_eq!(run.outcomes, [Outcome::FailedClosed]);
}

#[test]
fn the_peer_is_read_in_the_forwarded_header_only_where_the_route_says_so() {
    let forwarded = format!("By=spiffe://d/gw;URI={OTHER},By=spiffe://d/gw;URI={SHOP}");
    let asked = || {
        let forwarded = [
            ("x-user-id", "u1"),
            ("x-forwarded-client-cert", forwarded.as_str()),
        ];
        with_peer(to_guarded(&forwarded), OTHER)
    };
    let mut run = Run::with(&[("peer", "xfcc")]);
    to_request(run.replied(asked()));
    assert_eq!(
        run.recording(response("200"))
            .decision
            .evidence
            .subject
            .as_deref(),
        Some(SHOP)
    );
    let mut run = Run::with(&[]);
    assert_eq!(
        run.recording(asked()).decision.evidence.subject.as_deref(),
        Some(OTHER)
    );
}

#[test]
fn where_envoy_waits_for_nothing_a_denial_is_recorded_with_what_happened() {
    let mut run = Run::with(&[]);
    assert_eq!(run.send(observed(to_guarded(&[]))), Ok(Effect::Wait));
    let own = run.recording(observed(response("200")));
    assert_eq!(own.decision.evidence.admission, Admission::Denied);
    assert_eq!(own.seen.expect("seen").status, Some(200));
}

#[test]
fn the_route_is_looked_up_again_only_when_a_header_that_routes_changed() {
    let as_decided = [
        ("x-user-id", "u1"),
        ("x-knhk-variant", "canary"),
        ("x-knhk-rollout", "shop"),
        ("x-knhk-policy", "1.2"),
    ];
    let of = |more: &[(&str, &str)]| to_request(Run::with(&[]).replied(request(more)));
    let (set, removed, rerouted) = of(&as_decided);
    assert_eq!(
        (set.len(), rerouted),
        (0, false),
        "the filter before us has said the same"
    );
    assert_eq!(removed.len(), 3);

    let changed: [&[(&str, &str)]; 4] = [
        &[("x-knhk-variant", "stable")],
        // A second copy is deleted with the first.
        &[("x-knhk-variant", "canary"), ("x-knhk-variant", "stable")],
        &[("x-knhk-class", "R1")],
        &[("x-knhk-flags", "a=b")],
    ];
    for more in changed {
        let mut all = vec![
            ("x-user-id", "u1"),
            ("x-knhk-rollout", "shop"),
            ("x-knhk-policy", "1.2"),
        ];
        all.extend_from_slice(more);
        assert!(of(&all).2, "{more:?}");
    }

    // No rollout: nothing of ours routes, unless a client forged it.
    let other = |more: &[(&str, &str)]| {
        let mut all = vec![(":method", "GET"), (":authority", "other.test"), (":path", "/")];
        all.extend_from_slice(more);
        to_request(Run::with(&[]).replied(message(Request::RequestHeaders(headers(&all)))))
    };
    assert!(!other(&[("x-knhk-receipt", "mine/1"), ("x-knhk-policy", "9.9")]).2);
    let (set, removed, rerouted) = other(&[("x-knhk-variant", "canary")]);
    assert_eq!(set.keys().collect::<Vec<_>>(), ["x-knhk-policy"]);
    assert!(removed.contains(&"x-knhk-variant".to_owned()) && rerouted);
}

#[test]
fn the_peer_is_read_where_envoy_sends_it() {
    let key = |message| {
        let mut run = Run::with(&[]);
        run.replied(message);
        let evidence = run.recording(response("200")).decision.evidence;
        (evidence.subject.clone(), evidence.rollout.expect("routed").key)
    };
    let peer = "spiffe://example.org/ns/a/sa/web";
    assert_eq!(
        key(with_peer(request(&[]), peer)),
        (Some(peer.to_owned()), Some(1))
    );
    assert_eq!(key(with_peer(request(&[]), "https://example.org")), (None, None));
    assert_eq!(key(request(&[])), (None, None));
}

#[test]
fn a_plain_value_and_host_are_read_as_well() {
    let plain = |key: &str, value: &str| HeaderValue {
        key: key.to_owned(),
        value: value.to_owned(),
        ..HeaderValue::default()
    };
    let mut run = Run::with(&[]);
    let list = [
        plain(":method", "GET"),
        plain("host", HOST),
        plain(":path", "/cart"),
        plain("x-user-id", "u1"),
    ];
    let headers = HttpHeaders {
        headers: Some(HeaderMap { headers: list.into() }),
        ..HttpHeaders::default()
    };
    let (set, ..) = to_request(run.replied(message(Request::RequestHeaders(headers))));
    assert_eq!(set["x-knhk-rollout"], "shop");
}

#[test]
fn a_stream_that_ends_before_the_response_is_recorded_without_a_status() {
    let mut run = Run::with(&[]);
    run.replied(request(&[]));
    let own = record_of(run.ends());
    assert_eq!(own.seen, None);
    assert_eq!(run.durable(1), Effect::Wait);
    assert_eq!(run.outcomes, [Outcome::RecordedUnfinished]);

    let mut run = Run::with(&[("on_error", "open")]);
    run.replied(request(&[]));
    record_of(run.ends());
    assert_eq!(run.fails("disk_full"), Effect::Wait);
    assert_eq!(run.outcomes, [Outcome::Lost]);
}

#[test]
fn what_cannot_be_recorded_is_refused_or_goes_on_without_a_receipt_as_the_route_says() {
    for (label, reason, grpc) in [
        ("disk_full", "not_recorded", 14),
        ("wait_timeout", "not_recorded", 14),
        ("resource_exhausted", "resource_exhausted", 8),
    ] {
        let mut run = Run::with(&[]);
        run.replied(request(&[]));
        run.recording(response("200"));
        let (said, _, refusal) = refused(reply_of(run.fails(label)));
        assert_eq!(
            (said.as_str(), refusal.grpc_status.expect("a status").status),
            (reason, grpc)
        );
        assert_eq!(refusal.details, format!("knhk_{reason}"));
        assert_eq!(run.outcomes, [Outcome::FailedClosed]);

        let mut run = Run::with(&[("on_error", "open")]);
        run.replied(request(&[]));
        run.recording(response("200"));
        let (set, removed, _) = to_response(run.fails(label));
        assert_eq!((set.len(), removed), (0, vec!["x-knhk-receipt".to_owned()]));
        assert_eq!(run.outcomes, [Outcome::FailedOpen]);
    }
}

#[test]
fn a_route_says_what_is_recorded() {
    for record in ["none", "denials", "sample:0"] {
        let mut run = Run::with(&[("record", record)]);
        let (set, ..) = to_request(run.replied(request(&[])));
        assert_eq!(set["x-knhk-rollout"], "shop", "it is decided all the same");
        let effect = run.send(response("200")).expect("it may come");
        let (set, removed, _) = to_response(effect);
        assert_eq!(
            (set.len(), removed.len()),
            (0, 1),
            "an upstream's own receipt is none"
        );
        assert_eq!(run.outcomes, [Outcome::NotRecorded]);

        let mut run = Run::with(&[("record", record)]);
        run.replied(request(&[]));
        assert_eq!(run.ends(), Effect::Wait);
        assert_eq!(run.outcomes, [Outcome::NotRecorded]);
    }
    let mut run = Run::with(&[("record", "sample:100")]);
    run.replied(request(&[]));
    run.recording(response("200"));
}

#[test]
fn wrong_options_are_refused_by_name_and_nothing_is_decided() {
    let mut run = Run::with(&[("wait_timeout", "soon")]);
    let (reason, body, _) = refused(run.replied(request(&[])));
    assert_eq!(reason, "bad_route_option");
    assert!(
        body.starts_with("grpc_initial_metadata.wait_timeout: ") && body.ends_with('\n'),
        "{body}"
    );
    assert_eq!(run.ends(), Effect::Wait);
    assert_eq!(run.outcomes, [Outcome::FailedClosed]);

    let mut run = Run::with(&[("record", "some")]);
    assert_eq!(run.send(observed(request(&[]))), Ok(Effect::Wait));
    assert_eq!(run.send(observed(response("200"))), Ok(Effect::Wait));
    assert_eq!(run.outcomes, [Outcome::FailedOpen], "nobody reads a refusal");
}

#[test]
fn what_check_recorded_is_not_recorded_again_and_keeps_its_receipt() {
    let receipt = format!("{REGION}/41");
    let ext_authz = "envoy.filters.http.ext_authz";
    let mut run = Run::with(&[]);
    let checked = after_check(request(&[("x-knhk-receipt", &receipt)]), ext_authz, &receipt);
    let (set, removed, _) = to_request(run.replied(checked));
    assert!(!set.contains_key("x-knhk-receipt") && !removed.contains(&"x-knhk-receipt".to_owned()));
    let (set, ..) = to_response(run.send(response("200")).expect("it may come"));
    assert_eq!(set["x-knhk-receipt"], receipt);
    assert_eq!(run.outcomes, [Outcome::NotRecorded]);

    // A header alone proves nothing, nor does metadata of others.
    for message in [
        request(&[("x-knhk-receipt", &receipt)]),
        after_check(request(&[]), "envoy.filters.http.lua", &receipt),
        after_check(request(&[]), ext_authz, "us-east-1/41"),
        after_check(request(&[]), ext_authz, &format!("{REGION}/")),
        after_check(request(&[]), ext_authz, &format!("{REGION}/4x")),
        after_check(request(&[]), ext_authz, &format!("{REGION}/+41")),
        after_check(request(&[]), ext_authz, &format!("{REGION}/041")),
        after_check(request(&[]), ext_authz, ""),
    ] {
        let mut run = Run::with(&[]);
        let (_, removed, _) = to_request(run.replied(message));
        assert!(removed.contains(&"x-knhk-receipt".to_owned()));
        run.recording(response("200"));
    }
}

#[test]
fn an_answer_of_another_filter_that_never_got_here_as_a_request_passes() {
    let mut run = Run::with(&[]);
    let (set, removed, _) = to_response(run.send(response("401")).expect("it may come"));
    assert_eq!((set.len(), removed), (0, vec!["x-knhk-receipt".to_owned()]));
    assert_eq!(run.outcomes, [Outcome::NotDecided]);
    assert_eq!(run.send(request(&[])), Err(Violation::RequestHeaders));
    assert_eq!(run.ends(), Effect::Wait);
    assert_eq!(run.outcomes.len(), 1);
}

#[test]
fn a_message_that_cannot_come_ends_the_stream_and_the_decision_is_kept() {
    let mut run = Run::with(&[]);
    run.replied(request(&[]));
    assert_eq!(run.send(request(&[])), Err(Violation::RequestHeaders));
    assert_eq!(record_of(run.ends()).seen, None);
    run.durable(1);
    assert_eq!(run.outcomes, [Outcome::RecordedUnfinished]);

    let mut run = Run::with(&[]);
    run.replied(request(&[]));
    run.recording(response("200"));
    run.durable(1);
    assert_eq!(run.send(response("200")), Err(Violation::ResponseHeaders));
    assert_eq!(run.ends(), Effect::Wait);
    assert_eq!(run.outcomes, [Outcome::Recorded]);
}

#[test]
fn bodies_that_would_have_to_be_sent_back_are_refused() {
    let asked = |request_body_mode: Mode, response_body_mode: Mode| {
        let mut message = request(&[]);
        message.protocol_config = Some(ProtocolConfiguration {
            request_body_mode: request_body_mode.into(),
            response_body_mode: response_body_mode.into(),
            ..ProtocolConfiguration::default()
        });
        Run::with(&[]).send(message).map(|_| ())
    };
    for mode in [Mode::None, Mode::Buffered, Mode::BufferedPartial, Mode::Streamed] {
        assert_eq!(asked(mode, mode), Ok(()), "{mode:?}");
    }
    for mode in [Mode::FullDuplexStreamed, Mode::Grpc] {
        assert_eq!(asked(mode, Mode::None), Err(Violation::BodyMode), "{mode:?}");
        assert_eq!(asked(Mode::None, mode), Err(Violation::BodyMode), "{mode:?}");
    }
}

#[test]
fn a_status_that_is_none_is_recorded_as_none() {
    for status in ["", "20", "600", "99999", "+200", "2x0"] {
        let mut run = Run::with(&[]);
        run.replied(request(&[]));
        let seen = run.recording(response(status)).seen.expect("seen");
        assert_eq!(seen.status, None, "{status:?}");
    }
}
