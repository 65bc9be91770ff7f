//! Variants, values, reasons and error codes.

use knhk_flags::{Asked, Budget, Context, EvaluationError, FlagSet, Json, Kind, Reads, Reason, Stop, Texts};
use serde_json::{Value, json};

use crate::support::{NOW, evaluate, file, parse, shown};

const EIGHT: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

#[test]
fn each_reason_has_its_cause() {
    let set = parse(&json!({ "flags": {
        "plain": { "state": "ENABLED", "variants": { "on": true, "off": false }, "defaultVariant": "on" },
        "empty": { "state": "ENABLED", "variants": { "on": true }, "defaultVariant": "on", "targeting": {} },
        "code": { "state": "ENABLED", "variants": { "on": true }, "defaultVariant": null },
        "absent": { "state": "ENABLED", "variants": { "on": true }, "targeting": { "if": [false, "on"] } },
        "off": { "state": "DISABLED", "variants": { "on": true }, "defaultVariant": "on" },
        "rule": { "state": "ENABLED", "variants": { "true": 1, "false": 2.5 }, "defaultVariant": "false",
                  "targeting": { "if": [{ "==": [{ "var": "plan" }, "pro"] }, true, null] } },
        "lost": { "state": "ENABLED", "variants": { "on": true }, "defaultVariant": "on", "targeting": { "cat": ["of", "f"] } },
        "zero": { "state": "ENABLED", "variants": { "on": true }, "defaultVariant": "on", "targeting": { "/": [1, 0] } },
    } }));
    let pro = Context::at(NOW).with_text("plan", "pro");
    for (key, variant, reason) in [
        ("plain", Some("on"), "STATIC"),
        ("empty", Some("on"), "STATIC"),
        ("code", None, "DEFAULT"),
        ("absent", None, "DEFAULT"),
        ("off", None, "DISABLED"),
        ("rule", Some("true"), "TARGETING_MATCH"),
        ("lost", None, "GENERAL"),
        ("zero", None, "GENERAL"),
        ("not-there", None, "FLAG_NOT_FOUND"),
    ] {
        assert_eq!(shown(&set.evaluate(key, &pro)), (variant, reason), "{key}");
    }
    let other = set.evaluate("rule", &Context::at(NOW)).expect("a default");
    assert_eq!(other.reason.as_str(), "DEFAULT");
    assert_eq!(other.chosen.expect("it has one").value, &Json::Float(2.5));
}

#[test]
fn a_value_of_another_type_than_asked_for_is_an_error() {
    let set = parse(&json!({ "flags": {
        "bool": { "state": "ENABLED", "variants": { "v": true }, "defaultVariant": "v" },
        "text": { "state": "ENABLED", "variants": { "v": "1" }, "defaultVariant": "v" },
        "whole": { "state": "ENABLED", "variants": { "v": 1 }, "defaultVariant": "v" },
        "part": { "state": "ENABLED", "variants": { "v": 1.5 }, "defaultVariant": "v" },
        "object": { "state": "ENABLED", "variants": { "v": { "a": [1] } }, "defaultVariant": "v" },
        "code": { "state": "ENABLED", "variants": { "v": true } },
    } }));
    let all = [
        Asked::Boolean,
        Asked::String,
        Asked::Integer,
        Asked::Float,
        Asked::Object,
    ];
    for (key, right) in [
        ("bool", vec![Asked::Boolean]),
        ("text", vec![Asked::String]),
        ("whole", vec![Asked::Integer, Asked::Float]),
        ("part", vec![Asked::Float]),
        ("object", vec![Asked::Object]),
        ("code", all.to_vec()),
    ] {
        for asked in all {
            let result = set.evaluate_as(key, asked, &Context::at(NOW));
            let label = result
                .as_ref()
                .map_or_else(knhk_flags::EvaluationError::label, |_| "fine");
            let expected = if right.contains(&asked) {
                "fine"
            } else {
                "TYPE_MISMATCH"
            };
            assert_eq!(label, expected, "{key} as {}", asked.label());
        }
    }
    let kinds: Vec<_> = set.keys().map(|(_, kind)| kind).collect();
    assert_eq!(
        kinds,
        [
            Kind::Boolean,
            Kind::Boolean,
            Kind::Object,
            Kind::Number,
            Kind::String,
            Kind::Number
        ]
    );
}

