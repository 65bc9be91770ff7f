//! `knhk key`: the public keys that verify this region's receipts.

use clap::Subcommand;
use reqwest::Method;

use super::client::Client;
use super::{Failure, OutputArgs, ServerArgs, output};
use crate::api::KeySet;

#[derive(Debug, Subcommand)]
pub(crate) enum KeyVerb {
    /// Print the public key in PEM, for `knhk receipt verify --key`.
    Show {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List every key that this region has used.
    List {
        #[command(flatten)]
        server: ServerArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

pub(crate) async fn run(verb: KeyVerb) -> Result<(), Failure> {
    match verb {
        KeyVerb::Show { server, output } => {
            let keys = fetch(&server).await?;
            let newest = keys
                .keys
                .last()
                .ok_or_else(|| Failure::new("the service has no key"))?;
            output::print(output, newest, || newest.pem.trim_end().to_owned())
        }
        KeyVerb::List { server, output } => {
            let keys = fetch(&server).await?;
            output::print(output, &keys, || {
                let rows = keys.keys.iter().map(|key| {
                    [
                        &key.version,
                        &key.algorithm,
                        &key.provider,
                        &key.valid_from,
                        &key.id,
                    ]
                    .map(Clone::clone)
                });
                output::table(
                    [
                        "VERSION",
                        "ALGORITHM",
                        "PROVIDER",
                        "VALID FROM",
                        "ID (SHA-256 OF SPKI)",
                    ],
                    rows,
                )
            })
        }
    }
}

async fn fetch(server: &ServerArgs) -> Result<KeySet, Failure> {
    let client = Client::new(server)?;
    client.json(client.request(Method::GET, "/v1/keys")).await
}
