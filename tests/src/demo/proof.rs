//! Receipts: taken while the service runs, verified when it no longer does.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{DemoError, ROLLOUT, Scene, Timeline, check};
use crate::cli::Cli;
use crate::{Error, wait};

/// A receipt in a file.
#[derive(Debug)]
pub(super) struct Kept {
    id: String,
    kind: String,
    summary: String,
    file: PathBuf,
    /// Holds the file's directory.
    _directory: std::sync::Arc<tempfile::TempDir>,
}

/// The public keys in a file, and no more of the service than that.
#[derive(Debug)]
pub(super) struct Key {
    file: PathBuf,
    /// Those of the regions that acknowledge.
    peers: Vec<PathBuf>,
    _directory: tempfile::TempDir,
}

#[derive(Debug, Deserialize)]
struct List {
    receipts: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    id: String,
    summary: String,
}

/// Fetches the newest decision and the newest action of the rollout's present generation.
pub(super) async fn keep(scene: &Scene, generation: u64) -> Result<Vec<Kept>, DemoError> {
    let now = scene.status().await?.generation;
    check(now == generation, || {
        format!("generation {now} runs instead of {generation}")
    })?;
    let directory = std::sync::Arc::new(directory()?);
    let mut kept = Vec::new();
    for kind in ["action", "decision"] {
        let Row { id, summary } = newest(scene, kind).await?;
        let file = directory.path().join(format!("{kind}.receipt"));
        let path = file.to_string_lossy();
        scene.cli.json(&["receipt", "get", &id, "--out", &*path]).await?;
        kept.push(Kept {
            id,
            kind: kind.to_owned(),
            summary,
            file,
            _directory: directory.clone(),
        });
    }
    Ok(kept)
}

/// Filters hand decisions over in batches, so the newest may be on its way.
async fn newest(scene: &Scene, kind: &str) -> Result<Row, DemoError> {
    let found = wait::until("a receipt", wait::SOON, || async {
        let list = scene
            .cli
            .json(&[
                "receipt",
                "list",
                "--rollout",
                ROLLOUT,
                "--kind",
                kind,
                "--limit",
                "1",
            ])
            .await;
        let list: List = serde_json::from_value(list.map_err(|error| error.to_string())?)
            .map_err(|error| error.to_string())?;
        list.receipts
            .into_iter()
            .next()
            .ok_or_else(|| format!("no receipt of a {kind}"))
    })
    .await?;
    Ok(found)
}

/// Decides each recorded decision again.
pub(super) async fn replay(
    scene: &Scene,
    kept: &[Kept],
    timeline: &mut Timeline<impl Write>,
) -> Result<(), DemoError> {
    for receipt in kept.iter().filter(|receipt| receipt.kind == "decision") {
        let file = receipt.file.to_string_lossy();
        let answer = scene.cli.json(&["receipt", "replay", &*file]).await?;
        check(answer["same"] == true, || {
            format!("{}: replayed to another verdict", receipt.id)
        })?;
        timeline.event(&format!(
            "$ knhk receipt replay {}: the same verdict again, {} by policy {}",
            receipt.id,
            answer["variant"].as_str().unwrap_or_default(),
            answer["policy"].as_str().unwrap_or_default()
        ))?;
    }
    Ok(())
}

/// Lets a new version of the key take over, while everything runs.
pub(super) async fn rotate(scene: &Scene, timeline: &mut Timeline<impl Write>) -> Result<(), DemoError> {
    let before = keys(scene).await?;
    timeline.command("knhk key rotate")?;
    let new: Signs = parsed(scene.cli.json(&["key", "rotate"]).await?)?;
    let after = wait::until("a checkpoint by the new key", wait::SOON, || async {
        let keys = keys(scene).await.map_err(|error| error.to_string())?;
        match keys.last().and_then(|key| key.first_size) {
            Some(_) => Ok(keys),
            None => Err(format!("{} has signed nothing yet", new.version)),
        }
    })
    .await?;
    check(after.len() == before.len() + 1, || {
        format!(
            "{} keys before the rotation, {} after it",
            before.len(),
            after.len()
        )
    })?;
    for key in &after {
        let range = match (key.first_size, key.last_size) {
            (Some(first), Some(last)) => format!("signed the log from {first} to {last} entries"),
            (Some(first), None) => format!("signs it from {first} entries on"),
            (None, _) => "has signed nothing".to_owned(),
        };
        timeline.detail(&format!("{} {} {range}", key.provider, short(&key.version)))?;
    }
    Ok(())
}

