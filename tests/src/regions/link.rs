//! The network between two regions: a TCP proxy that delays, cuts, holds, breaks off and changes what goes through it.

use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::Error;
use crate::ports::Port;

/// Bytes that go through at a time.
const CHUNK: usize = 64 * 1024;

/// Chunks on their way in one direction: what a long and fast line holds.
const UNDER_WAY: usize = 256;

/// How a line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// How long each direction takes.
    pub delay: Duration,
    /// Nothing comes through: connections end, and new ones end at once.
    pub is_cut: bool,
    /// Of so many chunks one ends its connection; 0 for none.
    pub breaks_one_in: u32,
    /// Of so many chunks one has a byte changed; 0 for none.
    pub changes_one_in: u32,
}

impl Line {
    /// With half of this round trip each way.
    pub fn round_trip(time: Duration) -> Self {
        Self {
            delay: time / 2,
            ..Self::default()
        }
    }

    /// Cut.
    pub fn cut() -> Self {
        Self {
            is_cut: true,
            ..Self::default()
        }
    }
}

/// The line from one region to another one's HTTP address.
#[derive(Debug)]
pub struct Link {
    port: Port,
    line: watch::Sender<Line>,
    leads_to: watch::Sender<SocketAddr>,
    running: JoinHandle<()>,
}

impl Link {
    /// Lays it. It lives on the runtime of the caller; what happens by chance follows the number.
    pub fn lay(to: SocketAddr, chance: u64) -> Result<Self, Error> {
        let port = Port::reserve()?;
        let what = || format!("the line on {}", port.address());
        let listener = std::net::TcpListener::bind(port.address()).map_err(Error::io(what()))?;
        listener.set_nonblocking(true).map_err(Error::io(what()))?;
        let listener = TcpListener::from_std(listener).map_err(Error::io(what()))?;
        let (line, seen) = watch::channel(Line::default());
        let (leads_to, to) = watch::channel(to);
        let running = tokio::spawn(serve(listener, to, seen, chance));
        Ok(Self {
            port,
            line,
            leads_to,
            running,
        })
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// From now on it is like this.
    pub fn become_like(&self, line: Line) {
        self.line.send_replace(line);
    }

    /// From now on it leads to somebody else. Connections that are there end.
    pub fn lead_to(&self, address: SocketAddr) {
        self.leads_to.send_replace(address);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn serve(
    listener: TcpListener,
    to: watch::Receiver<SocketAddr>,
    line: watch::Receiver<Line>,
    seed: u64,
) {
    let mut connections = JoinSet::new();
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let (line, seeds) = (line.clone(), [random.random(), random.random()]);
        let to = to.clone();
        connections.spawn(connected(stream, to, line, seeds));
        while connections.try_join_next().is_some() {}
    }
}

/// Ends when either direction does, or the line is cut.
async fn connected(
    near: TcpStream,
    mut to: watch::Receiver<SocketAddr>,
    mut line: watch::Receiver<Line>,
    seeds: [u64; 2],
) {
    if line.borrow().is_cut {
        return;
    }
    let leads_to = *to.borrow_and_update();
    let Ok(far) = TcpStream::connect(leads_to).await else {
        return;
    };
    // What waits for more bytes would be a delay that nobody asked for.
    if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
        return;
    }
    let ((near_reads, near_writes), (far_reads, far_writes)) = (near.into_split(), far.into_split());
    let there = carry(near_reads, far_writes, line.clone(), seeds[0]);
    let back = carry(far_reads, near_writes, line.clone(), seeds[1]);
    tokio::select! {
        () = there => {}
        () = back => {}
        _ = line.wait_for(|line| line.is_cut) => {}
        _ = to.changed() => {}
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, line: watch::Receiver<Line>, seed: u64) {
    let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let reading = async move {
        let mut random = StdRng::seed_from_u64(seed);
        loop {
            let mut chunk = vec![0; CHUNK];
            let read = match from.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(read) => read,
            };
            chunk.truncate(read);
            let line = *line.borrow();
            if one_in(line.breaks_one_in, &mut random) {
                return;
            }
            if one_in(line.changes_one_in, &mut random) {
                let at = random.random_range(0..chunk.len());
                chunk[at] ^= 1 << random.random_range(0..8);
            }
            if sender.send((Instant::now() + line.delay, chunk)).await.is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((when, chunk)) = under_way.recv().await {
            tokio::time::sleep_until(when).await;
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}

fn one_in(chance: u32, random: &mut StdRng) -> bool {
    chance > 0 && random.random_ratio(1, chance)
}
