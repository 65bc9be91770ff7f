//! `knhk decide`: which variant a key gets, offline, by the filter's own code.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use knhk_decision::spec::{KeySpec, Weight};
use knhk_decision::{Admission, Facts, RolloutRule, SpiffeId, Variant, bucket, request_id_bucket};
use serde::Serialize;

use super::output::Reader;
use super::{Failure, Format, OutputArgs, failed, input, output};
use crate::http::MAX_SPEC_BYTES;

/// Largest snapshot that is read, in bytes.
const MAX_POLICY_BYTES: usize = knhk_decision::limits::MAX_POLICY_BYTES;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).multiple(true).args(["key", "request_id", "keys", "peer"]))]
pub(crate) struct Decide {
    /// A rollout (YAML; its first setWeight counts unless --weight is given) or a policy snapshot (JSON).
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Which rollout of the file.
    #[arg(long, value_name = "NAME")]
    rollout: String,
    /// The value of the rollout's key, for example a user's ID.
    #[arg(long, value_name = "KEY", conflicts_with_all = ["request_id", "keys"])]
    key: Option<String>,
    /// The value of `x-request-id`, where that is the rollout's key: the nibble that tracing rewrites is masked.
    #[arg(long, value_name = "ID", conflicts_with = "keys")]
    request_id: Option<String>,
    /// Many keys, one a line; `-` reads standard input. One answer a line.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// The caller's SPIFFE ID: says whether the rollout admits it, and is the key where none of the others is given and
    /// the rollout has the key peerSpiffeId.
    #[arg(long, value_name = "ID")]
    peer: Option<String>,
    /// A header of the request, as staging may ask for it; repeats.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    headers: Vec<Given>,
    /// The variant that a flag gives, as staging may ask for it; repeats.
    #[arg(long = "flag", value_name = "FLAG=VARIANT", value_parser = given)]
    flags: Vec<Given>,
    /// The weight in percent, instead of the file's.
    #[arg(long, value_name = "PERCENT")]
    weight: Option<f64>,
    /// The stage at whose first step it is decided: canary, staging or production. The first of the file unless given.
    #[arg(long, value_name = "STAGE")]
    stage: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// What the filter would decide.
#[derive(Debug, Serialize)]
struct Decision<'a> {
    key: &'a str,
    bucket: u32,
    variant: &'static str,
    version: &'a str,
    rollout: &'a str,
    weight: f64,
    admission: Admission,
}

/// What is decided by for every key.
struct Basis {
    rule: RolloutRule,
    weight: Weight,
    admission: Admission,
    is_staged: bool,
}

pub(crate) fn run(decide: &Decide) -> Result<(), Failure> {
    let rule = rule(decide)?;
    let peer = decide.peer.as_deref().map(parse_peer).transpose()?;
    let admission = rule.admission(peer).map_err(failed)?;
    let weight = match decide.weight {
        Some(percent) => {
            Weight::from_percent(percent).map_err(|error| Failure::new(format!("--weight: {error}")))?
        }
        None => rule.weight,
    };
    let keyless = |option: &str| {
        Failure::new(format!(
            "{option}: is empty, which is no key; the request goes to stable"
        ))
    };
    let request = Request { decide, peer };
    let is_staged = rule
        .picks(&request, |flag| value_of(&decide.flags, flag))
        .map_err(failed)?;
    let basis = Basis {
        rule,
        weight,
        admission,
        is_staged,
    };
    match (&decide.key, &decide.request_id, &decide.keys, peer) {
        (Some(key), ..) => {
            let bucket = key_bucket(&basis.rule, key).ok_or_else(|| keyless("--key"))?;
            print(decide, &decision(&basis, key, bucket))
        }
        (_, Some(id), ..) => {
            let bucket =
                request_id_bucket(basis.rule.salt(), id.as_bytes()).ok_or_else(|| keyless("--request-id"))?;
            print(decide, &decision(&basis, id, bucket))
        }
        (_, _, Some(file), _) => decide_each(file, &basis, decide.output),
        (.., Some(peer)) => {
            let bucket = peer_bucket(&basis.rule, peer).ok_or_else(|| {
                let name = &basis.rule.name;
                Failure::new(format!(
                    "--peer: is no key of rollout `{name}`, which has no peerSpiffeId: give --key as well"
                ))
            })?;
            print(decide, &decision(&basis, peer.as_str(), bucket))
        }
        (None, None, None, None) => Err(Failure::new("give --key, --request-id, --keys or --peer")),
    }
}

/// A name and its value.
#[derive(Debug, Clone)]
struct Given {
    name: String,
    value: String,
}

