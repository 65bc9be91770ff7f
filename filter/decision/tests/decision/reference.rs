//! A model of the decision that goes through all rules, written from the words of the design alone.

use std::cmp::Ordering;

use knhk_decision::spec::{HeaderMatch, KeySpec, MatchSpec, ValueMatch};
use knhk_decision::{Admission, Decision, Facts, Policy, PolicyError, RolloutRule, Variant, bucket, decide};
use proptest::prelude::*;

use crate::support::{Request, any_policy, any_request, any_rules, doc};

/// Rollout, bucket, key, variant, admission.
type Outcome = Option<(String, Option<u32>, Option<u32>, Variant, Admission)>;

fn model(rules: &[RolloutRule], request: &Request) -> Outcome {
    let rule = rules
        .iter()
        .filter(|rule| matches(&rule.r#match, request))
        .min_by(|a, b| {
            let by_host = best_host(&b.r#match, request).cmp(&best_host(&a.r#match, request));
            let by_path = path_rank(&b.r#match).cmp(&path_rank(&a.r#match));
            let by_conditions = conditions(&b.r#match).cmp(&conditions(&a.r#match));
            by_host
                .then(by_path)
                .then(by_conditions)
                .then(a.name.cmp(&b.name))
        })?;
    let salt = rule.salt.clone().unwrap_or(rule.name.clone());
    let admission = match &rule.admit {
        Some(admit) if !is_any_of(&admit.peers, request) => Admission::Denied,
        _ => Admission::Admitted,
    };
    let staging = rule.staging.as_ref().filter(|staging| staging.active);
    let is_staged = staging.is_some_and(|staging| {
        headers_hold(&staging.r#match.headers, request)
            && (staging.r#match.peers.is_empty() || is_any_of(&staging.r#match.peers, request))
    });
    let unless_staged = |variant| if is_staged { Variant::Staging } else { variant };
    for (i, key) in (0..).zip(&rule.key) {
        let Some(key) = key_of(key, request).filter(|key| !key.is_empty()) else {
            continue;
        };
        let bucket = bucket(&salt, &key);
        let variant = if bucket < rule.weight.ppm() {
            Variant::Canary
        } else {
            Variant::Stable
        };
        return Some((
            rule.name.clone(),
            Some(bucket),
            Some(i),
            unless_staged(variant),
            admission,
        ));
    }
    Some((
        rule.name.clone(),
        None,
        None,
        unless_staged(Variant::Stable),
        admission,
    ))
}

/// A caller with an ID: not every name is one.
fn peer(request: &Request) -> Option<(String, Vec<String>)> {
    let rest = request.peer.as_deref()?.strip_prefix("spiffe://")?;
    let mut segments = rest.split('/').map(str::to_owned);
    let (trust_domain, path) = (segments.next()?, segments.collect::<Vec<_>>());
    let whole = path.iter().all(|segment| !segment.is_empty() && segment != "..");
    (!path.is_empty() && whole).then_some((trust_domain, path))
}

fn is_any_of(patterns: &[String], request: &Request) -> bool {
    let Some((trust_domain, path)) = peer(request) else {
        return false;
    };
    patterns.iter().any(|pattern| {
        let mut segments = pattern["spiffe://".len()..].split('/');
        let domain = segments.next().expect("a trust domain").to_lowercase();
        let wanted: Vec<_> = segments.collect();
        let holds = match wanted.split_last() {
            Some((&"*", front)) => path.len() > front.len() && path[..front.len()] == *front,
            _ => path == wanted,
        };
        domain == trust_domain && holds
    })
}

fn matches(spec: &MatchSpec, request: &Request) -> bool {
    best_host(spec, request).is_some()
        && path_holds(spec, request)
        && (spec.methods.is_empty()
            || spec
                .methods
                .iter()
                .any(|method| method.as_bytes() == request.method))
        && headers_hold(&spec.headers, request)
        && (spec.peers.is_empty() || is_any_of(&spec.peers, request))
}

fn headers_hold(headers: &[HeaderMatch], request: &Request) -> bool {
    headers.iter().all(|header| {
        let given = request.header(&header.name.to_lowercase()).unwrap_or_default();
        match &header.value {
            ValueMatch::Exact(value) => given == value.as_bytes(),
            ValueMatch::Prefix(value) => given.starts_with(value.as_bytes()),
            ValueMatch::Present(present) => *present != given.is_empty(),
        }
    })
}

/// The most specific of the hosts that hold: 2 for an exact one, 1 and its length for a suffix, 0 for any.
fn best_host(spec: &MatchSpec, request: &Request) -> Option<(u8, usize)> {
    if spec.hosts.is_empty() {
        return Some((0, 0));
    }
    let authority = String::from_utf8_lossy(&request.authority).to_ascii_lowercase();
    let host = match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => &authority,
    };
    let rank = |pattern: &String| match pattern.to_ascii_lowercase().strip_prefix('*') {
        Some(suffix) => (host.len() > suffix.len() && host.ends_with(suffix)).then_some((1, suffix.len())),
        None => (host == pattern.to_ascii_lowercase()).then_some((2, 0)),
    };
    spec.hosts.iter().filter_map(rank).max()
}

fn path_holds(spec: &MatchSpec, request: &Request) -> bool {
    let path = String::from_utf8_lossy(&request.path);
    let path = path.split(['?', '#']).next().expect("a first part");
    if let Some(exact) = &spec.path {
        return path == exact;
    }
    let prefix = spec.path_prefix.as_deref().unwrap_or("/").trim_end_matches('/');
    prefix.is_empty() || format!("{path}/").starts_with(&format!("{prefix}/"))
}

fn path_rank(spec: &MatchSpec) -> (usize, bool) {
    match (&spec.path, &spec.path_prefix) {
        (Some(exact), _) => (exact.len(), true),
        (None, Some(prefix)) => (prefix.trim_end_matches('/').len(), false),
        (None, None) => (0, false),
    }
}

fn conditions(spec: &MatchSpec) -> usize {
    spec.headers.len() + usize::from(!spec.methods.is_empty()) + usize::from(!spec.peers.is_empty())
}

/// The first key of a rollout that is there and not empty.
pub(crate) fn key_of_rule(rule: &RolloutRule, request: &Request) -> Option<Vec<u8>> {
    let keys = rule.key.iter().filter_map(|key| key_of(key, request));
    keys.into_iter().find(|key| !key.is_empty())
}

fn key_of(key: &KeySpec, request: &Request) -> Option<Vec<u8>> {
    match key {
        KeySpec::Header(name) => Some(request.header(&name.to_lowercase())?.to_vec()),
        KeySpec::Cookie(name) => {
            let cookies = String::from_utf8(request.header("cookie")?.to_vec()).expect("text");
            let wanted = format!("{name}=");
            let cookie = cookies
                .split("; ")
                .find_map(|cookie| cookie.strip_prefix(&wanted))?;
            Some(cookie.trim_matches('"').into())
        }
        KeySpec::Query(name) => {
            let path = String::from_utf8(request.path.clone()).expect("text");
            let (_, query) = path.split('#').next()?.split_once('?')?;
            let plain = query.replace('+', " ").replace("%20", " ").replace("%41", "A");
            let wanted = format!("{name}=");
            Some(
                plain
                    .split('&')
                    .find_map(|pair| pair.strip_prefix(&wanted))?
                    .into(),
            )
        }
        KeySpec::PeerSpiffeId {} => peer(request).and(request.peer.clone()).map(String::into_bytes),
        KeySpec::RequestId {} => {
            let mut id = request.header("x-request-id")?.to_vec();
            if id.len() == 36 {
                id[14] = b'0';
            }
            Some(id)
        }
    }
}

fn outcome(verdict: &Decision<'_>) -> Outcome {
    let routed = verdict.routed()?;
    Some((
        routed.rule.name.clone(),
        routed.bucket,
        routed.key,
        routed.variant,
        verdict.admission(),
    ))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_decision_is_the_models(
        policy in any_policy(),
        requests in prop::collection::vec(any_request(), 20),
    ) {
        for request in &requests {
            let verdict = decide(&policy, request);
            prop_assert_eq!(outcome(&verdict), model(policy.rules(), request), "{:?}", request);
            if let Some(routed) = verdict.routed() {
                prop_assert_eq!(&policy.rules()[routed.index], routed.rule);
            }
            if !policy.reads_peer() {
                prop_assert_eq!(request.peer_asked.get(), 0);
            }
        }
    }

    /// In the model too: on the host that the refusal names, the rule never gets a request.
    #[test]
    fn a_rule_that_is_refused_as_shadowed_never_routes(
        rules in any_rules(),
        requests in prop::collection::vec(any_request(), 50),
    ) {
        let Err(error) = Policy::compile(doc(rules.clone())) else { return Ok(()) };
        let PolicyError::Rule { rollout, field, .. } = &error else { panic!("{error}") };
        prop_assert_eq!(error.label(), "shadowed", "{}", error);
        let name = rollout.trim_matches('"');
        let mut rules = rules;
        let shadowed = rules.iter_mut().find(|rule| rule.name == name).expect("the rule");
        if let Some(i) = field.strip_prefix("match.hosts[").and_then(|i| i.strip_suffix(']')) {
            shadowed.r#match.hosts = vec![shadowed.r#match.hosts[i.parse::<usize>().expect("a number")].clone()];
        }
        for request in &requests {
            prop_assert_ne!(model(&rules, request).map(|outcome| outcome.0), Some(name.to_owned()));
        }
    }
}

/// The model itself, on cases with known answers, so that it cannot agree by being empty.
#[test]
fn the_model_knows_the_order() {
    let low = RolloutRule {
        r#match: MatchSpec {
            hosts: vec!["*.com".into()],
            ..MatchSpec::default()
        },
        ..crate::support::rule("a")
    };
    let high = RolloutRule {
        r#match: MatchSpec {
            hosts: vec!["a.com".into()],
            ..MatchSpec::default()
        },
        ..crate::support::rule("b")
    };
    let request = Request::get("A.com:80", "/").with("x-user-id", "7");
    let (name, bucket, key, ..) = model(&[low, high], &request).expect("a rollout");
    assert_eq!(name.cmp(&"b".to_owned()), Ordering::Equal);
    assert_eq!((bucket, key), (Some(knhk_decision::bucket("b", b"7")), Some(0)));
}
