//! The application behind the proxy: a small HTTP/1.1 server that says which version it is, and fails when told to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::Error;
use crate::load::USER;

/// Header of each answer: the version that served it.
pub const VERSION: &str = "x-version";
/// Prefix of the answer's headers that repeat what the request had under `x-knhk-`: `x-knhk-policy` comes back as `x-seen-policy`.
pub const SEEN: &str = "x-seen-";

/// Header of each answer: `ok`, or what else became of the request behind a status of 200.
pub const RESULT: &str = "x-result";

const KNHK: &str = "x-knhk-";
const MILLION: u32 = 1_000_000;

/// A running application. It stops on drop.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    knobs: Arc<Knobs>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Knobs {
    version: RwLock<HeaderValue>,
    failures_ppm: AtomicU32,
    spoiled_ppm: AtomicU32,
    /// Whose requests fail, each of them.
    victim: RwLock<Option<HeaderValue>>,
    delay_us: AtomicU64,
    requests: AtomicU64,
    failed: AtomicU64,
}

impl Upstream {
    /// Starts version `version` on a free port.
    pub async fn start(version: &str) -> Result<Self, Error> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), version).await
    }

    /// Starts version `version` at this address.
    pub async fn start_at(address: SocketAddr, version: &str) -> Result<Self, Error> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(Error::io(format!("upstream at {address}")))?;
        let address = listener.local_addr().map_err(Error::io("upstream"))?;
        let knobs = Arc::new(Knobs {
            version: RwLock::new(header_value(version)?),
            failures_ppm: AtomicU32::new(0),
            spoiled_ppm: AtomicU32::new(0),
            victim: RwLock::new(None),
            delay_us: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&knobs)));
        Ok(Self {
            address,
            knobs,
            server,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Deploys another version in its place.
    pub fn deploy(&self, version: &str) -> Result<(), Error> {
        let version = header_value(version)?;
        // A poisoned lock means that a writer panicked, and a writer only assigns.
        *self
            .knobs
            .version
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = version;
        Ok(())
    }

    /// From now on this share of requests, 0 to 1, is answered with 500.
    pub fn fail(&self, share: f64) {
        self.knobs.failures_ppm.store(ppm(share), Relaxed);
    }

    /// From now on this share of requests is answered with 200, and with another result than `ok`.
    pub fn spoil(&self, share: f64) {
        self.knobs.spoiled_ppm.store(ppm(share), Relaxed);
    }

    /// From now on each request of this user is answered with 500.
    pub fn fail_for(&self, user: &str) -> Result<(), Error> {
        let victim = header_value(user)?;
        *self
            .knobs
            .victim
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(victim);
        Ok(())
    }

    /// From now on each request takes at least this long.
    pub fn delay(&self, delay: Duration) {
        self.knobs
            .delay_us
            .store(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Requests that came so far.
    pub fn requests(&self) -> u64 {
        self.knobs.requests.load(Relaxed)
    }

    /// Of those, the ones answered with 500.
    pub fn failed(&self) -> u64 {
        self.knobs.failed.load(Relaxed)
    }

    /// Serves until the task is stopped.
    pub async fn run(mut self) {
        let _ = (&mut self.server).await;
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, knobs: Arc<Knobs>) {
    // Connections end with this set, so with the task.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                // Answers are one small write each; waiting to fill a packet would only add latency.
                let _ = stream.set_nodelay(true);
                let knobs = Arc::clone(&knobs);
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(request, Arc::clone(&knobs)));
                    let connection = hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(None)
                        .serve_connection(TokioIo::new(stream), service);
                    // A client that goes away is no concern of the server.
                    let _ = connection.await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(request: Request<Incoming>, knobs: Arc<Knobs>) -> Result<Response<Full<Bytes>>, Infallible> {
    let number = knobs.requests.fetch_add(1, Relaxed);
    let delay = knobs.delay_us.load(Relaxed);
    if delay > 0 {
        // The slowness that a test asked this upstream for.
        tokio::time::sleep(Duration::from_micros(delay)).await;
    }
    let version = knobs
        .version
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone();
    let is_victim = request.headers().get(USER).is_some_and(|user| {
        knobs
            .victim
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .as_ref()
            == Some(user)
    });
    let fails = is_victim || draw(number) < knobs.failures_ppm.load(Relaxed);
    let result = if draw(number) < knobs.spoiled_ppm.load(Relaxed) {
        "spoiled"
    } else {
        "ok"
    };
    if fails {
        knobs.failed.fetch_add(1, Relaxed);
    }
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(version.as_bytes())));
    *response.status_mut() = if fails {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::OK
    };
    response
        .headers_mut()
        .insert(HeaderName::from_static(VERSION), version);
    response
        .headers_mut()
        .insert(HeaderName::from_static(RESULT), HeaderValue::from_static(result));
    for (name, value) in request.headers() {
        if let Some(rest) = name.as_str().strip_prefix(KNHK)
            && let Ok(seen) = HeaderName::try_from(format!("{SEEN}{rest}"))
        {
            response.headers_mut().append(seen, value.clone());
        }
    }
    Ok(response)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn ppm(share: f64) -> u32 {
    (share.clamp(0.0, 1.0) * f64::from(MILLION)) as u32
}

/// Spreads request numbers over 0..1,000,000, so that failures come evenly and each run has the same ones.
fn draw(number: u64) -> u32 {
    // The finaliser of MurmurHash3: a bijection that mixes well.
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    for multiplier in [0xff51_afd7_ed55_8ccd_u64, 0xc4ce_b9fe_1a85_ec53] {
        bits = (bits ^ (bits >> 33)).wrapping_mul(multiplier);
    }
    bits ^= bits >> 33;
    #[allow(clippy::cast_possible_truncation)]
    let scaled = ((u128::from(bits) * u128::from(MILLION)) >> 64) as u32;
    scaled
}

fn header_value(version: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(version).map_err(|error| Error::Contract {
        what: format!("version {version:?}"),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_come_at_the_share_asked_for() {
        for share in [1_000, 50_000, 300_000] {
            let failures = (0..1_000_000).filter(|&number| draw(number) < share).count();
            let expected = f64::from(share);
            #[allow(clippy::cast_precision_loss)]
            let off = (failures as f64 - expected).abs();
            assert!(
                off < 5.0 * expected.sqrt(),
                "{failures} of 1,000,000 for {share} ppm"
            );
        }
    }

    #[tokio::test]
    async fn it_says_its_version_and_what_it_saw() {
        let upstream = Upstream::start("v1").await.expect("a free port");
        let url = format!("http://{}/", upstream.address());
        let client = reqwest::Client::new();
        let answer = client
            .get(&url)
            .header("x-knhk-variant", "canary")
            .send()
            .await
            .expect("it answers");
        assert_eq!(answer.headers()[VERSION], "v1");
        assert_eq!(answer.headers()["x-seen-variant"], "canary");
        upstream.deploy("v2").expect("a header value");
        upstream.fail(1.0);
        let answer = client.get(&url).send().await.expect("it answers");
        assert_eq!(answer.status(), 500);
        assert_eq!(answer.text().await.expect("a body"), "v2");
        assert_eq!((upstream.requests(), upstream.failed()), (2, 1));
    }
}