/// What `openfeature-flagd-core` 2.0.0 gave for them.
#[test]
fn keys_fall_where_flagd_puts_them() {
    let shares: Vec<Value> = EIGHT.iter().map(|name| json!([name, 1])).collect();
    let set = parse(&file(&EIGHT, &json!({ "fractional": shares })));
    let long = "x".repeat(100);
    for (key, variant) in [
        ("user-1", "c"),
        ("user-2", "f"),
        ("user-3", "f"),
        ("user-4", "a"),
        ("user-5", "g"),
        ("\u{e9}", "h"),
        (&long, "e"),
    ] {
        let result = set.evaluate("flag", &Context::at(NOW).for_key(key));
        assert_eq!(shown(&result), (Some(variant), "TARGETING_MATCH"), "{key}");
    }
    for nobody in [Context::at(NOW), Context::at(NOW).for_key("")] {
        assert_eq!(shown(&set.evaluate("flag", &nobody)), (Some("a"), "DEFAULT"));
    }
    let by: Vec<Value> = std::iter::once(json!({ "var": "by" })).chain(shares).collect();
    let set = parse(&file(&EIGHT, &json!({ "fractional": by })));
    for (by, variant) in [
        (json!("user-1"), "c"),
        (json!(1), "h"),
        (json!(1.0), "h"),
        (json!(-1), "d"),
        (json!(1.5), "a"),
        (json!(0.1), "a"),
        (json!(1e20), "f"),
        (json!(true), "b"),
        (json!({ "b": 1, "aa": [null, 2.5] }), "g"),
        (json!(-0.0), "c"),
        (json!(65504.5), "f"),
        (json!(1e300), "f"),
        (json!(4_294_967_296_i64), "f"),
        (json!(-1_099_511_627_776_i64), "f"),
    ] {
        assert_eq!(
            evaluate(&set, &json!({ "by": by })).0.as_deref(),
            Some(variant),
            "{by}"
        );
    }
}

#[test]
fn shares_are_as_great_as_their_weights() {
    let set = parse(&file(
        &["none", "rare", "some", "most"],
        &json!({ "fractional": [["rare", 1], ["some", 249], ["none", 0], ["most", 750]] }),
    ));
    let mut counts = std::collections::BTreeMap::<_, u32>::new();
    for number in 0..100_000 {
        let key = format!("user-{number}");
        let result = set.evaluate("flag", &Context::at(NOW).for_key(&key));
        *counts.entry(shown(&result).0.expect("a variant")).or_default() += 1;
    }
    // Five standard deviations of a binomial distribution.
    for (name, expected, deviation) in [("rare", 100, 50), ("some", 24_900, 684), ("most", 75_000, 685)] {
        assert!(counts[name].abs_diff(expected) < deviation, "{name}: {counts:?}");
    }
    assert_eq!(counts.get("none"), None);
}

#[test]
fn the_time_is_a_fact() {
    let rule = json!({ "if": [{ ">=": [{ "var": "$flagd.timestamp" }, 1_800_000_000] }, "after", "before"] });
    let set = parse(&file(&["before", "after"], &rule));
    for (now, variant) in [(1_799_999_999, "before"), (1_800_000_000, "after")] {
        assert_eq!(shown(&set.evaluate("flag", &Context::at(now))).0, Some(variant));
    }
}

