//! Vault's own Transit engine, behind a proxy that makes faults.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::NotRun;
use super::fault::{Answer, Asked, Fault, Faults, Proxy};
use crate::ports::Port;
use crate::process::{Launch, Process};
use crate::{Error, artifacts, wait};

/// The key that a new peer has: ECDSA P-256.
pub const KEY: &str = "knhk-receipts";

/// Where Transit is.
pub const MOUNT: &str = "transit";

/// The token that may do everything.
const OPERATOR: &str = "operators-token-0a1b2c";

/// The token that has the policy of docs/kms.md and no more.
const TOKEN: &str = "knhks-token-3d4e5f";

const PEER: &str = "Vault's Transit engine";

/// A Vault with Transit, one key, and a token that may do with it what docs/kms.md says.
#[derive(Debug)]
pub struct Vault {
    proxy: Proxy,
    client: reqwest::Client,
    port: Port,
    /// The authority that vouches for it, where it speaks TLS.
    authority: Option<std::path::PathBuf>,
    directory: tempfile::TempDir,
    _process: Process,
}

impl Vault {
    /// Builds it if need be and starts it.
    pub async fn start() -> Result<Self, NotRun> {
        Self::start_with(Wire::Plain).await
    }

    /// The same, speaking TLS. Its proxy does not: use [`Vault::direct`].
    pub async fn start_with_tls() -> Result<Self, NotRun> {
        Self::start_with(Wire::Tls).await
    }

    async fn start_with(wire: Wire) -> Result<Self, NotRun> {
        let binary = built()?;
        let vault = Self::launch(&binary, wire).await.map_err(NotRun::because(PEER))?;
        vault.prepare().await.map_err(NotRun::because(PEER))?;
        Ok(vault)
    }

    async fn launch(binary: &str, wire: Wire) -> Result<Self, Error> {
        let directory = tempfile::tempdir().map_err(Error::io("a temporary directory"))?;
        let port = Port::reserve()?;
        let authority = matches!(wire, Wire::Tls).then(|| directory.path().join("ca.pem"));
        let mut launch = Launch::new("transit", directory.path().join("log"), binary)
            .args(["-listen", &port.address().to_string()]);
        if let Some(authority) = &authority {
            launch = launch.arg_path("-tls-ca", authority);
        }
        let mut process = launch.start()?;
        let log = directory.path().join("log");
        wait::until("Transit to serve", wait::SOON, || {
            let seen = match process.check() {
                Err(error) => Ok(Err(error)),
                Ok(()) => std::fs::read_to_string(&log)
                    .map_err(|error| error.to_string())
                    .and_then(|log| {
                        if log.contains("serving on") {
                            Ok(Ok(()))
                        } else {
                            Err(log)
                        }
                    }),
            };
            async { seen }
        })
        .await??;
        let mut client = reqwest::Client::builder();
        if let Some(authority) = &authority {
            let pem = std::fs::read(authority).map_err(Error::io("the authority"))?;
            let certificate = reqwest::Certificate::from_pem(&pem).map_err(http)?;
            client = client.tls_certs_only([certificate]);
        }
        Ok(Self {
            proxy: Proxy::start(port.address(), Faults::new(signs))?,
            client: client.build().map_err(http)?,
            port,
            authority,
            directory,
            _process: process,
        })
    }

    /// What an operator does once: the mount, the key, the policy.
    async fn prepare(&self) -> Result<(), Error> {
        self.arrange(&format!("tokens/{OPERATOR}"), "").await?;
        self.arrange(&format!("tokens/{TOKEN}"), &policy()?).await?;
        self.arrange(&format!("mounts/{MOUNT}"), "").await?;
        self.make_key(KEY, "ecdsa-p256").await
    }

    /// The address of the proxy before it.
    pub fn address(&self) -> String {
        format!("http://{}", self.proxy.address())
    }

