//! What a rotation of the service's certificate costs requests: the p99 of `Check` while one takes place, and outside of
//! them in the same run, over mutual TLS with SVIDs of a real SPIRE.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use knhk_identity::Connector;
use knhk_proto::envoy::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{check, judged, us};
use crate::Error;
use crate::gate::{connect_as, connector};
use crate::load::Latencies;
use crate::service::Service;
use crate::spiffe::{Cast, HOUR, PROXY};

/// SPIRE dates certificates back by 10 s and renews at half of a life: each 5 s or so.
const TTL: Duration = Duration::from_secs(20);
/// Rotations that are measured.
const ROTATIONS: usize = 4;
/// No rotation takes longer to come.
const PATIENCE: Duration = Duration::from_secs(90);
/// Requests under way at a time, and as many connections.
const CONCURRENCY: u64 = 16;
/// Then a connection is made anew, so that there are handshakes in a rotation too.
const REQUESTS_OF_A_CONNECTION: u64 = 500;
/// How often the service is asked for its certificate's number.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What counts as during a rotation: so long before it was seen, and after.
const BEFORE: Duration = Duration::from_millis(50);
const AFTER: Duration = Duration::from_millis(450);
/// The p99 during rotations is at most so many times the p99 outside.
const TARGET: f64 = 1.2;

/// What rotations cost.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rotations {
    seen: usize,
    requests: u64,
    requests_during: u64,
    p99_us: f64,
    p99_during_us: f64,
}

/// A request: when it began, and how long it took.
type Sample = (Instant, Duration);

pub(super) async fn measure() -> Result<Rotations, Error> {
    let cast = Cast::start(TTL).await.map_err(|why| wrong(why.to_string()))?;
    let mut service = Service::stopped()?;
    service.identify_by(cast.identities());
    service.up().await?;
    let proxy = connector(&cast.spire.mint(PROXY, HOUR)?)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = JoinSet::new();
    for worker in 0..CONCURRENCY {
        let asking = ask(proxy.clone(), service.addresses().grpc, worker, Arc::clone(&stop));
        workers.spawn(asking);
    }
    let moments = rotations(&service).await;
    stop.store(true, Ordering::SeqCst);
    let mut samples = Vec::new();
    while let Some(ended) = workers.join_next().await {
        samples.extend(ended.map_err(|error| wrong(error.to_string()))??);
    }
    Ok(split(&samples, &moments?))
}

/// Asks until it is told to stop; no request may fail.
async fn ask(
    proxy: Connector,
    grpc: SocketAddr,
    worker: u64,
    stop: Arc<AtomicBool>,
) -> Result<Vec<Sample>, Error> {
    let mut samples = Vec::new();
    let mut client = AuthorizationClient::new(connect_as(proxy.clone(), grpc)?);
    for number in 1.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        if number % REQUESTS_OF_A_CONNECTION == 0 {
            client = AuthorizationClient::new(connect_as(proxy.clone(), grpc)?);
        }
        let began = Instant::now();
        client
            .check(check::request(worker, number, "none"))
            .await
            .map_err(|status| wrong(status.to_string()))?;
        samples.push((began, began.elapsed()));
    }
    Ok(samples)
}

/// When the service was seen with another certificate.
async fn rotations(service: &Service) -> Result<Vec<Instant>, Error> {
    let (mut moments, mut serial) = (Vec::new(), None);
    let end = Instant::now() + PATIENCE;
    let mut look = tokio::time::interval(LOOK_EVERY);
    while moments.len() < ROTATIONS {
        look.tick().await;
        let now = Instant::now();
        let status = service.identity().await?;
        let seen = status["svid"]["serial"].as_str().map(str::to_owned);
        if serial.is_some() && seen != serial {
            moments.push(now);
        }
        serial = seen;
        if now > end {
            return Err(wrong(format!("{} rotations within {PATIENCE:?}", moments.len())));
        }
    }
    // The last one's time is waited for.
    tokio::time::sleep(AFTER).await;
    Ok(moments)
}

fn split(samples: &[Sample], moments: &[Instant]) -> Rotations {
    let (mut during, mut outside) = (Latencies::new(), Latencies::new());
    for (began, took) in samples {
        let ended = *began + *took;
        let in_one = moments
            .iter()
            .any(|moment| *began <= *moment + AFTER && ended + BEFORE >= *moment);
        if in_one {
            during.add(*took);
        } else {
            outside.add(*took);
        }
    }
    Rotations {
        seen: moments.len(),
        requests: during.count() + outside.count(),
        requests_during: during.count(),
        p99_us: us(outside.quantile(0.99)),
        p99_during_us: us(during.quantile(0.99)),
    }
}

fn wrong(reason: String) -> Error {
    Error::Contract {
        what: "Check during rotations".to_owned(),
        reason,
    }
}

impl fmt::Display for Rotations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = self.p99_during_us / self.p99_us;
        write!(
            f,
            "\nCheck over mutual TLS while the service's certificate is renewed {} times: p99 {:.0} us during ({} requests), {:.0} us outside ({}).\n\
             {times:.2} times, {TARGET} at most: {}.",
            self.seen,
            self.p99_during_us,
            self.requests_during,
            self.p99_us,
            self.requests - self.requests_during,
            judged(times <= TARGET)
        )
    }
}