#[test]
fn what_flagd_adds_cannot_be_given() {
    let rule = json!({ "cat": [{ "var": "$flagd.flagKey" }, "/", { "var": "targetingKey" }] });
    let set = parse(&file(&["-", "flag/me"], &rule));
    let given = json!({ "$flagd": { "flagKey": "other" }, "targetingKey": "me" });
    assert_eq!(evaluate(&set, &given).0.as_deref(), Some("flag/me"));
    let context = Context::at(NOW)
        .for_key("me")
        .with_text("targetingKey", "other")
        .with_text("$flagd", "");
    assert_eq!(shown(&set.evaluate("flag", &context)).0, Some("flag/me"));
}

#[test]
fn a_later_fact_replaces_an_earlier_one() {
    let set = parse(&file(&["-", "two"], &json!({ "var": "a" })));
    let document = Context::read(br#"{ "a": "three", "b": 1 }"#).expect("a context");
    let context = Context::at(NOW)
        .with_text("b", "")
        .with_text("a", "one")
        .with_all(&document)
        .with_text("a", "two");
    assert_eq!(shown(&set.evaluate("flag", &context)).0, Some("two"));
}

#[test]
fn an_evaluator_is_the_rule_that_it_names() {
    let rule = json!({ "if": [{ "$ref": "isStaff" }, "on", "off"] });
    let mut shared = file(&["off", "on"], &rule);
    shared["$evaluators"] = json!({ "isStaff": { "ends_with": [{ "var": "email" }, "@example.com"] } });
    let set = parse(&shared);
    assert_eq!(
        evaluate(&set, &json!({ "email": "a@example.com" })).0.as_deref(),
        Some("on")
    );
    assert_eq!(
        evaluate(&set, &json!({ "email": "a@example.org" })).0.as_deref(),
        Some("off")
    );
}

#[test]
fn metadata_of_a_flag_comes_over_that_of_the_file() {
    let set = parse(&json!({ "metadata": { "owner": "web", "version": 1 }, "flags": {
        "flag": { "state": "ENABLED", "variants": { "on": true }, "metadata": { "version": 2, "beta": true } } } }));
    let shown = |key| serde_json::to_value(set.metadata(key)).expect("JSON");
    assert_eq!(
        shown("flag"),
        json!({ "owner": "web", "version": 2, "beta": true })
    );
    assert_eq!(shown("not-there"), json!({ "owner": "web", "version": 1 }));
}

#[test]
fn it_is_known_what_rules_read() {
    let reads = |rule: Value| {
        let set: FlagSet = parse(&file(&["on"], &rule));
        (
            reads_of(&set).paths().map(str::to_owned).collect::<Vec<_>>(),
            reads_of(&set).everything(),
        )
    };
    let some = json!({ "if": [{ "==": [{ "var": "headers.x-plan" }, 1] }, { "var": ["path", { "var": "b" }] }, { "missing": ["a", ["b"]] }] });
    assert_eq!(
        reads(some),
        (
            ["a", "b", "headers.x-plan", "path"].map(str::to_owned).to_vec(),
            false
        )
    );
    for all in [
        json!({ "var": "" }),
        json!({ "var": { "var": "a" } }),
        json!({ "missing": { "var": "a" } }),
    ] {
        assert!(reads(all.clone()).1, "{all}");
    }
    assert_eq!(
        reads(json!({ "fractional": [["on", 1]] })),
        (vec!["targetingKey".to_owned()], false)
    );
    let mut shared = file(&["on"], &json!({ "if": [{ "$ref": "pro" }, "on"] }));
    shared["$evaluators"] = json!({ "pro": { "var": "plan" }, "other": { "var": "" } });
    let set = parse(&shared);
    assert_eq!(reads_of(&set).paths().collect::<Vec<_>>(), ["plan"]);
    assert!(!reads_of(&set).everything() && set.reads("no such flag").is_none());
}

fn reads_of(set: &FlagSet) -> &Reads {
    set.reads("flag").expect("the flag")
}

/// As it does with one that has them in JSON.
#[test]
fn a_rule_reads_an_object_of_texts() {
    let rules = [
        json!({ "if": [{ "==": [{ "var": "headers.x-plan" }, "pro"] }, "on", "off"] }),
        json!({ "if": [{ "missing": ["headers.x-none", "headers.x-plan"] }, "on", "off"] }),
        json!({ "if": [{ "var": "headers" }, "on", "off"] }),
        json!({ "fractional": [{ "var": "headers" }, ["on", 1], ["off", 1]] }),
        json!({ "if": [{ "===": [{ "var": "headers" }, { "var": "same" }] }, "on", "off"] }),
        json!({ "if": [{ "in": [{ "var": "headers" }, { "merge": [[1], { "var": "same" }] }] }, "on", "off"] }),
    ];
    let headers = json!({ "x-plan": "pro", "accept": "*/*" });
    let read = |json: Value| Context::read(json.to_string().as_bytes()).expect("a context");
    let (same, whole) = (
        read(json!({ "same": headers })),
        read(json!({ "headers": headers, "same": headers })),
    );
    let texts = Texts::new(vec![("x-plan", "pro"), ("accept", "*/*"), ("x-plan", "free")]);
    for rule in rules {
        let set: FlagSet = parse(&file(&["on", "off"], &rule));
        let of = |context: &Context<'_>| format!("{:?}", shown(&set.evaluate("flag", context)));
        assert_eq!(
            of(&Context::at(NOW).with_all(&same).with_texts("headers", &texts)),
            of(&Context::at(NOW).with_all(&whole)),
            "{rule}"
        );
    }
}

#[test]
fn evaluations_share_a_budget_and_none_has_more_than_its_own() {
    let set: FlagSet = parse(&file(
        &["on"],
        &json!({ "if": [{ "and": [1, 2, 3, 4, 5, 6] }, "on"] }),
    ));
    let mut budget = Budget::of(20);
    let context = Context::at(NOW);
    let mut evaluate = || {
        set.evaluate_within("flag", &context, &mut budget)
            .map(|it| it.reason)
    };
    assert_eq!(evaluate(), Ok(Reason::TargetingMatch));
    assert_eq!(evaluate(), Ok(Reason::TargetingMatch));
    let spent = Err(EvaluationError::Stopped(Stop::TooCostly));
    assert_eq!((evaluate(), evaluate()), (spent.clone(), spent));
}

#[test]
fn what_a_flag_may_give_is_known_without_a_context() {
    let targeted = file(&["on", "off"], &json!({ "var": "variant" }));
    let plain = file(&["on", "off"], &json!({}));
    let mut disabled = plain.clone();
    disabled["flags"]["flag"]["state"] = json!("DISABLED");
    let mut without_default = plain.clone();
    without_default["flags"]["flag"]["defaultVariant"] = json!(null);
    let all = [
        Reason::Static,
        Reason::TargetingMatch,
        Reason::Default,
        Reason::Disabled,
    ];
    let of = |file: &Value| {
        let set: FlagSet = parse(file);
        let given = [None, Some("on"), Some("off"), Some("no")];
        let pairs = all
            .into_iter()
            .flat_map(|reason| given.map(|variant| (variant, reason)));
        let may: Vec<_> = pairs
            .filter(|(variant, reason)| set.may_give("flag", *variant, *reason))
            .collect();
        (may, set.may_fail("flag"))
    };
    let targeted = of(&targeted);
    assert_eq!(
        targeted.0,
        [
            (Some("on"), Reason::TargetingMatch),
            (Some("off"), Reason::TargetingMatch),
            (Some("on"), Reason::Default)
        ]
    );
    assert!(targeted.1);
    assert_eq!(of(&plain), (vec![(Some("on"), Reason::Static)], false));
    assert_eq!(of(&disabled), (vec![(None, Reason::Disabled)], false));
    assert_eq!(of(&without_default), (vec![(None, Reason::Default)], false));
}
