//! Real traffic: users who call through the proxy at a rate that does not wait for answers.

mod client;
mod latencies;
mod sticky;
mod tally;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

pub use client::{Answer, Ask, Client, ask_each};
pub use latencies::Latencies;
pub use sticky::Sticky;
pub use tally::{Served, Tally, five_sigma, share};

/// Header that the harness's users carry, and that its rollouts use as the key.
pub const USER: &str = "x-user-id";

/// What traffic to make.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The proxy.
    pub target: SocketAddr,
    /// The `host` header.
    pub host: String,
    /// The path.
    pub path: String,
    /// Requests a second, whether answers come or not.
    pub rate: u32,
    /// Connections that share the rate; each has one request under way at a time.
    pub connections: u32,
    /// How many different users there are: `user-0` and so on.
    pub users: u32,
    /// In place of all of them.
    pub only: Option<String>,
    /// A header that each request has beside the user's.
    pub header: Option<(String, String)>,
    /// Which user comes when.
    pub seed: u64,
}

impl LoadOptions {
    /// 1,000 requests a second of 10,000 users over 64 connections.
    pub fn to(target: SocketAddr, host: &str) -> Self {
        Self {
            target,
            host: host.to_owned(),
            path: "/".to_owned(),
            rate: 1_000,
            connections: 64,
            users: 10_000,
            only: None,
            header: None,
            seed: 1,
        }
    }

    /// The same with a header beside the user's.
    #[must_use]
    pub fn with(self, name: &str, value: &str) -> Self {
        Self {
            header: Some((name.to_owned(), value.to_owned())),
            ..self
        }
    }

    /// The same of one user alone.
    #[must_use]
    pub fn only(self, user: &str) -> Self {
        Self {
            users: 1,
            only: Some(user.to_owned()),
            ..self
        }
    }
}

/// Traffic that is being made. It ends on drop.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    options: LoadOptions,
    start: Instant,
    next: AtomicU64,
    ending: AtomicBool,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    tally: Tally,
    sticky: Sticky,
}

/// One request and what came of it.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) user: u32,
    pub(crate) sent: Instant,
    pub(crate) answered: Instant,
    /// From when it was due, if the connection was busy then; so a slow answer delays no clock but its own.
    pub(crate) latency: Duration,
    pub(crate) result: Result<Answer, String>,
}

impl Load {
    /// Starts it.
    pub fn start(options: LoadOptions) -> Self {
        let users = options.users;
        let connections = options.connections;
        let shared = Arc::new(Shared {
            options,
            start: Instant::now(),
            next: AtomicU64::new(0),
            ending: AtomicBool::new(false),
            seen: Mutex::new(Seen {
                tally: Tally::new(),
                sticky: Sticky::of(users),
            }),
        });
        let mut workers = JoinSet::new();
        for _ in 0..connections {
            workers.spawn(work(Arc::clone(&shared)));
        }
        Self { shared, workers }
    }

    /// What was answered since the last call; the count starts again.
    pub fn take(&self) -> Tally {
        std::mem::replace(&mut self.seen().tally, Tally::new())
    }

    /// What was answered since the last `take`, left as it is.
    pub fn peek<T>(&self, read: impl FnOnce(&Tally) -> T) -> T {
        read(&self.seen().tally)
    }

    /// Which users changed version so far.
    pub fn sticky(&self) -> Sticky {
        self.seen().sticky.clone()
    }

    /// Lets what is under way finish, and gives what was answered since the last `take`.
    pub async fn finish(mut self) -> Tally {
        self.shared.ending.store(true, Relaxed);
        while self.workers.join_next().await.is_some() {}
        self.take()
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn work(shared: Arc<Shared>) {
    let options = &shared.options;
    let mut client = Client::new(options.target);
    while !shared.ending.load(Relaxed) {
        let number = shared.next.fetch_add(1, Relaxed);
        let due =
            shared.start + Duration::from_nanos(number * 1_000_000_000 / u64::from(options.rate.max(1)));
        let on_time = Instant::now() < due;
        if on_time {
            tokio::time::sleep_until(due).await;
        }
        let user = pick(options.seed, number, options.users);
        let sent = Instant::now();
        let name = options.only.clone().unwrap_or_else(|| format!("user-{user}"));
        let ask = Ask::get(&options.host, &options.path).header(USER, &name);
        let ask = match &options.header {
            Some((name, value)) => ask.header(name, value),
            None => ask,
        };
        let result = client.ask(&ask).await;
        let answered = Instant::now();
        let latency = answered - if on_time { sent } else { due };
        let sample = Sample {
            user,
            sent,
            answered,
            latency,
            result,
        };
        let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.sticky.add(&sample);
        seen.tally.add(sample);
    }
}

/// The user of a request: spread evenly, and the same in each run of a seed.
fn pick(seed: u64, number: u64, users: u32) -> u32 {
    // SplitMix64, with the seed as its start.
    let mut bits = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    #[allow(clippy::cast_possible_truncation)]
    let user = ((u128::from(bits) * u128::from(users)) >> 64) as u32;
    user
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Upstream;
    use crate::wait;

    #[tokio::test]
    async fn it_counts_what_the_upstream_answered() {
        let upstream = Upstream::start("v1").await.expect("a free port");
        upstream.fail(0.5);
        let load = Load::start(LoadOptions {
            rate: 5_000,
            ..LoadOptions::to(upstream.address(), "app.test")
        });
        wait::until("500 answers", wait::SOON, || {
            let answered = load.peek(Tally::answered);
            async move {
                if answered >= 500 {
                    Ok(())
                } else {
                    Err(format!("{answered}"))
                }
            }
        })
        .await
        .expect("it makes traffic");
        let tally = load.finish().await;
        assert_eq!(tally.transport_errors, 0, "{:?}", tally.first_error);
        assert_eq!(tally.answered(), upstream.requests());
        assert_eq!(tally.version("v1").failed, upstream.failed());
    }

    #[tokio::test]
    async fn a_refused_connection_is_counted() {
        let port = crate::ports::Port::reserve().expect("a free port");
        let load = Load::start(LoadOptions {
            connections: 1,
            ..LoadOptions::to(port.address(), "app.test")
        });
        wait::until("an error", wait::SOON, || {
            let errors = load.peek(|tally| tally.transport_errors);
            async move {
                if errors > 0 {
                    Ok(())
                } else {
                    Err("none".to_owned())
                }
            }
        })
        .await
        .expect("errors are counted");
    }
}