/// One of the log's keys.
#[derive(Debug, Deserialize)]
struct Signs {
    provider: String,
    version: String,
    first_size: Option<u64>,
    last_size: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Keys {
    keys: Vec<Signs>,
}

async fn keys(scene: &Scene) -> Result<Vec<Signs>, DemoError> {
    let set: Keys = parsed(scene.cli.json(&["key", "list"]).await?)?;
    Ok(set.keys)
}

fn parsed<T: serde::de::DeserializeOwned>(json: serde_json::Value) -> Result<T, DemoError> {
    serde_json::from_value(json).map_err(|error| DemoError::Untrue(error.to_string()))
}

/// The end of a name that says enough: ARNs and hexadecimal versions are long.
fn short(version: &str) -> &str {
    version
        .char_indices()
        .rev()
        .nth(11)
        .map_or(version, |(at, _)| &version[at..])
}

/// The keys that an auditor would have.
pub(super) async fn key(scene: &Scene) -> Result<Key, DemoError> {
    let keys = scene.cli.json(&["key", "list"]).await?;
    let directory = directory()?;
    let file = directory.path().join("keys.json");
    std::fs::write(&file, keys.to_string()).map_err(Error::io("keys.json"))?;
    let peers = super::regions::keys(scene, directory.path()).await?;
    Ok(Key {
        file,
        peers,
        _directory: directory,
    })
}

/// Verifies each with the key alone, and one that was tampered with, which must fail.
pub(super) async fn verify(
    kept: Vec<Kept>,
    key: &Key,
    timeline: &mut Timeline<impl Write>,
) -> Result<(), DemoError> {
    let cli = Cli::offline()?;
    for receipt in &kept {
        let mut arguments = vec!["receipt".as_ref(), "verify".as_ref(), receipt.file.as_os_str()];
        for file in std::iter::once(&key.file).chain(&key.peers) {
            arguments.extend(["--key".as_ref(), file.as_os_str()]);
        }
        let answer = cli.json(&arguments).await?;
        check(
            answer["verified"] == true && answer["id"] == receipt.id.as_str(),
            || format!("{} is not verified", receipt.id),
        )?;
        timeline.event(&format!("$ knhk receipt verify {}: verified", receipt.id))?;
        timeline.detail(&receipt.summary)?;
        for held in held_by(&answer) {
            check(!held.contains("not checked"), || {
                format!("{}: {held}", receipt.id)
            })?;
            timeline.detail(&held)?;
        }
    }
    let Some(receipt) = kept.last() else { return Ok(()) };
    let forged = forge(&receipt.file)?;
    let output = cli
        .run(&[
            "receipt".as_ref(),
            "verify".as_ref(),
            forged.as_os_str(),
            "--key".as_ref(),
            key.file.as_os_str(),
        ])
        .await?;
    check(output.code == 1, || {
        format!("a forged receipt was not refused: {output:?}")
    })?;
    timeline.event(&format!(
        "the last one with one bit changed: refused, exit {}",
        output.code
    ))
}

/// The checks of acknowledgements, each in one line.
fn held_by(verified: &serde_json::Value) -> Vec<String> {
    let checks = verified["checks"].as_array().into_iter().flatten();
    let held = checks.filter(|check| check["name"] == "acknowledgement");
    held.filter_map(|check| check["detail"].as_str().map(str::to_owned))
        .collect()
}

/// Audits the whole log that the service left: every entry, tile and checkpoint.
pub(super) async fn audit(
    data: &Path,
    key: &Key,
    timeline: &mut Timeline<impl Write>,
) -> Result<(), DemoError> {
    let report = Cli::offline()?
        .json(&[
            "receipt".as_ref(),
            "audit".as_ref(),
            data.as_os_str(),
            "--key".as_ref(),
            key.file.as_os_str(),
        ])
        .await?;
    let many = |of: &str| report[of].as_u64().unwrap_or_default();
    let keys = report["keys"].as_array().map_or(0, Vec::len);
    check(keys == 2 && report["findings"] == serde_json::json!([]), || {
        format!("the log's audit is not clean: {report}")
    })?;
    timeline.event(&format!(
        "$ knhk receipt audit: {} entries, {} tiles, {} checkpoints by {keys} keys, nothing wrong",
        many("entries"),
        many("tiles"),
        many("checkpoints")
    ))
}

/// A copy with one bit changed in its middle.
fn forge(file: &Path) -> Result<PathBuf, DemoError> {
    let mut bytes = std::fs::read(file).map_err(Error::io("a receipt"))?;
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 1;
    }
    let forged = file.with_extension("forged");
    std::fs::write(&forged, bytes).map_err(Error::io("a forged receipt"))?;
    Ok(forged)
}

fn directory() -> Result<tempfile::TempDir, Error> {
    tempfile::Builder::new()
        .prefix("knhk-demo-")
        .tempdir()
        .map_err(Error::io("a temporary directory"))
}
