use knhk_proto::ordered::{MAX_ORDERED, Outcome};
use proptest::prelude::*;

use super::*;

const MEASURES: Measures = Measures {
    thresholds: 1,
    outcomes: 1,
};

/// What can happen between a worker and the service.
#[derive(Debug, Clone)]
enum Happening {
    /// Stable finished a request.
    Stable(Outcome),
    Canary(Outcome),
    /// The worker reports, and the report is under way.
    Report,
    /// The report under way at this place arrives, and may arrive again.
    Arrives(usize, bool),
    /// It is lost.
    Lost(usize),
    /// The worker's VM is a new one: all counts begin anew.
    WorkerRestarts,
    /// The service forgets all it was told.
    ServiceRestarts,
}

#[derive(Debug, Clone)]
struct Report {
    vm: usize,
    latest: Told,
    sequence: Option<Sequence>,
}

/// A worker as the filter is, in plain terms: all that finished, and where the last report stopped.
#[derive(Debug, Default)]
struct Worker {
    vm: usize,
    finished: Vec<(bool, Outcome)>,
    reported: usize,
}

impl Worker {
    fn counts(&self, until: usize) -> Told {
        let mut told = Told::nothing(MEASURES);
        for (canary, outcome) in &self.finished[..until] {
            let tally = if *canary {
                &mut told.canary
            } else {
                &mut told.stable
            };
            tally.count(*outcome, MEASURES);
        }
        told
    }

    fn report(&mut self) -> Report {
        let before = self.counts(self.reported);
        let mut blocks = Vec::new();
        let mut stable = MEASURES.nothing();
        for (canary, outcome) in &self.finished[self.reported..] {
            if *canary && blocks.len() < MAX_ORDERED {
                let stable = std::mem::replace(&mut stable, MEASURES.nothing());
                blocks.push(Block {
                    stable,
                    canary: *outcome,
                });
            } else if !*canary {
                stable.count(*outcome, MEASURES);
            }
        }
        self.reported = self.finished.len();
        let sequence = (!blocks.is_empty()).then_some(Sequence {
            after_canary: before.canary.requests,
            after_stable: before.stable.requests,
            blocks,
        });
        Report {
            vm: self.vm,
            latest: self.counts(self.finished.len()),
            sequence,
        }
    }
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let outcome = || {
        (0..16_u8, any::<bool>(), 0..=1_u8, 0..=1_u8).prop_map(|(group, failed, over, outcomes)| Outcome {
            group,
            failed,
            over,
            outcomes,
        })
    };
    let one = prop_oneof![
        8 => outcome().prop_map(Happening::Stable),
        8 => outcome().prop_map(Happening::Canary),
        4 => Just(Happening::Report),
        6 => (0..3_usize, prop::bool::weighted(0.2)).prop_map(|(place, again)| Happening::Arrives(place, again)),
        1 => (0..3_usize).prop_map(Happening::Lost),
        1 => Just(Happening::WorkerRestarts),
        1 => Just(Happening::ServiceRestarts),
    ];
    prop::collection::vec(one, 0..300)
}

/// The service: what each VM told, and all the news of it.
#[derive(Debug, Default)]
struct Service {
    known: std::collections::HashMap<usize, (Told, Told, Vec<Block>)>,
}

impl Service {
    /// What was heard first, what was new since, and the blocks of it.
    fn hear(&mut self, report: &Report) {
        let Some((told, news, blocks)) = self.known.get_mut(&report.vm) else {
            let known = (report.latest.clone(), Told::nothing(MEASURES), Vec::new());
            self.known.insert(report.vm, known);
            return;
        };
        let Ok(new) = told.hear(report.latest.clone(), report.sequence.clone(), MEASURES) else {
            return;
        };
        blocks.extend(new.blocks.iter().cloned());
        let (canary, stable) = new.without_order(MEASURES);
        news.canary.add(&canary);
        news.stable.add(&stable);
    }
}

