#![allow(unused_variables)]
use crate::storage::Storage;
use crate::{Env, Payload, ReceiptFile, SignedCheckpoint, Signer};
use std::sync::Arc;
use std::time::Duration;
mod error;
pub use error::{LogError, SignError};
pub const MAX_WAITING_BYTES: usize = 64 * 1024 * 1024;
pub const MAX_APPEND_BYTES: usize = 16 * 1024 * 1024;
pub const SIGN_TIMEOUT: Duration = Duration::from_secs(10);
/// Settings.
#[derive(Clone, Debug)]
pub struct LogOptions {
    pub region: String,
    pub origin: String,
    pub flush: Duration,
}
impl LogOptions {
    pub fn new(region: impl Into<String>) -> Self {
        let region = region.into();
        Self {
            origin: format!("knhk.dev/log/{region}"),
            region,
            flush: Duration::from_millis(250),
        }
    }
}
#[derive(Clone, Debug)]
pub struct LogStatus {
    pub size: u64,
    pub signed_size: u64,
    pub unsigned: u64,
    pub waiting_bytes: usize,
    pub last_sign_error: Option<SignError>,
    pub last_write_error: Option<LogError>,
}
#[derive(Clone)]
pub struct Log {
    _inner: Arc<()>,
}
impl Log {
    pub async fn open(
        storage: Arc<dyn Storage>,
        options: LogOptions,
        signer: Arc<dyn Signer>,
        env: Env,
    ) -> Result<Self, LogError> {
        unimplemented!()
    }
    pub async fn append(&self, payloads: Vec<Payload>) -> Result<Vec<u64>, LogError> {
        unimplemented!()
    }
    pub fn size(&self) -> u64 {
        unimplemented!()
    }
    pub fn region(&self) -> &str {
        unimplemented!()
    }
    pub fn checkpoint(&self) -> Option<SignedCheckpoint> {
        unimplemented!()
    }
    pub async fn covered(&self, index: u64) -> Result<SignedCheckpoint, LogError> {
        unimplemented!()
    }
    pub async fn flush_now(&self) -> Result<Option<SignedCheckpoint>, LogError> {
        unimplemented!()
    }
    pub fn status(&self) -> LogStatus {
        unimplemented!()
    }
    pub fn payload(&self, index: u64) -> Result<Payload, LogError> {
        unimplemented!()
    }
    pub fn scan(&self, from: u64) -> Result<Scan, LogError> {
        unimplemented!()
    }
    pub async fn receipt(&self, index: u64) -> Result<ReceiptFile, LogError> {
        unimplemented!()
    }
    pub fn tile(&self, path: &str) -> Result<Vec<u8>, LogError> {
        unimplemented!()
    }
    pub async fn close(self) -> Result<(), LogError> {
        unimplemented!()
    }
}
pub struct Scan;
impl Iterator for Scan {
    type Item = Result<(u64, Payload), LogError>;
    fn next(&mut self) -> Option<Self::Item> {
        unimplemented!()
    }
}
