//! `SPIFFE=1`: everyone has an identity from a real SPIRE, and certificates that live for half a minute.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::{DemoError, HOST, ROLLOUT, Scene, Timeline, check};
use crate::cli::Credentials;
use crate::envoy::Certificate;
use crate::service::Identities;
use crate::spiffe::{Cast, HOUR, PROXY, SERVICE};
use crate::{Error, artifacts, wait};

/// SPIRE dates certificates back by 10 s and renews at half of a life: the first time some 10 s after the issue.
const TTL: Duration = Duration::from_secs(30);
/// How long a rotation is waited for.
const ROTATES_WITHIN: Duration = Duration::from_secs(60);
/// The operator's path.
const OPERATOR: &str = "/ops/demo";

/// How the parties of the demo are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Over loopback, without TLS.
    Loopback,
    /// Mutual TLS with identities of SPIRE.
    MutualTls,
}

/// What `SPIFFE` says.
impl FromStr for Transport {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" | "0" => Ok(Self::Loopback),
            "1" => Ok(Self::MutualTls),
            _ => Err(format!("`{text}` is neither 0 nor 1")),
        }
    }
}

/// SPIRE, and the serial numbers that were seen first.
#[derive(Debug)]
pub(super) struct Secured {
    cast: Cast,
    /// The operator's program: a copy of `knhk` with a registration entry of its own.
    operator: PathBuf,
    service: String,
    proxy: BTreeSet<String>,
    _directory: tempfile::TempDir,
}

/// What the demo reads of `knhk identity show`.
#[derive(Debug, Deserialize)]
struct Shown {
    svid: Option<Svid>,
    rotations: u64,
}

#[derive(Debug, Deserialize)]
struct Svid {
    spiffe_id: String,
    serial: String,
}

impl Secured {
    /// Starts SPIRE, with entries for the service, Envoy and an operator.
    pub(super) async fn start() -> Result<Self, DemoError> {
        let cast = Cast::start(TTL).await?;
        let directory = tempfile::tempdir().map_err(Error::io("a temporary directory"))?;
        let operator = directory.path().join("knhk");
        std::fs::copy(artifacts::knhk()?, &operator).map_err(Error::io("a copy of knhk"))?;
        cast.enroll(OPERATOR, &operator, HOUR)?;
        Ok(Self {
            cast,
            operator,
            service: String::new(),
            proxy: BTreeSet::new(),
            _directory: directory,
        })
    }

    /// What the service is to know.
    pub(super) fn identities(&self) -> Identities {
        let spire = &self.cast.spire;
        let operator = spire.id(OPERATOR);
        Identities {
            workload_api: spire.endpoint(),
            allow: json!({
                "filters": [{ "id": spire.id(PROXY), "hosts": [HOST] }],
                "deployers": [operator],
                "key_admins": [operator],
                "auditors": [operator],
            }),
            operator: Credentials::WorkloadApi {
                program: self.operator.clone(),
                address: spire.endpoint(),
            },
        }
    }
}

/// Says who everyone is.
pub(super) async fn introduce(
    scene: &mut Scene,
    timeline: &mut Timeline<impl Write>,
) -> Result<(), DemoError> {
    let Some(mut secured) = scene.secured.take() else {
        return Ok(());
    };
    let (svid, _) = service_svid(scene).await?;
    let proxy = scene.envoy.certificates().await?;
    let spire = &secured.cast.spire;
    check(svid.spiffe_id == spire.id(SERVICE), || {
        format!("the service is {}", svid.spiffe_id)
    })?;
    let id = spire.id(PROXY);
    check(
        !proxy.is_empty() && proxy.iter().all(|each| each.spiffe_id == id),
        || format!("Envoy has {proxy:?}"),
    )?;
    timeline.event("SPIRE gives everyone an identity; every connection of the service is mutual TLS 1.3")?;
    timeline.detail(&format!("the service  {}", svid.spiffe_id))?;
    timeline.detail(&format!("Envoy, by SDS {id}"))?;
    timeline.detail(&format!("the operator {}", spire.id(OPERATOR)))?;
    secured.service = svid.serial;
    secured.proxy = serials(proxy);
    scene.secured = Some(secured);
    Ok(())
}

/// Waits until the certificates of the service and of Envoy are others than at the start, and says who acted.
pub(super) async fn rotated(scene: &Scene, timeline: &mut Timeline<impl Write>) -> Result<(), DemoError> {
    let Some(secured) = &scene.secured else {
        return Ok(());
    };
    timeline.chapter("Meanwhile every certificate was renewed")?;
    let (service, proxy) = wait::until("both certificates to be renewed", ROTATES_WITHIN, || async {
        let service = service_svid(scene).await.map_err(|error| error.to_string())?;
        let proxy = scene
            .envoy
            .certificates()
            .await
            .map_err(|error| error.to_string())?;
        let proxy = serials(proxy);
        if service.0.serial != secured.service && !proxy.is_empty() && proxy.is_disjoint(&secured.proxy) {
            Ok((service, proxy))
        } else {
            Err(format!("{} and {proxy:?}", service.0.serial))
        }
    })
    .await?;
    let (svid, rotations) = service;
    timeline.command("knhk identity show")?;
    timeline.detail(&format!(
        "{}: certificate {} instead of {}, {rotations} rotations",
        svid.spiffe_id,
        short(&svid.serial),
        short(&secured.service)
    ))?;
    let proxy: Vec<&str> = proxy.iter().map(|serial| short(serial)).collect();
    timeline.detail(&format!(
        "{}: certificate {}; a connection that is open goes on",
        secured.cast.spire.id(PROXY),
        proxy.join(", ")
    ))?;
    let operator = secured.cast.spire.id(OPERATOR);
    let history = scene.rollouts.history(ROLLOUT).await?;
    let applied = history.iter().any(|entry| entry.who == operator);
    check(applied, || {
        format!("the history does not name {operator}: {history:?}")
    })?;
    timeline.event(&format!("the rollout's history says who applied it: {operator}"))
}

fn serials(certificates: Vec<Certificate>) -> BTreeSet<String> {
    certificates.into_iter().map(|each| each.serial).collect()
}

async fn service_svid(scene: &Scene) -> Result<(Svid, u64), DemoError> {
    let shown = scene.cli.json(&["identity", "show"]).await?;
    let shown: Shown = serde_json::from_value(shown).map_err(|error| DemoError::Untrue(error.to_string()))?;
    let svid = shown
        .svid
        .ok_or_else(|| DemoError::Untrue("the service has no SVID".to_owned()))?;
    Ok((svid, shown.rotations))
}

/// The beginning of a serial number.
fn short(serial: &str) -> &str {
    serial.get(..8).unwrap_or(serial)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_is_asked_for_by_1() {
        assert_eq!("".parse(), Ok(Transport::Loopback));
        assert_eq!("0".parse(), Ok(Transport::Loopback));
        assert_eq!("1".parse(), Ok(Transport::MutualTls));
        assert!("yes".parse::<Transport>().is_err_and(|why| why.contains("yes")));
    }
}
