//! A flag file as an operator sends it: refused in one line, or flags that give a variant or a reason for any context.
#![no_main]

use knhk_flags::{Context, FlagSet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let set = match FlagSet::parse(bytes) {
        Err(refusal) => return assert!(!refusal.to_string().contains('\n'), "a refusal is one line: {refusal}"),
        Ok(set) => set,
    };
    // The context is the same bytes: where they are a flag file, rules look into their own.
    let facts = Context::read(bytes).unwrap_or_default();
    let context = Context::at(1).for_key("key").with_all(&facts).with_text("text", "a.b");
    for (key, _) in set.keys() {
        match set.evaluate(key, &context) {
            Ok(resolution) => assert!(resolution.chosen.is_some() || resolution.reason.as_str() != "TARGETING_MATCH"),
            Err(error) => assert!(!error.to_string().contains('\n'), "an error is one line: {error}"),
        }
    }
});