/// Whether `part` is in `whole`, in its order.
fn is_in_order<T: PartialEq>(part: &[T], whole: &[T]) -> bool {
    let mut rest = whole.iter();
    part.iter().all(|one| rest.any(|other| other == one))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// Whatever is lost, sent twice, late or started anew: with what was known at first, in order and not in order are
    /// exactly what was counted, and what is in order came in this order, each once.
    #[test]
    fn in_order_and_uncompared_are_always_what_was_counted(happenings in happenings()) {
        let mut worker = Worker::default();
        let mut under_way: Vec<Report> = Vec::new();
        let mut service = Service::default();
        let mut first: std::collections::HashMap<usize, Told> = std::collections::HashMap::new();
        let mut canaries: Vec<Vec<Outcome>> = vec![Vec::new()];
        for happening in happenings {
            match happening {
                Happening::Stable(outcome) => worker.finished.push((false, outcome)),
                Happening::Canary(outcome) => {
                    worker.finished.push((true, outcome));
                    canaries[worker.vm].push(outcome);
                }
                Happening::Report => under_way.push(worker.report()),
                Happening::Arrives(place, again) if place < under_way.len() => {
                    let report = if again { under_way[place].clone() } else { under_way.remove(place) };
                    first.entry(report.vm).or_insert_with(|| report.latest.clone());
                    service.hear(&report);
                }
                Happening::Lost(place) if place < under_way.len() => {
                    under_way.remove(place);
                }
                Happening::Arrives(..) | Happening::Lost(_) => {}
                Happening::WorkerRestarts => {
                    worker = Worker { vm: worker.vm + 1, ..Worker::default() };
                    canaries.push(Vec::new());
                }
                Happening::ServiceRestarts => {
                    service = Service::default();
                    first.clear();
                }
            }
            for (vm, (told, news, blocks)) in &service.known {
                let mut expected = first[vm].clone();
                expected.canary.add(&news.canary);
                expected.stable.add(&news.stable);
                prop_assert_eq!(told, &expected);
                let told: Vec<Outcome> = blocks.iter().map(|block| block.canary).collect();
                prop_assert!(is_in_order(&told, &canaries[*vm]));
            }
        }
    }

    /// Where nothing is lost and no report has too many, all of it is in order.
    #[test]
    fn what_arrives_is_in_order(finished in prop::collection::vec((any::<bool>(), any::<bool>()), 0..200)) {
        let mut worker = Worker::default();
        let mut told = Told::nothing(MEASURES);
        let mut canaries = Vec::new();
        for (canary, failed) in finished {
            let outcome = Outcome { failed, ..Outcome::default() };
            worker.finished.push((canary, outcome));
            canaries.extend(canary.then_some(outcome));
            if worker.finished.len() % 7 == 0 {
                let Report { latest, sequence, .. } = worker.report();
                let canaries = std::mem::take(&mut canaries);
                let news = told.hear(latest, sequence, MEASURES).expect("a report");
                prop_assert_eq!((news.canary.requests, news.stable.requests), (0, 0));
                let told: Vec<Outcome> = news.blocks.iter().map(|block| block.canary).collect();
                prop_assert_eq!(told, canaries);
            }
        }
    }
}

fn tally(requests: u64, errors: u64) -> Tally {
    Tally {
        requests,
        bad: vec![errors, 0, 0],
    }
}

fn sequence(after_canary: u64, after_stable: u64, failed: &[bool]) -> Sequence {
    let block = |failed: &bool| Block {
        stable: MEASURES.nothing(),
        canary: Outcome {
            failed: *failed,
            ..Outcome::default()
        },
    };
    Sequence {
        after_canary,
        after_stable,
        blocks: failed.iter().map(block).collect(),
    }
}

#[test]
fn a_report_that_contradicts_itself_changes_nothing() {
    let known = Told {
        stable: tally(10, 1),
        canary: tally(5, 1),
        staging: tally(7, 2),
    };
    let latest = |canary| Told {
        stable: tally(10, 1),
        canary,
        staging: tally(7, 2),
    };
    let cases = [
        (tally(4, 1), None, Ignored::Older),
        (tally(6, 0), None, Ignored::Malformed),
        // Two more errors in one more request.
        (tally(6, 3), None, Ignored::Malformed),
        // More in order than there is.
        (
            tally(6, 1),
            Some(sequence(5, 10, &[false, false])),
            Ignored::Malformed,
        ),
        // One that failed, and no error was counted.
        (tally(6, 1), Some(sequence(5, 10, &[true])), Ignored::Malformed),
        // More missed than there is beside it.
        (tally(7, 1), Some(sequence(7, 10, &[false])), Ignored::Malformed),
        (
            tally(6, 1),
            Some(sequence(5, u64::MAX, &[false])),
            Ignored::Malformed,
        ),
    ];
    for (canary, sequence, why) in cases {
        let mut told = known.clone();
        assert_eq!(
            told.hear(latest(canary.clone()), sequence.clone(), MEASURES),
            Err(why),
            "{canary:?} {sequence:?}"
        );
        assert_eq!(told, known);
    }
}

#[test]
fn what_is_told_again_is_no_news() {
    let latest = Told {
        stable: tally(3, 0),
        canary: tally(2, 1),
        staging: MEASURES.nothing(),
    };
    let mut told = Told::nothing(MEASURES);
    let said = Some(sequence(0, 0, &[false, true]));
    let news = told.hear(latest.clone(), said.clone(), MEASURES).expect("news");
    assert_eq!((news.blocks.len(), news.after), (2, tally(3, 0)));
    let again = told.hear(latest, said, MEASURES).expect("no contradiction");
    assert!(again.is_empty());
}

#[test]
fn what_staging_finished_is_counted_beside_the_order() {
    let mut told = Told::nothing(MEASURES);
    let latest = |staging| Told {
        stable: tally(3, 0),
        canary: tally(2, 1),
        staging,
    };
    let said = sequence(0, 0, &[false, true]);
    let news = told
        .hear(latest(tally(5, 2)), Some(said), MEASURES)
        .expect("news");
    assert_eq!((news.blocks.len(), &news.staging), (2, &tally(5, 2)));
    assert_eq!(news.unordered(), tally(5, 2));
    let news = told.hear(latest(tally(6, 3)), None, MEASURES).expect("news");
    assert!(!news.is_empty() && news.blocks.is_empty());
    assert_eq!(news.without_order(MEASURES), (tally(1, 1), MEASURES.nothing()));
    assert_eq!(
        told.hear(latest(tally(5, 2)), None, MEASURES),
        Err(Ignored::Older)
    );
    assert_eq!(
        told.hear(latest(tally(7, 5)), None, MEASURES),
        Err(Ignored::Malformed)
    );
}
