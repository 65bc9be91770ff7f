//! Rules as people write them allocate nothing when they are evaluated: in a filter that is most of what they could cost.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use knhk_flags::{Context, FlagSet};
use serde_json::{Value, json};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u32> = const { Cell::new(0) };
}

// SAFETY: all is passed on to the system's allocator; the count is a plain number of this thread.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often an evaluation that chooses a variant allocates.
fn allocations(rule: &Value) -> u32 {
    let file = json!({ "flags": { "flag": {
        "state": "ENABLED", "variants": { "on": true, "off": false }, "targeting": rule,
    } } });
    let set = FlagSet::parse(file.to_string().as_bytes()).expect("a flag file");
    let context = Context::at(1_795_000_000)
        .for_key("user-0001234")
        .with_text("email", "somebody@example.com")
        .with_text("plan", "pro");
    let before = ALLOCATIONS.get();
    let resolution = set.evaluate("flag", &context).expect("a resolution");
    let after = ALLOCATIONS.get();
    assert!(resolution.chosen.is_some(), "{rule}");
    after - before
}

#[test]
fn usual_rules_allocate_nothing() {
    let (email, plan) = (json!({ "var": "email" }), json!({ "var": "plan" }));
    let staff = json!({ "and": [{ "ends_with": [email, "@example.com"] }, { "!": { "var": "not.there" } }] });
    for rule in [
        json!({ "if": [{ "==": [plan, "pro"] }, "on", "off"] }),
        json!({ "if": [{ "in": [plan, ["free", "pro"]] }, "on", "off"] }),
        json!({ "if": [staff, "on", "off"] }),
        json!({ "if": [{ "<": [1, { "var": "$flagd.timestamp" }, 2_000_000_000] }, "on", "off"] }),
        json!({ "fractional": [["on", 5], ["off", 95]] }),
        json!({ "fractional": [email, ["on", 5], ["off", 95]] }),
    ] {
        assert_eq!(allocations(&rule), 0, "{rule}");
    }
    // The count counts.
    assert!(allocations(&json!({ "if": [{ "cat": [plan, email] }, "on"] })) > 0);
}
