//! What the service says about a rollout, as far as the harness reads it.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;

use crate::{Error, wait};

/// Answer of `GET /v1/rollouts/{name}`, and the JSON of `knhk rollout status`.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// `Progressing`, `Paused`, `Succeeded` or `Failed`.
    pub phase: String,
    /// Why, where the phase has a reason.
    pub reason: Option<String>,
    /// Which generation.
    pub generation: u64,
    /// The version that serves everyone else.
    pub stable: String,
    /// The version that is rolled out.
    pub version: String,
    /// Percent of the keys that the new version serves.
    pub weight: f64,
    /// How far the newest snapshot has come.
    pub workers: Workers,
    /// The newest snapshot, `EPOCH.N`.
    pub policy: String,
    /// What it waits for.
    pub explanation: serde_json::Value,
}

/// Workers of proxies.
#[derive(Debug, Clone, Deserialize)]
pub struct Workers {
    /// Busy ones that run the newest snapshot.
    pub newest: u64,
    /// Busy ones.
    pub active: u64,
    /// Open streams.
    pub connected: u64,
    /// Who refused the newest snapshot.
    #[serde(default)]
    pub refusals: Vec<Refusal>,
}

/// A worker that refused a snapshot.
#[derive(Debug, Clone, Deserialize)]
pub struct Refusal {
    /// The proxy.
    pub node: String,
    /// The snapshot.
    pub policy: String,
    /// A label.
    pub reason: String,
    /// One line.
    pub detail: String,
}

/// Answer of `GET /v1/rollouts/{name}/history`.
#[derive(Debug, Clone, Deserialize)]
struct History {
    history: Vec<HistoryEntry>,
    next_after: Option<u64>,
}

/// One transition.
#[derive(Debug, Clone, Deserialize)]
pub struct HistoryEntry {
    /// Counted from 1 without gaps.
    pub seq: u64,
    /// Which generation, after it.
    pub generation: u64,
    /// Who did it.
    pub who: String,
    /// What was done, such as `rolled_back`.
    pub what: String,
    /// Why, in one line.
    pub why: String,
}

impl Status {
    /// Whether every busy worker runs the newest snapshot.
    pub fn everywhere(&self) -> bool {
        self.workers.active > 0 && self.workers.newest == self.workers.active
    }

    /// Which stage it is at.
    pub fn stage(&self) -> &str {
        self.explanation["stage"].as_str().unwrap_or_default()
    }

    /// In staging: which requests go to the version, in words.
    pub fn picked(&self) -> Option<&str> {
        self.explanation["picked"].as_str()
    }

    /// Phase and reason, for messages.
    pub fn shown(&self) -> String {
        let reason = self
            .reason
            .as_ref()
            .map(|reason| format!(" ({reason})"))
            .unwrap_or_default();
        format!(
            "generation {}, {}{reason} at {} %",
            self.generation, self.phase, self.weight
        )
    }
}

/// Reads rollouts over the service's HTTP address or its socket.
#[derive(Debug, Clone)]
pub struct Rollouts {
    base: String,
    client: reqwest::Client,
}

impl Rollouts {
    /// Of the service that listens there.
    pub fn of(http: SocketAddr) -> Self {
        Self {
            base: format!("http://{http}"),
            client: reqwest::Client::new(),
        }
    }

    /// Of the service whose socket this client is bound to.
    pub fn through(socket: reqwest::Client) -> Self {
        Self {
            base: "http://knhk".to_owned(),
            client: socket,
        }
    }

    /// Where a rollout stands.
    pub async fn status(&self, name: &str) -> Result<Status, Error> {
        self.get(&format!("/v1/rollouts/{name}")).await
    }

    /// What happened to it, oldest first.
    pub async fn history(&self, name: &str) -> Result<Vec<HistoryEntry>, Error> {
        let mut whole = Vec::new();
        let mut after = Some(0);
        while let Some(from) = after {
            let page: History = self
                .get(&format!("/v1/rollouts/{name}/history?after={from}"))
                .await?;
            whole.extend(page.history);
            after = page.next_after;
        }
        Ok(whole)
    }

    /// The snapshot's document.
    pub async fn policy(&self, id: &str) -> Result<Vec<u8>, Error> {
        self.bytes(&format!("/v1/policies/{id}")).await
    }

    /// Waits until the rollout is as `wanted` says; `what` is for the message.
    pub async fn until(
        &self,
        name: &str,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<Status, Error> {
        let wanted = &wanted;
        wait::until(what, deadline, || async move {
            let status = self.status(name).await.map_err(|error| error.to_string())?;
            if wanted(&status) {
                Ok(status)
            } else {
                Err(format!("{status:?}"))
            }
        })
        .await
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let bytes = self.bytes(path).await?;
        serde_json::from_slice(&bytes).map_err(|error| Error::Contract {
            what: format!("the answer of {path}"),
            reason: error.to_string(),
        })
    }

    async fn bytes(&self, path: &str) -> Result<Vec<u8>, Error> {
        let url = format!("{}{path}", self.base);
        let http = |error: reqwest::Error| Error::Http {
            what: url.clone(),
            reason: error.to_string(),
        };
        let answer = self.client.get(&url).send().await.map_err(http)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(http)?;
        if status.is_success() {
            return Ok(body.into());
        }
        Err(Error::Http {
            what: url,
            reason: format!("{status}: {}", String::from_utf8_lossy(&body)),
        })
    }
}
