//! A rollout as an operator sends it: refused in one line, or a state that survives being written and read.
#![no_main]

use knhk_promotion::{Now, RolloutSpec, create};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match RolloutSpec::from_yaml(text) {
        Err(refusal) => assert!(!refusal.to_string().contains('\n'), "a refusal is one line: {refusal}"),
        Ok(spec) => {
            let again = RolloutSpec::from_json(&spec.to_json()).expect("what was read can be read again");
            assert_eq!(again, spec);
            let (rollout, _) = create(spec, "fuzz", Now { wall_ms: 1, mono_ms: 1 });
            assert!(rollout.rule().weight == rollout.weight());
        }
    }
});
