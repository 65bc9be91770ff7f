use proptest::prelude::*;

use super::*;

fn measures() -> impl Strategy<Value = Measures> {
    (0..=8_usize, 0..=MAX_OUTCOMES).prop_map(|(thresholds, outcomes)| Measures { thresholds, outcomes })
}

fn block(measures: Measures) -> impl Strategy<Value = Block> {
    let outcomes = u8::try_from((1_u32 << measures.outcomes) - 1).unwrap_or(u8::MAX);
    let thresholds = u8::try_from(measures.thresholds).unwrap_or(u8::MAX);
    let canary = (0..GROUPS, any::<bool>(), 0..=thresholds, 0..=outcomes).prop_map(
        |(group, failed, over, outcomes)| Outcome {
            group,
            failed,
            over,
            outcomes,
        },
    );
    let requests = prop_oneof![Just(0), 1..100_u64, any::<u32>().prop_map(u64::from)];
    let stable = requests.prop_flat_map(move |requests| {
        let bad = prop_oneof![Just(0), 0..=requests];
        prop::collection::vec(bad, measures.count()).prop_map(move |bad| Tally { requests, bad })
    });
    (stable, canary).prop_map(|(stable, canary)| Block { stable, canary })
}

fn blocks(most: usize) -> impl Strategy<Value = (Measures, Vec<Block>)> {
    measures()
        .prop_flat_map(move |measures| (Just(measures), prop::collection::vec(block(measures), 0..=most)))
}

fn write(run: &mut Run, blocks: &[Block]) {
    for Block { stable, canary } in blocks {
        run.push(*canary, stable.requests, stable.bad.iter().copied());
    }
}

proptest! {
    #[test]
    fn what_was_written_is_read_back((measures, blocks) in blocks(MAX_ORDERED)) {
        let mut run = Run::new();
        write(&mut run, &blocks);
        prop_assert_eq!(run.is_empty(), blocks.is_empty());
        prop_assert_eq!(read(&run.take(), measures), Ok(blocks));
        prop_assert!(run.is_empty() && run.take().is_empty());
    }

    #[test]
    fn the_first_ones_are_kept((measures, blocks) in blocks(2 * MAX_ORDERED)) {
        let mut run = Run::new();
        write(&mut run, &blocks);
        let kept = blocks.len().min(MAX_ORDERED);
        prop_assert_eq!(run.is_full(), kept == MAX_ORDERED);
        prop_assert_eq!(read(&run.take(), measures), Ok(blocks[..kept].to_vec()));
    }

    /// Whatever comes: no panic, no more than fits, and nothing that cannot be.
    #[test]
    fn any_values_are_read(
        measures in measures(),
        run in prop::collection::vec(prop_oneof![0..300_u64, any::<u64>()], 0..300),
    ) {
        if let Ok(blocks) = read(&run, measures) {
            prop_assert!(blocks.len() <= MAX_ORDERED);
            for Block { stable, canary } in &blocks {
                prop_assert!(stable.is_possible() && canary.group < GROUPS);
                prop_assert!(usize::from(canary.over) <= measures.thresholds);
                prop_assert_eq!(measures.bad(*canary).count(), measures.count());
            }
            let mut again = Run::new();
            write(&mut again, &blocks);
            prop_assert_eq!(read(&again.take(), measures), Ok(blocks));
        }
    }
}

#[test]
fn what_no_filter_writes_is_refused() {
    let measures = Measures {
        thresholds: 1,
        outcomes: 1,
    };
    let cases: [(&[u64], Unreadable); 8] = [
        (&[TALLY_FOLLOWS], Unreadable::Cut),
        (&[TALLY_FOLLOWS, 3, 0, 0], Unreadable::Cut),
        (&[1 << CODE_BITS], Unreadable::Code),
        (&[2 << OVER_SHIFT], Unreadable::Code),
        (&[2 << OUTCOMES_SHIFT], Unreadable::Code),
        (&[TALLY_FOLLOWS, 0], Unreadable::Tally),
        (&[TALLY_FOLLOWS, 3, 0, 0, 2], Unreadable::Tally),
        (&[0; MAX_ORDERED + 1], Unreadable::TooMany),
    ];
    for (run, why) in cases {
        assert_eq!(read(run, measures), Err(why), "{run:?}");
    }
}
