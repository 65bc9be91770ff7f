//! No input makes anything panic: not a document, not a request, not a piece of evidence.

use knhk_decision::{Evidence, Policy, decide, evidence, replay};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::{Request, any_policy, any_request, any_rules, doc};

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        vec(any::<u8>(), 0..6),
        prop::sample::select(vec![
            "[", "]", ":", "%", "%4", "=", ";", "\"", "&", "?", "#", "/", "..", "u id", "session=", "a.com"
        ])
        .prop_map(Into::into),
        (0..400_usize).prop_map(|count| vec![b'.'; count]),
        (0..400_usize).prop_map(|count| "/a".repeat(count).into_bytes()),
    ];
    vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn wild_request() -> impl Strategy<Value = Request> {
    let names = ["x-a", "x-b", "x-user-id", "cookie", "x-request-id"];
    (
        bytes(),
        bytes(),
        bytes(),
        vec(bytes(), names.len()),
        any::<Option<String>>(),
    )
        .prop_map(move |(method, authority, path, values, peer)| Request {
            method,
            authority,
            path,
            headers: names.iter().map(|&name| name.to_owned()).zip(values).collect(),
            peer,
            ..Request::default()
        })
}

proptest! {
    #[test]
    fn any_request_is_decided_and_replayed(policy in any_policy(), requests in vec(wild_request(), 20)) {
        for request in &requests {
            let verdict = decide(&policy, request);
            let evidence = evidence(&policy, request, &verdict);
            let replayed = replay(&policy, &evidence);
            prop_assert!(replayed.is_ok_and(|replayed| replayed.agrees_with(&evidence)), "{:?}", request);
            prop_assert!(evidence.host.len() <= 253 && evidence.method.len() <= 33);
        }
    }

    #[test]
    fn any_evidence_is_replayed_or_refused(
        policy in any_policy(),
        request in any_request(),
        swaps in vec((any::<prop::sample::Index>(), any::<u32>()), 1..4),
    ) {
        let sound = evidence(&policy, &request, &decide(&policy, &request));
        let mut wild = sound.clone();
        for (place, number) in swaps {
            tamper(&mut wild, place.index(7), number);
        }
        // Refused or not, it ends, and what it says has a label.
        if let Err(error) = replay(&policy, &wild) {
            prop_assert!(!error.label().is_empty() && !error.to_string().contains('\n'));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(Policy::parse(&bytes).is_err());
    }

    /// One byte of a good document changed: what still is a policy is written back the same as it was read.
    #[test]
    fn a_damaged_document_is_read_or_refused_in_one_line(
        rules in any_rules(),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = doc(rules).to_bytes();
        let place = place.index(bytes.len());
        bytes[place] = byte;
        match Policy::parse(&bytes) {
            Ok(policy) => prop_assert!(policy.rules().iter().all(|rule| rule.check().is_ok())),
            Err(error) => prop_assert!(!error.to_string().contains('\n'), "{}", error),
        }
    }
}

fn tamper(evidence: &mut Evidence, what: usize, number: u32) {
    match what {
        0 => evidence.host = format!("{number}.a.com"),
        1 => drop(evidence.paths.pop()),
        2 => evidence.conditions.truncate(number as usize % 3),
        3 => evidence.subject = Some("line\nbreak".to_owned()),
        4 => evidence.paths.push("a\nb".to_owned()),
        5 => evidence
            .rollout
            .iter_mut()
            .for_each(|route| route.name.push('\n')),
        _ => {
            if let Some(route) = &mut evidence.rollout {
                route.bucket = Some(number);
                route.key = number.checked_sub(u32::MAX / 2);
            }
        }
    }
}
