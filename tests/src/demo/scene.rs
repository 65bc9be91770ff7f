//! Who plays: two versions of a shop, a real Envoy, the service, and users.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use knhk_decision::bucket;
use knhk_decision::spec::Weight;
use tokio::time::Instant;

use super::back::Back;
use super::mutual_tls::{Secured, Transport};
use super::regions::{Peers, Regions};
use super::timeline::{count, ms};
use super::{DemoError, HOST, ROLLOUT, Timeline, check, mutual_tls, regions};
use crate::cli::Cli;
use crate::envoy::{Envoy, EnvoyConfig, EnvoyOptions};
use crate::load::{Load, LoadOptions, Sticky, Tally, five_sigma, share};
use crate::mesh::{FILTER, SPIFFE};
use crate::peer::{AnyPeer, Provider};
use crate::ports::Port;
use crate::rollout::{Rollouts, Status};
use crate::service::{Addresses, Service};
use crate::upstream::Upstream;
use crate::wait;

/// Requests a second.
const RATE: u32 = 2_000;
/// The same of testers, while there is something to test.
const TESTERS_RATE: u32 = 200;
/// The header that testers have.
const TESTER: &str = "x-tester";
/// How many users there are. Each comes back several times, so that a change of version would show.
const USERS: u32 = 20_000;
/// The share of requests that fails in any version: the world is not perfect, and a canary is not blamed for it.
pub(super) const ALWAYS_FAILS: f64 = 0.001;

const STABLE_PORT: u16 = 10101;
const CANARY_PORT: u16 = 10102;

/// Everything that runs.
#[derive(Debug)]
pub struct Scene {
    pub(super) stable: Upstream,
    pub(super) canary: Upstream,
    pub(super) service: Service,
    pub(super) cli: Cli,
    pub(super) rollouts: Rollouts,
    pub(super) load: Load,
    /// Before the service in no order that matters: it outlives it, so that the last receipts are signed.
    keys: AnyPeer,
    pub(super) envoy: Envoy,
    config: &'static str,
    /// With mutual TLS.
    pub(super) secured: Option<Secured>,
    /// With other regions.
    pub(super) peers: Option<Peers>,
    began: Instant,
    total: Total,
}

/// All traffic so far.
#[derive(Debug, Default)]
struct Total {
    answered: u64,
    failed: u64,
    lost: u64,
}

/// What remains of the traffic when everything has ended.
#[derive(Debug)]
pub struct Traffic {
    total: Total,
    sticky: Sticky,
    lasted: Duration,
    /// It runs no more; its directory is still there.
    service: Service,
}

impl Scene {
    /// Starts everyone on the ports of the contract.
    pub async fn set(provider: Provider, transport: Transport, regions: Regions) -> Result<Self, DemoError> {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let stable = Upstream::start_at(local(STABLE_PORT), "v1").await?;
        let canary = Upstream::start_at(local(CANARY_PORT), "v2").await?;
        let keys = provider.start().await?;
        stable.fail(ALWAYS_FAILS);
        canary.fail(ALWAYS_FAILS);
        let addresses = Addresses {
            grpc: local(9191),
            http: local(9192),
            probe: local(9193),
        };
        let mut service = Service::stopped_at(addresses)?;
        service.sign_with(keys.key_service());
        let secured = match transport {
            Transport::Loopback => None,
            Transport::MutualTls => Some(Secured::start().await?),
        };
        if let Some(secured) = &secured {
            service.identify_by(secured.identities());
        }
        let peers = match regions {
            Regions::One => {
                service.up().await?;
                None
            }
            Regions::Three => Some(Peers::start_with(&mut service).await?),
        };
        let config = match transport {
            Transport::Loopback => FILTER,
            Transport::MutualTls => SPIFFE,
        };
        let mut proxy = EnvoyConfig::load(config)?;
        if let Some(agent) = service.agent() {
            proxy.set_agent(agent)?;
        }
        let envoy = Envoy::start_as_configured(proxy, EnvoyOptions::default()).await?;
        let load = Load::start(LoadOptions {
            rate: RATE,
            users: USERS,
            ..LoadOptions::to(envoy.address(), HOST)
        });
        let cli = service.cli()?;
        let rollouts = service.rollouts();
        Ok(Self {
            stable,
            canary,
            service,
            cli,
            rollouts,
            load,
            keys,
            envoy,
            config,
            secured,
            peers,
            began: Instant::now(),
            total: Total::default(),
        })
    }

    /// Says who plays.
    pub async fn introduce(&mut self, timeline: &mut Timeline<impl Write>) -> Result<(), DemoError> {
        let version = self.envoy.admin_get("/server_info").await?;
        let version = serde_json::from_str::<serde_json::Value>(&version)
            .ok()
            .and_then(|info| Some(info["version"].as_str()?.split('/').nth(1)?.to_owned()))
            .unwrap_or_default();
        timeline.event(&format!(
            "Envoy {version} on :10000 with knhk_filter.wasm ({}, 2 workers)",
            self.config
        ))?;
        timeline.event("knhk serve on :9191 (filters) and :9192 (operators)")?;
        timeline.event(&format!("its receipts are signed by {}", self.keys.describe()))?;
        mutual_tls::introduce(self, timeline).await?;
        regions::introduce(self, timeline)?;
        timeline.event("the shop: v1 is stable, v2 waits as the canary; each fails 0.1 % of its requests")?;
        wait::until("traffic", wait::SOON, || {
            let answered = self.load.peek(Tally::answered);
            async move {
                if answered >= u64::from(RATE) / 2 {
                    Ok(())
                } else {
                    Err(format!("{answered} answers"))
                }
            }
        })
        .await?;
        let before = self.take();
        check(before.version("v1").requests == before.answered(), || {
            "before any rollout everything goes to stable, but it did not".to_owned()
        })?;
        timeline.event(&format!(
            "{} requests/s of {} users through Envoy, all to v1, p99 {}",
            count(u64::from(RATE)),
            count(u64::from(USERS)),
            ms(before.latency(0.99))
        ))
    }