fn given(text: &str) -> Result<Given, String> {
    let (name, value) = text.split_once('=').ok_or("there is no =: write NAME=VALUE")?;
    Ok(Given {
        name: name.to_owned(),
        value: value.to_owned(),
    })
}

/// Of a header's name case does not count.
fn header(text: &str) -> Result<Given, String> {
    given(text).map(|Given { name, value }| Given {
        name: name.to_ascii_lowercase(),
        value,
    })
}

fn value_of<'g>(given: &'g [Given], name: &str) -> Option<&'g str> {
    let found = given.iter().find(|given| given.name == name);
    found.map(|given| given.value.as_str())
}

/// What is known of the request: headers that are not given are not there.
struct Request<'a> {
    decide: &'a Decide,
    peer: Option<SpiffeId<'a>>,
}

impl Facts for Request<'_> {
    fn method(&self) -> &[u8] {
        b""
    }

    fn authority(&self) -> &[u8] {
        b""
    }

    fn path(&self) -> &[u8] {
        b""
    }

    fn header(&self, lower_case_name: &str) -> Option<&[u8]> {
        value_of(&self.decide.headers, lower_case_name).map(str::as_bytes)
    }

    fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let headers = self.decide.headers.iter();
        headers.map(|given| (given.name.as_bytes(), given.value.as_bytes()))
    }

    fn unix_seconds(&self) -> i64 {
        0
    }

    fn peer_spiffe_id(&self) -> Option<SpiffeId<'_>> {
        self.peer
    }
}

fn parse_peer(id: &str) -> Result<SpiffeId<'_>, Failure> {
    SpiffeId::parse(id).ok_or_else(|| {
        Failure::new(format!(
            "--peer: {id:?} is no workload's SPIFFE ID: write one as in spiffe://example.org/ns/shop/sa/web"
        ))
    })
}

fn peer_bucket(rule: &RolloutRule, peer: SpiffeId<'_>) -> Option<u32> {
    rule.key
        .contains(&KeySpec::PeerSpiffeId {})
        .then(|| bucket(rule.salt(), peer.as_str().as_bytes()))
}

/// As in the filter, an empty value is no key.
fn key_bucket(rule: &RolloutRule, key: &str) -> Option<u32> {
    // Where there is nothing but request IDs, a key is one.
    if rule.key.iter().all(|spec| matches!(spec, KeySpec::RequestId {})) {
        return request_id_bucket(rule.salt(), key.as_bytes());
    }
    (!key.is_empty()).then(|| bucket(rule.salt(), key.as_bytes()))
}

fn decision<'a>(basis: &'a Basis, key: &'a str, bucket: u32) -> Decision<'a> {
    let Basis {
        rule,
        weight,
        admission,
        is_staged,
    } = basis;
    let variant = if *is_staged {
        Variant::Staging
    } else if bucket < weight.ppm() {
        Variant::Canary
    } else {
        Variant::Stable
    };
    Decision {
        key,
        bucket,
        variant: variant.as_str(),
        version: variant.version(rule),
        rollout: &rule.name,
        weight: weight.percent(),
        admission: *admission,
    }
}

fn print(decide: &Decide, decision: &Decision<'_>) -> Result<(), Failure> {
    output::print(decide.output, decision, || text(decision))
}

fn text(decision: &Decision<'_>) -> String {
    let admission = match decision.admission {
        Admission::Admitted => "",
        Admission::Denied => "\tdenied",
    };
    format!(
        "{}\t{}\t{}\t{}{admission}",
        decision.key, decision.bucket, decision.variant, decision.version
    )
}

fn decide_each(file: &Path, basis: &Basis, format: OutputArgs) -> Result<(), Failure> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    for (number, key) in (1..).zip(BufReader::new(input::open(file)?).lines()) {
        let located = |reason: String| Failure::new(format!("{}: line {number}: {reason}", file.display()));
        let key = key.map_err(|error| located(format!("cannot be read: {error}")))?;
        let bucket =
            key_bucket(&basis.rule, &key).ok_or_else(|| located("is empty, which is no key".to_owned()))?;
        let decision = decision(basis, &key, bucket);
        let shown = match format.output {
            Format::Text => text(&decision),
            Format::Json => serde_json::to_string(&decision).map_err(failed)?,
        };
        if output::line_to(&mut out, &shown)? == Reader::Gone {
            return Ok(());
        }
    }
    output::reader(out.flush()).map(drop)
}