    /// Its own address, past the proxy.
    pub fn direct(&self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.port.address())
    }

    /// The file with the authority that vouches for it, where it speaks TLS.
    pub fn authority(&self) -> Option<&Path> {
        self.authority.as_deref()
    }

    /// A directory for files of a test.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The token that KNHK gets.
    pub fn token(&self) -> &'static str {
        TOKEN
    }

    /// The block `kms:` of `knhk.yaml`.
    pub fn knhk_yaml(&self) -> String {
        format!(
            "kms: {{ provider: vault, address: '{}', mount: {MOUNT}, key_name: {KEY} }}\n",
            self.address()
        )
    }

    /// The environment that `knhk serve` needs.
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![("VAULT_TOKEN".to_owned(), TOKEN.to_owned())]
    }

    /// The proxy before it.
    pub fn proxy(&mut self) -> &mut Proxy {
        &mut self.proxy
    }

    /// What happens to requests.
    pub fn faults(&self) -> &Faults {
        self.proxy.faults()
    }

    /// Makes a key of this type.
    pub async fn make_key(&self, name: &str, kind: &str) -> Result<(), Error> {
        self.operate(Method::POST, &format!("keys/{name}"), &json!({ "type": kind }))
            .await
            .map(|_| ())
    }

    /// Does this as an operator with every permission: `path` is below the mount.
    pub async fn operate(&self, method: Method, path: &str, body: &Value) -> Result<Value, Error> {
        let url = format!("{}/v1/{MOUNT}/{path}", self.direct());
        let answer = self
            .client
            .request(method, url)
            .header("x-vault-token", OPERATOR)
            .json(body)
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(http)?;
        let text = answer.text().await.map_err(http)?;
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Sets a token or a mount up, by the program's own routes: `what` is `tokens/TOKEN` or `mounts/PATH`.
    pub async fn arrange(&self, what: &str, body: &str) -> Result<(), Error> {
        self.arrange_in("", what, body).await
    }

    /// The same in a namespace.
    pub async fn arrange_in(&self, namespace: &str, what: &str, body: &str) -> Result<(), Error> {
        self.client
            .put(format!("{}/test/{what}", self.direct()))
            .header("x-vault-namespace", namespace)
            .body(body.to_owned())
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(http)
            .map(|_| ())
    }

    /// Makes a token invalid.
    pub async fn revoke(&self, token: &str) -> Result<(), Error> {
        self.client
            .delete(format!("{}/test/tokens/{token}", self.direct()))
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(http)
            .map(|_| ())
    }
}

#[derive(Clone, Copy)]
enum Wire {
    Plain,
    Tls,
}

/// Whether a request asks for a signature.
pub fn signs(asked: &Asked) -> bool {
    asked.uri.path().contains("/sign/")
}

/// Whether a request rotates a key.
pub fn rotates(asked: &Asked) -> bool {
    asked.uri.path().ends_with("/rotate")
}

/// An answer of Vault's that says no.
pub fn refusal(status: StatusCode, error: &str) -> Fault {
    Fault::Answer(Answer {
        status,
        body: Bytes::from(json!({ "errors": [error] }).to_string()),
    })
}

/// The policy of docs/kms.md.
fn policy() -> Result<String, Error> {
    let page = artifacts::root().join("docs/kms.md");
    let text = std::fs::read_to_string(&page).map_err(Error::io("docs/kms.md"))?;
    text.split_once("```hcl\n")
        .and_then(|(_, rest)| rest.split_once("```"))
        .map(|(policy, _)| policy.to_owned())
        .ok_or_else(|| Error::Contract {
            what: "docs/kms.md".to_owned(),
            reason: "it has no policy in HCL".to_owned(),
        })
}

fn built() -> Result<String, NotRun> {
    let script = artifacts::root().join("tests/peers/transit.sh");
    let output = Command::new(&script)
        .output()
        .map_err(|error| NotRun::new(PEER, format!("{}: {error}", script.display())))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(NotRun::new(PEER, words.trim().replace('\n', "; ")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn http(error: reqwest::Error) -> Error {
    Error::Http {
        what: PEER.to_owned(),
        reason: error.without_url().to_string(),
    }
}
