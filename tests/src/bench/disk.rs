//! What the disk itself can do: the floor of every durable receipt.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::us;
use crate::Error;
use crate::load::Latencies;

/// Bytes of each write: one page, about what a group of receipts takes.
const WRITE: usize = 4096;
/// The file is written round and round, so that syncs of its length are not what is measured.
const FILE: u64 = 16 * 1024 * 1024;

/// One thread that writes a page and syncs it, again and again.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Disk {
    pub(super) syncs_per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// Measures `fdatasync` in this directory. Blocks for that long.
pub(super) fn measure(directory: &Path, seconds: u64) -> Result<Disk, Error> {
    let io = || Error::io(format!("a file in {}", directory.display()));
    let mut file = tempfile::tempfile_in(directory).map_err(io())?;
    for _ in 0..FILE / WRITE as u64 {
        file.write_all(&[0; WRITE]).map_err(io())?;
    }
    file.sync_all().map_err(io())?;
    let mut times = Latencies::new();
    let start = Instant::now();
    let end = Duration::from_secs(seconds.max(1));
    for round in 1_u64.. {
        let began = Instant::now();
        if began - start >= end {
            break;
        }
        file.seek(SeekFrom::Start(round * WRITE as u64 % FILE))
            .map_err(io())?;
        file.write_all(&[round.to_le_bytes()[0]; WRITE]).map_err(io())?;
        file.sync_data().map_err(io())?;
        times.add(began.elapsed());
    }
    #[allow(clippy::cast_precision_loss)]
    let syncs_per_second = times.count() as f64 / start.elapsed().as_secs_f64();
    Ok(Disk {
        syncs_per_second,
        p50_us: us(times.quantile(0.5)),
        p99_us: us(times.quantile(0.99)),
    })
}