fn rule(decide: &Decide) -> Result<RolloutRule, Failure> {
    let located = |reason: String| Failure::new(format!("{}: {reason}", decide.policy.display()));
    let text = input::text(&decide.policy, MAX_POLICY_BYTES.max(MAX_SPEC_BYTES))?;
    let rules = if is_policy(&text) {
        if decide.stage.is_some() {
            return Err(Failure::new(
                "--stage: a snapshot says itself which stage each rollout is in: leave it out, or give the rollout's file",
            ));
        }
        knhk_decision::Policy::parse(text.as_bytes())
            .map_err(|error| located(error.to_string()))?
            .rules()
            .to_vec()
    } else {
        let spec =
            knhk_promotion::RolloutSpec::from_yaml(&text).map_err(|error| located(error.to_string()))?;
        // As `apply` would publish it first; time and author are not part of a rule.
        let (rollout, _) = knhk_promotion::create(
            spec,
            "",
            knhk_promotion::Now {
                wall_ms: 0,
                mono_ms: 0,
            },
        );
        match &decide.stage {
            None => vec![rollout.rule()],
            Some(stage) => {
                let at = rollout.at_stage(stage).ok_or_else(|| {
                    Failure::new(format!(
                        "--stage: the rollout has no stage {stage:?}: write one that it has"
                    ))
                })?;
                vec![at.rule()]
            }
        }
    };
    let names: Vec<_> = rules.iter().map(|rule| rule.name.clone()).collect();
    rules
        .into_iter()
        .find(|rule| rule.name == decide.rollout)
        .ok_or_else(|| {
            located(format!(
                "holds no rollout `{}`; it holds: {}",
                decide.rollout,
                names.join(", ")
            ))
        })
}

/// A snapshot is JSON that says so; everything else is read as a rollout.
fn is_policy(text: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(text).is_ok_and(|document| {
        document.get("kind").and_then(|kind| kind.as_str()) == Some(knhk_decision::KIND)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use knhk_decision::spec::AdmitSpec;

    const WEB: &str = "spiffe://example.org/ns/shop/web";

    fn rule(key: &str) -> RolloutRule {
        let text = format!(
            "apiVersion: knhk.dev/v1\nkind: Rollout\nmetadata: {{ name: r }}\nspec:\n  version: v2\n  stable: v1\n  match: {{ hosts: [a.example.com] }}\n  key: [ {key} ]\n  stages: [ {{ name: canary, steps: [ {{ setWeight: 5, pause: 1s }} ] }} ]\n  analysis: {{ slos: [ {{ metric: request-success-rate, min: 99 }} ] }}\n"
        );
        let spec = knhk_promotion::RolloutSpec::from_yaml(&text).expect("valid");
        let now = knhk_promotion::Now {
            wall_ms: 0,
            mono_ms: 0,
        };
        knhk_promotion::create(spec, "", now).0.rule()
    }

    #[test]
    fn a_key_of_a_rollout_by_request_id_is_read_as_one() {
        let (one, other) = (
            "1199ce2c-677f-4911-b1aa-0123456789ab",
            "1199ce2c-677f-a911-b1aa-0123456789ab",
        );
        let by_id = rule("{ requestId: {} }");
        assert_eq!(key_bucket(&by_id, one), key_bucket(&by_id, other));
        assert_eq!(
            key_bucket(&by_id, one),
            request_id_bucket(by_id.salt(), one.as_bytes())
        );
        let by_header = rule("{ header: x-user-id }, { requestId: {} }");
        assert_ne!(key_bucket(&by_header, one), key_bucket(&by_header, other));
    }

    #[test]
    fn a_caller_is_the_key_where_the_rollout_has_that_one() {
        let peer = SpiffeId::parse(WEB).expect("an ID");
        let by_peer = rule("{ header: x-user-id }, { peerSpiffeId: {} }");
        assert_eq!(
            peer_bucket(&by_peer, peer),
            Some(bucket(by_peer.salt(), WEB.as_bytes()))
        );
        assert_eq!(peer_bucket(&rule("{ header: x-user-id }"), peer), None);
    }

    #[test]
    fn whom_the_rollout_does_not_admit_is_shown_as_denied() {
        let mut rule = rule("{ header: x-user-id }");
        rule.admit = Some(AdmitSpec {
            peers: vec!["spiffe://example.org/ns/shop/*".to_owned()],
        });
        let of = |peer: Option<&str>| {
            let basis = Basis {
                admission: rule.admission(peer.and_then(SpiffeId::parse)).expect("a rule"),
                weight: rule.weight,
                is_staged: false,
                rule: rule.clone(),
            };
            text(&decision(&basis, "alice", 7))
        };
        assert_eq!(of(Some(WEB)), "alice\t7\tcanary\tv2");
        assert_eq!(of(None), "alice\t7\tcanary\tv2\tdenied");
    }
}
