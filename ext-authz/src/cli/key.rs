//! `knhk key`: the keys that verify this region's receipts, and their rotation.

use std::time::Duration;

use clap::Subcommand;
use reqwest::Method;
use serde::Serialize;

use super::client::Client;
use super::{Failure, OutputArgs, ServerArgs, output};
use crate::api::{KeyInfo, KeySet, RotationInfo};

/// A rotation is several calls of the KMS with their retries, and two flushes.
const ROTATES_WITHIN: Duration = Duration::from_secs(120);

/// [`KeyInfo::state`] of the key that signs.
const ACTIVE: &str = "active";

#[derive(Debug, Subcommand)]
pub(crate) enum KeyVerb {
    /// Print the public key that signs now in PEM, for `knhk receipt verify --key`.
    Show {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List every key that this region has used, with the checkpoints that each signed.
    List {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Make a new version of the key; it signs from the next checkpoint on. Old receipts stay valid.
    Rotate {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(crate) async fn run(verb: KeyVerb) -> Result<(), Failure> {
    match verb {
        KeyVerb::Show { server, output } => show(&fetch(&server).await?, output),
        KeyVerb::List { server, output } => {
            let set = fetch(&server).await?;
            output::print(output, &set, || list(&set))
        }
        KeyVerb::Rotate { server, output } => {
            let client = Client::new(&server).await?;
            let request = client
                .request(Method::POST, "/v1/keys/rotate")
                .timeout(ROTATES_WITHIN);
            let key: KeyInfo = client.json(request).await?;
            output::print(output, &key, || {
                format!(
                    "{} of {} signs from now on: {}",
                    key.version, key.provider, key.id
                )
            })
        }
    }
}

/// The key for a file on standard output; what is amiss for a person beside it.
fn show(set: &KeySet, output: OutputArgs) -> Result<(), Failure> {
    let active = set
        .keys
        .iter()
        .find(|key| key.state == ACTIVE)
        .ok_or_else(|| Failure::new("the service has no key"))?;
    if let Some(trouble) = &set.rotation.trouble {
        output::warn(trouble);
    }
    let shown = Shown {
        key: active,
        rotation: &set.rotation,
    };
    output::print(output, &shown, || active.pem.trim_end().to_owned())
}

/// The JSON of `key show`.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    key: &'a KeyInfo,
    rotation: &'a RotationInfo,
}

fn list(set: &KeySet) -> String {
    let size = |size: Option<u64>| size.map_or_else(|| "-".to_owned(), |size| size.to_string());
    let rows = set.keys.iter().map(|key| {
        [
            key.version.clone(),
            key.provider.clone(),
            key.valid_from.clone(),
            size(key.first_size),
            if key.state == ACTIVE {
                "now".to_owned()
            } else {
                size(key.last_size)
            },
            key.id.clone(),
        ]
    });
    let table = output::table(
        [
            "VERSION",
            "PROVIDER",
            "VALID FROM",
            "FROM SIZE",
            "TO SIZE",
            "ID (SHA-256 OF SPKI)",
        ],
        rows,
    );
    let rotation = match (&set.rotation.next, &set.rotation.trouble) {
        (_, Some(trouble)) => trouble.clone(),
        (Some(next), None) => format!("rotated every {}, next at {next}", set.rotation.every),
        (None, None) => "rotated by `knhk key rotate` only".to_owned(),
    };
    format!("{table}\n{rotation}")
}

async fn fetch(server: &ServerArgs) -> Result<KeySet, Failure> {
    let client = Client::new(server).await?;
    client.json(client.request(Method::GET, "/v1/keys")).await
}
