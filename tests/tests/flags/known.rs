//! Where flagd for Python differs from flagd for Go and from its own specification, and we do not follow it.

use knhk_flags::{Asked, Context, FlagSet};
use knhk_tests::peer::flagd::{Ask, Flagd, Questions};
use serde_json::{Map, json};

/// `docs/flags.md` lists them: when one of these fails, flagd for Python has changed, and the list has to.
#[test]
fn flagd_for_python_still_differs_where_the_documentation_says_so() {
    let mut flagd = Flagd::start().unwrap_or_else(|not_run| panic!("{not_run}"));
    let mut differs =
        |asked: Asked, variant: serde_json::Value, rule: serde_json::Value, theirs: Option<&str>| {
            let file = json!({ "flags": { "flag": {
            "state": "ENABLED",
            "variants": { "on": variant, "['a']": variant, "100000000000000000000": variant },
            "defaultVariant": "on",
            "targeting": rule,
        } } });
            let questions = Questions {
                flags: file.to_string(),
                timestamp: 0,
                asks: vec![Ask {
                    flag: "flag".to_owned(),
                    asked: asked.label(),
                    context: Map::new(),
                }],
            };
            let answers = flagd.ask(&questions).expect("answers");
            assert_eq!(answers[0].variant.as_deref(), theirs, "{rule}");
            let set = FlagSet::parse(questions.flags.as_bytes()).expect("a flag file");
            let ours = set.evaluate_as("flag", asked, &Context::at(0));
            ours.expect_err("no value").label()
        };
    // A boolean is a number in Python.
    assert_eq!(
        differs(Asked::Float, json!(true), json!({}), Some("on")),
        "TYPE_MISMATCH"
    );
    // A list has a text form in Python.
    assert_eq!(
        differs(
            Asked::Boolean,
            json!(true),
            json!({ "merge": ["a"] }),
            Some("['a']")
        ),
        "GENERAL"
    );
    // Whole numbers have no bound in Python.
    let product = json!({ "*": [10_000_000_000_i64, 10_000_000_000_i64] });
    assert_eq!(
        differs(
            Asked::Boolean,
            json!(true),
            product,
            Some("100000000000000000000")
        ),
        "GENERAL"
    );
}
