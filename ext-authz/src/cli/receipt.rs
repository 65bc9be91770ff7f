//! `knhk receipt`: fetch, verify offline, replay, audit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use knhk_decision::limits::MAX_POLICY_BYTES;
use knhk_decision::{Policy, ReplayedVerdict, replay};
use knhk_receipts::receipt::MAX_RECEIPT_BYTES;
use knhk_receipts::{Acknowledged, Check, Payload, PublicKey, ReceiptFile, ReceiptId, Verified};
use reqwest::Method;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::audit::{self, AuditArgs};
use super::client::Client;
use super::trusted::{self, Trusted};
use super::{Failure, OutputArgs, ServerArgs, failed, input, output};
use crate::api::{KINDS, ReceiptList, rfc3339, summary};

#[derive(Debug, Subcommand)]
pub(crate) enum ReceiptVerb {
    /// Fetch a receipt: show it, or write it to a file that needs nothing else to be verified.
    Get {
        /// REGION/INDEX.
        id: String,
        /// Where to write the receipt.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Verify a receipt offline.
    Verify {
        file: PathBuf,
        /// A public key in PEM, or a key set as `GET /v1/keys` answers it, that is trusted; may be repeated. By a key set a key
        /// counts only for the trees that it signed.
        #[arg(long = "key", value_name = "PEM_OR_KEY_SET", required = true)]
        keys: Vec<PathBuf>,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List receipts, newest first.
    List {
        /// Only receipts of this rollout.
        #[arg(long)]
        rollout: Option<String>,
        /// Only receipts of this kind.
        #[arg(long, value_parser = KINDS)]
        kind: Option<String>,
        /// At most so many, up to 1000.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Only receipts with a smaller index; go on with the answer's `next_before`.
        #[arg(long)]
        before: Option<u64>,
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Look at a whole log: every entry, tile and checkpoint, and the keys from the first one on.
    Audit(AuditArgs),
    /// Decide again what a receipt recorded, from its policy, and compare.
    Replay {
        file: PathBuf,
        /// The policy document; without it, it is fetched from the service.
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(crate) async fn run(verb: ReceiptVerb) -> Result<(), Failure> {
    match verb {
        ReceiptVerb::Get {
            id,
            out,
            server,
            output,
        } => get(&id, out.as_deref(), &server, output).await,
        ReceiptVerb::Verify { file, keys, output } => verify(&file, &keys, output),
        ReceiptVerb::Audit(args) => audit::run(args).await,
        ReceiptVerb::List {
            rollout,
            kind,
            limit,
            before,
            server,
            output,
        } => {
            let filter = [
                ("rollout", rollout),
                ("kind", kind),
                ("limit", Some(limit.to_string())),
                ("before", before.map(|index| index.to_string())),
            ];
            list(&filter, &server, output).await
        }
        ReceiptVerb::Replay {
            file,
            policy,
            server,
            output,
        } => replay_file(&file, policy.as_deref(), &server, output).await,
    }
}

async fn get(id: &str, out: Option<&Path>, server: &ServerArgs, format: OutputArgs) -> Result<(), Failure> {
    let id: ReceiptId = id.parse().map_err(failed)?;
    let client = Client::new(server).await?;
    let request = client.request(Method::GET, &format!("/v1/receipts/{id}"));
    let bytes = client.bytes(request).await?;
    let receipt = ReceiptFile::from_bytes(&bytes).map_err(failed)?;
    if receipt.index != id.index {
        let message = format!(
            "{id}: the service answered with entry {}; is it the right one?",
            receipt.index
        );
        return Err(Failure::new(message));
    }
    let Some(out) = out else {
        let payload = Payload::from_bytes(&receipt.payload).map_err(failed)?;
        let answer = json!({
            "id": id.to_string(),
            "kind": payload.kind(),
            "payload": payload,
            "treeSize": receipt.checkpoint.size(),
            "origin": receipt.checkpoint.origin(),
            "acknowledgements": receipt.acknowledged.iter().map(acknowledgement).collect::<Vec<_>>(),
        });
        return output::print(format, &answer, || {
            let held = receipt.acknowledged.iter().map(|it| {
                let (region, size) = (&it.ack.peer, it.ack.size);
                format!("\n  held by {region} ({size} entries)")
            });
            format!(
                "{id}  {}  {}\n{}{}",
                rfc3339(payload.time_unix_ms()),
                payload.kind(),
                summary(&payload),
                held.collect::<String>()
            )
        });
    };
    std::fs::write(out, &bytes)
        .map_err(|error| Failure::new(format!("{}: cannot be written: {error}", out.display())))?;
    let answer = json!({ "id": id.to_string(), "file": out, "bytes": bytes.len() });
    output::print(format, &answer, || {
        format!("{id}: {} bytes in {}", bytes.len(), out.display())
    })
}

/// A region that holds the entry, for programs.
fn acknowledgement(held: &Acknowledged) -> serde_json::Value {
    json!({ "region": held.ack.peer, "treeSize": held.ack.size })
}

fn verify(file: &Path, keys: &[PathBuf], format: OutputArgs) -> Result<(), Failure> {
    let trusted = trusted::read(keys)?;
    let receipt = read_receipt(file)?;
    let acks = trusted::acknowledging(keys)?;
    let mut verified = verify_with(&receipt, &trusted, &acks)
        .map_err(|reason| Failure::new(format!("{}: NOT VERIFIED: {reason}", file.display())))?;
    verified.checks.extend(validity(&receipt, &trusted));
    let answer = json!({ "verified": true, "id": verified.id.to_string(), "checks": verified.checks });
    output::print(format, &answer, || {
        let lines: Vec<_> = verified
            .checks
            .iter()
            .map(|check| format!("  ok  {}: {}", check.name, check.detail))
            .collect();
        format!(
            "{}: verified, {}\n{}",
            file.display(),
            verified.id,
            lines.join("\n")
        )
    })
}

/// With the keys that can have signed a tree of its size, or the reason why not.
fn verify_with(receipt: &ReceiptFile, trusted: &[Trusted], acks: &[PublicKey]) -> Result<Verified, String> {
    let size = receipt.checkpoint.size();
    let (valid, others): (Vec<_>, Vec<_>) = trusted.iter().partition(|it| it.is_valid_at(size));
    let keys = |of: &[&Trusted]| of.iter().map(|it| it.key.clone()).collect::<Vec<_>>();
    receipt.verify_held(&keys(&valid), acks).map_err(|error| {
        let out_of_turn = keys(&others);
        let by = receipt.checkpoint.verify(&out_of_turn).ok();
        let late = by.and_then(|by| others.iter().find(|it| it.key == *by));
        match late.and_then(|it| Some((it, it.validity()?))) {
            Some((it, validity)) => format!(
                "validity: its checkpoint of {size} entries is signed by {}, and by its key set {validity}",
                it.key
            ),
            None => error.to_string(),
        }
    })
}

/// What the key set says of the key that signed.
fn validity(receipt: &ReceiptFile, trusted: &[Trusted]) -> Option<Check> {
    let size = receipt.checkpoint.size();
    let by = trusted.iter().find(|it| {
        it.is_valid_at(size) && receipt.checkpoint.verify(std::slice::from_ref(&it.key)).is_ok()
    })?;
    let detail = format!("by the key set {}; this one has {size}", by.validity()?);
    Some(Check {
        name: "validity",
        detail,
    })
}

fn read_receipt(file: &Path) -> Result<ReceiptFile, Failure> {
    let located = |reason: String| Failure::new(format!("{}: {reason}", file.display()));
    let bytes = input::bytes(file, MAX_RECEIPT_BYTES)?;
    ReceiptFile::from_bytes(&bytes).map_err(|error| located(error.to_string()))
}

async fn list(
    filter: &[(&str, Option<String>)],
    server: &ServerArgs,
    format: OutputArgs,
) -> Result<(), Failure> {
    let client = Client::new(server).await?;
    let given: Vec<_> = filter
        .iter()
        .filter_map(|(name, value)| Some((*name, value.as_ref()?)))
        .collect();
    let request = client.request(Method::GET, "/v1/receipts").query(&given);
    let list: ReceiptList = client.json(request).await?;
    output::print(format, &list, || {
        let rows = list.receipts.iter().map(|row| {
            [
                row.id.clone(),
                row.time.clone(),
                row.kind.clone(),
                row.summary.clone(),
            ]
        });
        output::table(["ID", "TIME", "KIND", "WHAT"], rows)
    })
}

/// The recorded verdict and the one that the policy gives must be the same.
async fn replay_file(
    file: &Path,
    policy: Option<&Path>,
    server: &ServerArgs,
    format: OutputArgs,
) -> Result<(), Failure> {
    let located = |reason: String| Failure::new(format!("{}: {reason}", file.display()));
    let receipt = read_receipt(file)?;
    let Payload::Decision(decision) =
        Payload::from_bytes(&receipt.payload).map_err(|error| located(error.to_string()))?
    else {
        return Err(located(
            "is not the receipt of a decision; only decisions can be replayed".to_owned(),
        ));
    };
    let document = if let Some(path) = policy {
        input::bytes(path, MAX_POLICY_BYTES)?
    } else {
        let client = Client::new(server).await?;
        let request = client.request(Method::GET, &format!("/v1/policies/{}", decision.policy));
        client.bytes(request).await?
    };
    if <[u8; 32]>::from(Sha256::digest(&document)) != decision.policy_sha256 {
        let message = format!(
            "the policy {} is not the one that decided: its SHA-256 differs",
            decision.policy
        );
        return Err(located(message));
    }
    let policy = Policy::parse(&document).map_err(failed)?;
    let again = replay(&policy, &decision.evidence).map_err(|error| located(error.to_string()))?;
    if !again.agrees_with(&decision.evidence) {
        let message = format!(
            "the receipt says `{}`, its policy gives `{}`: the receipt is not of this policy's decision",
            summary(&Payload::Decision(decision)),
            describe_replay(&again)
        );
        return Err(located(message));
    }
    let flags: BTreeMap<_, _> = told(&again).collect();
    let route = decision.evidence.rollout.as_ref();
    let answer = json!({
        "same": true,
        "policy": decision.policy.to_string(),
        "rollout": route.map(|route| &route.name),
        "variant": route.map(|route| route.variant.as_str()),
        "bucket": route.and_then(|route| route.bucket),
        "admission": decision.evidence.admission,
        "flags": flags,
    });
    output::print(format, &answer, || {
        let what = describe_replay(&again);
        format!(
            "{}: the same verdict from policy {}: {what}",
            file.display(),
            decision.policy
        )
    })
}

fn describe_replay(verdict: &ReplayedVerdict) -> String {
    match verdict {
        ReplayedVerdict::NoRollout => "no rollout".to_owned(),
        ReplayedVerdict::Routed(route) => {
            let flags = told(verdict).fold(String::new(), |shown, (flag, variant)| {
                shown + ", flag " + flag + "=" + variant
            });
            format!("{}: {}{flags}", route.name, route.variant.as_str())
        }
        ReplayedVerdict::Denied(route) => format!("{}: denied", route.name),
    }
}

/// What the upstream is told of flags.
fn told(verdict: &ReplayedVerdict) -> impl Iterator<Item = (&str, &str)> {
    let flags = verdict.route().into_iter().flat_map(|route| &route.flags);
    flags.map(|it| (it.flag.as_str(), it.variant.as_str()))
}
