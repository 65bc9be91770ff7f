//! In which order the canary's requests finished, as reports tell it.

use knhk_decision::Verdict;
use knhk_filter::in_flight::ContextId;
use knhk_proto::ordered::{Block, MAX_ORDERED, Measures, Outcome, Tally, read};
use knhk_proto::v1;
use proptest::prelude::*;

use crate::fake::{Worker, request_of, rule};
use crate::said::reports;

/// Those of [`rule`].
const MEASURES: Measures = Measures {
    thresholds: 1,
    outcomes: 0,
};

#[derive(Clone, Debug)]
enum Happening {
    Request {
        user: u8,
        status: u16,
        slow: bool,
    },
    Tick,
    /// What was sent and not read is lost.
    StreamLost,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        30 => (any::<u8>(), prop::sample::select(vec![200_u16, 404, 500]), any::<bool>())
            .prop_map(|(user, status, slow)| Happening::Request { user, status, slow }),
        2 => Just(Happening::Tick),
        1 => Just(Happening::StreamLost),
    ];
    prop::collection::vec(one, 0..400)
}

fn group_of(user: &str) -> u8 {
    let document = knhk_decision::PolicyDoc::new(knhk_decision::PolicyId::default(), vec![rule(50, 1)]);
    let policy = knhk_decision::Policy::compile(document).expect("valid");
    let headers = request_of(user);
    let serialized = knhk_filter::pairs::serialize(
        &headers
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_slice()))
            .collect::<Vec<_>>(),
    );
    let mut host = crate::fake::FakeHost::default();
    let facts = knhk_filter::request::Request::new(
        knhk_filter::request::Headers::new(&serialized),
        &mut host,
        knhk_filter::config::PeerSource::Certificate,
    );
    match knhk_decision::decide(&policy, &facts).verdict {
        Verdict::Routed(routed) => routed.group,
        Verdict::NoRollout | Verdict::Denied(_) => panic!("the rule is for every request"),
    }
}

/// What finished since the last report, and the counts that it stopped at.
#[derive(Debug)]
struct Truth {
    blocks: Vec<Block>,
    stable: Tally,
    counts: [u64; 2],
    at_report: [u64; 2],
}

impl Truth {
    fn new() -> Self {
        Self {
            blocks: Vec::new(),
            stable: MEASURES.nothing(),
            counts: [0, 0],
            at_report: [0, 0],
        }
    }

    fn finished(&mut self, canary: bool, outcome: Outcome) {
        self.counts[usize::from(canary)] += 1;
        if canary {
            let stable = std::mem::replace(&mut self.stable, MEASURES.nothing());
            self.blocks.push(Block {
                stable,
                canary: outcome,
            });
        } else {
            self.stable.count(outcome, MEASURES);
        }
    }

    /// A report tells the first of what finished since the one before, and where it began.
    fn reported(&mut self, report: &v1::Report) {
        let before = std::mem::replace(&mut self.at_report, self.counts);
        self.stable = MEASURES.nothing();
        let mut blocks = std::mem::take(&mut self.blocks);
        blocks.truncate(MAX_ORDERED);
        let ordered: Vec<_> = report
            .observed
            .iter()
            .filter_map(|row| row.ordered.as_ref())
            .collect();
        match ordered.as_slice() {
            [] => assert_eq!(blocks, []),
            [ordered] => {
                assert_eq!([ordered.after_stable, ordered.after_canary], before);
                assert_eq!(read(&ordered.run, MEASURES), Ok(blocks));
            }
            more => panic!("{more:?}"),
        }
    }
}

fn read_reports(worker: &mut Worker, plugin: ContextId, truth: &mut Truth) {
    for report in reports(&worker.sent(plugin)) {
        truth.reported(&report);
    }
}

proptest! {
    #[test]
    fn a_report_tells_the_first_outcomes_since_the_one_before(happenings in happenings()) {
        let (mut worker, plugin) = Worker::running(&[rule(50, 1)]);
        worker.tick(plugin);
        worker.sent(plugin);
        let mut truth = Truth::new();
        for happening in happenings.into_iter().chain([Happening::Tick]) {
            match happening {
                Happening::Request { user, status, slow } => {
                    let user = format!("user-{user}");
                    let request = worker.request(plugin, request_of(&user));
                    let canary = worker.host.header("x-knhk-variant").as_deref() == Some("canary");
                    worker.finish(request, Some(status), if slow { 300_000 } else { 1_000 });
                    truth.finished(canary, Outcome {
                        group: group_of(&user),
                        failed: status >= 500,
                        over: slow.into(),
                        outcomes: 0,
                    });
                }
                Happening::Tick => {
                    worker.tick(plugin);
                    read_reports(&mut worker, plugin, &mut truth);
                }
                Happening::StreamLost => {
                    // What finishes until there is a stream again waits, and stays in order.
                    worker.remote_close(plugin, 14);
                    worker.reconnect(plugin);
                    read_reports(&mut worker, plugin, &mut truth);
                }
            }
        }
    }
}

#[test]
fn outcomes_are_told_once() {
    let (mut worker, plugin) = Worker::running(&[rule(100, 1)]);
    let request = worker.request(plugin, request_of("ann"));
    worker.finish(request, Some(200), 1_000);
    worker.tick(plugin);
    let ordered = |worker: &mut Worker| -> Vec<v1::Ordered> {
        reports(&worker.sent(plugin))
            .into_iter()
            .flat_map(|report| report.observed)
            .filter_map(|row| row.ordered)
            .collect()
    };
    assert_eq!(ordered(&mut worker).len(), 1);
    // On a new stream the counts are told again, and the outcomes are not.
    worker.remote_close(plugin, 14);
    worker.reconnect(plugin);
    let sent = worker.sent(plugin);
    let told = reports(&sent).pop().expect("a report").observed;
    assert_eq!((told[0].requests, &told[0].ordered), (1, &None));
}
