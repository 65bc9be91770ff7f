//! Nothing is done that rests on one identity alone.
//!
//! From three identities on a rollback, or a pause because stable fails too, has to follow from the counts without any
//! one of them as well: so whatever one of them says, and before it can be proven wrong, it is not enough. In the first
//! seconds of a window, while identities that are known have not reported, the same holds for passing a step.

use crate::analysis::{Finding, Reading};
use crate::counts::WindowCounts;
use crate::reporters::{Agreement, Weighed};

/// The reading that holds without any one identity too. `read` judges other counts by the same SLO.
pub(crate) fn agreed(
    mut reading: Reading,
    evidence: &Weighed,
    read: impl Fn(&WindowCounts) -> Reading,
) -> Reading {
    if !must_agree(evidence.agreement, reading.finding) {
        return reading;
    }
    for (identity, counts) in evidence.without_each() {
        let left = weaker(reading.finding, read(&counts).finding);
        if left != reading.finding {
            reading.finding = left;
            reading.rests_on = identity.cloned();
        }
    }
    reading
}

fn must_agree(agreement: Agreement, finding: Finding) -> bool {
    match finding {
        Finding::Worse | Finding::StableAlso => agreement != Agreement::No,
        Finding::Met => agreement == Agreement::ToActAndPass,
        Finding::TooFew | Finding::Missed | Finding::Violated => false,
    }
}

/// What is left of a finding where the counts without an identity give `without`.
fn weaker(finding: Finding, without: Finding) -> Finding {
    match (finding, without) {
        (Finding::Worse, Finding::Worse | Finding::StableAlso)
        | (Finding::Met, Finding::Met | Finding::TooFew) => without,
        // To wait is the least already.
        (Finding::StableAlso, Finding::Worse | Finding::StableAlso)
        | (Finding::TooFew | Finding::Missed | Finding::Violated, _) => finding,
        (Finding::Worse | Finding::StableAlso, _) => Finding::Violated,
        (Finding::Met, _) => Finding::Missed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::judge;
    use crate::counts::Counts;
    use crate::reporters::{Audience, Reporter, weigh};
    use crate::spec::RolloutSpec;
    use proptest::prelude::*;

    fn spec() -> RolloutSpec {
        RolloutSpec::from_yaml(
            "
apiVersion: knhk.dev/v1
kind: Rollout
metadata: { name: r }
spec:
  version: v2
  stable: v1
  match: {}
  key: [ { requestId: {} } ]
  stages: [ { name: canary, steps: [ { setWeight: 5 } ] } ]
  analysis: { minRequests: 20, slos: [ { metric: request-success-rate, min: 99.5 } ] }
",
        )
        .expect("it is a rollout")
    }

    /// Requests of stable and of the canary, and how many of a thousand are bad.
    type Said = ((u64, u64), (u64, u64));

    fn reporters(said: &[Said]) -> Vec<Reporter> {
        let counts = |(requests, per_mille): (u64, u64)| Counts {
            requests,
            errors: requests * per_mille / 1_000,
            ..Counts::default()
        };
        let all = said.iter().enumerate();
        all.map(|(name, (stable, canary))| Reporter {
            identity: Some(format!("spiffe://example.org/{name}").into()),
            stable: counts(*stable),
            canary: counts(*canary),
        })
        .collect()
    }

    fn finding(evidence: &Weighed) -> Finding {
        let readings = judge(&spec(), spec().first_weight(), evidence);
        readings.first().expect("one SLO").finding
    }

    fn said() -> impl Strategy<Value = Said> {
        let bad = || prop_oneof![Just(0u64), 0u64..20, 200u64..=1_000];
        ((0u64..3_000, bad()), (0u64..300, bad()))
    }

    proptest! {
        #[test]
        fn what_is_done_follows_without_any_one_identity(said in prop::collection::vec(said(), 3..6)) {
            let evidence = weigh(&spec(), 1, Audience::Known, reporters(&said));
            let agreed = finding(&evidence);
            let plain = finding(&evidence.counts().clone().into());
            prop_assert!(agreed == plain || must_agree(Agreement::ToActAndPass, plain));
            for (_, counts) in evidence.without_each() {
                let without = finding(&counts.into());
                match agreed {
                    Finding::Worse => prop_assert_eq!(without, Finding::Worse),
                    Finding::StableAlso => prop_assert!(matches!(without, Finding::StableAlso | Finding::Worse)),
                    _ => {}
                }
            }
        }

        /// Before anybody else has spoken, nothing that one says is enough, for better or worse.
        #[test]
        fn the_first_to_speak_decides_nothing(said in said()) {
            let finding = finding(&weigh(&spec(), 1, Audience::Gathering, reporters(&[said])));
            let waits = matches!(finding, Finding::TooFew | Finding::Missed | Finding::Violated);
            prop_assert!(waits, "{:?}", finding);
            let mut with_silent = reporters(&[said, ((0, 0), (0, 0)), ((0, 0), (0, 0))]);
            with_silent.rotate_left(1);
            let finding = super::tests::finding(&weigh(&spec(), 1, Audience::Known, with_silent));
            let waits = matches!(finding, Finding::TooFew | Finding::Missed | Finding::Violated);
            prop_assert!(waits, "{:?}", finding);
        }
    }

    #[test]
    fn what_rests_on_one_identity_names_it() {
        let all = reporters(&[
            ((2_000, 0), (60, 900)),
            ((2_000, 0), (4, 0)),
            ((2_000, 0), (5, 0)),
        ]);
        let evidence = weigh(&spec(), 1, Audience::Known, all);
        let readings = judge(&spec(), spec().first_weight(), &evidence);
        let reading = readings.first().expect("one SLO");
        assert_eq!(evidence.provenance().map(|it| it.canary_reporting), Some(3));
        assert_ne!(reading.finding, Finding::Worse);
        // Two are no audience: there the one is believed.
        let two = reporters(&[((2_000, 0), (60, 900)), ((2_000, 0), (4, 0))]);
        let evidence = weigh(&spec(), 1, Audience::Known, two);
        assert_eq!(finding(&evidence), Finding::Worse);
    }
}
