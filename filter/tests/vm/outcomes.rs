//! Outcomes that a rule reads from a header of the answer.

use knhk_decision::RolloutRule;
use knhk_decision::spec::OutcomeSpec;
use knhk_proto::v1;

use crate::fake::{Worker, request_of, rule, snapshot};
use crate::said::reports;

fn reading() -> RolloutRule {
    let outcome = |header: &str, good: &[&str]| OutcomeSpec {
        header: header.to_owned(),
        good: good.iter().map(|&value| value.to_owned()).collect(),
    };
    RolloutRule {
        outcomes: vec![
            outcome("X-Result", &["ok", "cached"]),
            outcome("x-quality", &["high"]),
        ],
        ..rule(0, 1)
    }
}

fn last(worker: &mut Worker, plugin: knhk_filter::in_flight::ContextId) -> v1::Observed {
    worker.tick(plugin);
    let mut observed = reports(&worker.sent(plugin)).pop().expect("a report").observed;
    assert_eq!(observed.len(), 1);
    observed.remove(0)
}

type Headers<'a> = &'a [(&'a str, &'a str)];

#[test]
fn an_answer_is_good_only_with_a_good_value() {
    let (mut worker, plugin) = Worker::running(&[reading()]);
    let answers: [(Headers<'_>, [u64; 2]); 6] = [
        (&[("x-result", "ok"), ("x-quality", "high")], [0, 0]),
        (&[("x-result", "cached"), ("x-quality", "low")], [0, 1]),
        (&[("x-result", "OK"), ("x-quality", "high")], [1, 0]),
        (&[("x-result", "error"), ("x-result", "ok")], [1, 1]),
        (&[("x-quality", "high")], [1, 0]),
        (&[], [1, 1]),
    ];
    let mut bad = [0, 0];
    for (headers, is_bad) in answers {
        worker.host.answer = headers
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let request = worker.request(plugin, request_of("ann"));
        worker.finish(request, Some(200), 1_000);
        bad = [bad[0] + is_bad[0], bad[1] + is_bad[1]];
        assert_eq!(last(&mut worker, plugin).outcomes, bad, "{headers:?}");
    }
}

#[test]
fn without_an_answer_nothing_is_bad_and_without_its_headers_nothing_is_counted() {
    let (mut worker, plugin) = Worker::running(&[reading()]);
    let unanswered = worker.request(plugin, request_of("ann"));
    worker.finish(unanswered, None, 1_000);
    let observed = last(&mut worker, plugin);
    assert_eq!((observed.requests, observed.outcomes), (1, vec![0, 0]));

    // Envoy lets go of it without a log, as after an internal redirect.
    let redirected = worker.request(plugin, request_of("ann"));
    worker.host.status = Some(302);
    worker.vm.on_delete(&mut worker.host, redirected);
    let counted = worker.request(plugin, request_of("ann"));
    worker.finish(counted, Some(200), 1_000);
    let observed = last(&mut worker, plugin);
    assert_eq!((observed.requests, observed.outcomes), (2, vec![1, 1]));
}

#[test]
fn headers_are_read_only_where_a_rule_asks() {
    let (mut worker, plugin) = Worker::running(&[rule(0, 1)]);
    let request = worker.request(plugin, request_of("ann"));
    worker.finish(request, Some(200), 1_000);
    assert_eq!(worker.host.answer_reads, 0);
    let mut new_window = reading();
    new_window.window = 2;
    worker.deliver_snapshot(plugin, &snapshot(2, &[new_window]));
    let request = worker.request(plugin, request_of("ann"));
    worker.finish(request, Some(200), 1_000);
    assert_eq!(worker.host.answer_reads, 2);
}