    /// What was answered since the last call.
    pub(super) fn take(&mut self) -> Tally {
        let tally = self.load.take();
        self.total.add(&tally);
        tally
    }

    /// Users who come with the header that the good version's staging stage picks.
    pub(super) fn testers(&self) -> Load {
        Load::start(LoadOptions {
            rate: TESTERS_RATE,
            connections: 8,
            users: USERS,
            ..LoadOptions::to(self.envoy.address(), HOST).with(TESTER, "yes")
        })
    }

    /// Adds traffic beside that of [`Self::load`] to what it comes to.
    pub(super) fn count(&mut self, tally: &Tally) {
        self.total.add(tally);
    }

    /// Where the rollout stands.
    pub(super) async fn status(&self) -> Result<Status, DemoError> {
        Ok(self.rollouts.status(ROLLOUT).await?)
    }

    /// The share of traffic that must go to the canary at this weight: the share of these very users whose bucket is below it.
    pub(super) fn expected(weight: f64) -> Result<f64, DemoError> {
        let weight = Weight::from_percent(weight).map_err(|error| DemoError::Untrue(error.to_string()))?;
        let canaries = (0..USERS)
            .filter(|user| bucket(ROLLOUT, format!("user-{user}").as_bytes()) < weight.ppm())
            .count();
        Ok(share(canaries as u64, u64::from(USERS)))
    }

    /// Fails unless the canary's share of the traffic under this snapshot is what chance allows at its weight.
    pub(super) fn check_share(tally: &Tally, status: &Status) -> Result<f64, DemoError> {
        let all = tally.under(&status.policy).requests;
        let seen = share(tally.version_under(&status.policy, &status.version).requests, all);
        let expected = Self::expected(status.weight)?;
        check((seen - expected).abs() <= five_sigma(expected, all), || {
            format!(
                "at weight {} % the canary served {seen:.4} of {all} requests, expected {expected:.4} give or take {:.4}",
                status.weight,
                five_sigma(expected, all)
            )
        })?;
        Ok(seen)
    }

    /// Ends everyone, and gives what the users saw.
    pub async fn end(mut self) -> Result<Traffic, DemoError> {
        let sticky = self.load.sticky();
        let last = self.load.finish().await;
        self.total.add(&last);
        let lasted = self.began.elapsed();
        drop(self.envoy);
        let status = self.service.terminate(wait::SOON).await?;
        check(status.success(), || {
            format!("knhk serve ended with {status} on SIGTERM")
        })?;
        check(self.total.lost == 0, || {
            format!(
                "{} requests got no answer, the first: {}",
                self.total.lost,
                last.first_error.unwrap_or_default()
            )
        })?;
        Ok(Traffic {
            total: self.total,
            sticky,
            lasted,
            service: self.service,
        })
    }
}

impl Total {
    fn add(&mut self, tally: &Tally) {
        self.answered += tally.answered();
        self.failed += tally.failed();
        self.lost += tally.transport_errors;
    }
}

impl Traffic {
    /// The data directory that the service left.
    pub(super) fn data(&self) -> PathBuf {
        self.service.data()
    }

    /// Says what it came to.
    pub(super) fn sum_up(
        &self,
        back: &Back,
        late: &Back,
        timeline: &mut Timeline<impl Write>,
    ) -> Result<(), DemoError> {
        let Total { answered, failed, .. } = self.total;
        let flips = self.sticky.flips();
        check(flips == 0, || {
            format!("{flips} requests got another version than their user had under the same snapshot")
        })?;
        let lasted_ms = u64::try_from(self.lasted.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = answered.saturating_mul(1_000) / lasted_ms;
        timeline.event(&format!(
            "{} requests ({}/s), every one answered; {} failed, {} of those because of v3, {} because of v4",
            count(answered),
            count(rate),
            count(failed),
            count(back.served.failed),
            count(late.served.failed)
        ))?;
        timeline.event("no user ever changed version except by a step of a rollout")?;
        timeline.event(&format!(
            "v3 was gone {:.1} s after its first failed request, v4 out of production {:.1} s after it began to fail",
            back.after.as_secs_f64(),
            late.after.as_secs_f64()
        ))
    }
}

/// Fails with the first port of the contract that somebody listens on.
pub(super) fn check_ports() -> Result<(), DemoError> {
    for (role, port) in [
        ("knhk's gRPC", 9191),
        ("knhk's HTTP", 9192),
        ("knhk's probe", 9193),
        ("Envoy", 10000),
        ("Envoy's admin", 9901),
        ("the stable upstream", STABLE_PORT),
        ("the canary upstream", CANARY_PORT),
    ] {
        Port::take(port).map_err(|_| DemoError::PortTaken { role, port })?;
    }
    Ok(())
}
