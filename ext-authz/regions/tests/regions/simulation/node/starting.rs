//! What a region does until it signs: it asks the others, and restores its log where they hold more.

use std::collections::BTreeMap;
use std::sync::Arc;

use knhk_receipts::cose::RootSignature;
use knhk_receipts::storage::Storage;
use knhk_receipts::testing::TestSigner;
use knhk_receipts::{Env, Log, LogOptions, MAX_FLUSH, Payload};
use knhk_regions::announce::ack_key_action;
use knhk_regions::start::OwnAtRest;
use knhk_regions::{
    AckSigner, Decision, Mirror, Mirrored, OwnLog, Refusal, Restore, Restored, SavedAcks, Sender,
    SenderOptions, Start,
};
use tokio::runtime::Runtime;

use super::super::lying::Lying;
use super::sending::{note, view};
use super::{Ended, Node, Out, START_WAIT_MS, Setup, Stage, Up, ended, seed};
use crate::rig::origin;

impl Node {
    /// Starts the process. It signs nothing before it has asked the others.
    pub(crate) fn start(&mut self, setup: &Setup, now: u64) -> Result<(), Ended> {
        let random = self.randomness();
        let acks = AckSigner::open(&self.disk.data, &self.name, random.as_ref()).map_err(ended("key"))?;
        let mut mirrors = BTreeMap::new();
        for (peer, storage) in &self.disk.mirrors {
            let of = Mirrored {
                region: peer.clone(),
                origin: origin(peer),
                pin: self.pins[peer],
            };
            let storage: Arc<dyn Storage> = if setup.lying == Some(self.at) {
                Arc::new(Lying(storage.clone()))
            } else {
                Arc::new(storage.clone())
            };
            mirrors.insert(peer.clone(), Mirror::open(storage, &of).map_err(ended("mirror"))?);
        }
        let ours = (0..self.keys).map(|number| TestSigner::key_of(seed(self.at, number)).public);
        let own = OwnAtRest::find(Arc::new(self.disk.data.clone()), ours.collect()).map_err(ended("log"))?;
        let peers = setup.names.len() - 1;
        let start = Start::new(
            own.found(),
            &origin(&self.name),
            peers,
            setup.quorum,
            START_WAIT_MS,
            now,
        );
        self.up = Some(Up {
            acks,
            mirrors,
            stage: Stage::Starting { start, own },
            ask_at_ms: now,
        });
        Ok(())
    }

    pub(super) fn decided(
        &mut self,
        decision: Decision,
        setup: &Setup,
        rt: &Runtime,
        now: u64,
        out: &mut Out,
    ) -> Result<(), Ended> {
        let Some(up) = &mut self.up else { return Ok(()) };
        let Stage::Starting { own, .. } = &up.stage else {
            return Ok(());
        };
        let (found, keys) = (own.found(), own.keys().to_vec());
        match decision {
            Decision::Wait { .. } => Ok(()),
            Decision::Begin => {
                assert_eq!(found, OwnLog::Empty);
                self.open_log(setup, rt, now, out)
            }
            Decision::GoOn { .. } => self.open_log(setup, rt, now, out),
            Decision::Restore { from } if from.is_empty() => {
                let data: Arc<dyn Storage> = Arc::new(self.disk.data.clone());
                let restore = Restore::resume(data, keys).map_err(ended("restore"))?;
                let restore = restore.expect("it was interrupted");
                up.stage = Stage::Restoring {
                    restore,
                    from,
                    asked: 0,
                };
                self.finish(setup, rt, now, out)
            }
            Decision::Restore { from } => {
                let own = Restored {
                    region: self.name.clone(),
                    origin: origin(&self.name),
                    keys,
                };
                let data: Arc<dyn Storage> = Arc::new(self.disk.data.clone());
                let wanted = from.iter().map(|it| it.covered).max().unwrap_or(0);
                let restore = Restore::open(data, own, wanted).map_err(ended("restore"))?;
                up.ask_at_ms = now;
                up.stage = Stage::Restoring {
                    restore,
                    from,
                    asked: 0,
                };
                Ok(())
            }
            Decision::Stop(_) => {
                up.stage = Stage::Stopped;
                Ok(())
            }
        }
    }

    fn open_log(&mut self, setup: &Setup, rt: &Runtime, now: u64, out: &mut Out) -> Result<(), Ended> {
        let clock = now.saturating_add_signed(self.skew_ms) + 1_700_000_000_000;
        let env = Env {
            clock: Arc::new(move || clock),
            fill_random: self.randomness(),
        };
        let options = LogOptions {
            flush: MAX_FLUSH,
            ..LogOptions::new(&self.name)
        };
        let signer = Arc::new(TestSigner::new(seed(self.at, self.keys - 1)));
        let storage = Arc::new(self.disk.data.clone());
        let log = rt
            .block_on(Log::open(storage, options, signer, env))
            .map_err(ended("log"))?;
        let saved = SavedAcks::load(&self.disk.data).map_err(ended("acks"))?;
        let Some(up) = &mut self.up else { return Ok(()) };
        let announcement = Payload::Action(ack_key_action(&self.name, up.acks.public_key(), clock));
        rt.block_on(log.append(vec![announcement]))
            .map_err(ended("announce"))?;
        rt.block_on(log.flush_now()).map_err(ended("sign"))?;
        let options = SenderOptions {
            region: self.name.clone(),
            peers: up.mirrors.keys().cloned().collect(),
            quorum: setup.believed_quorum,
            bytes_per_second: 10_000_000,
        };
        let mut sender = Sender::new(options, &saved);
        let view = view(&self.name, &log, &up.mirrors);
        let events = sender.signed(&view, now);
        note(events, &sender, &log, &self.disk.data, out);
        up.stage = Stage::Running { log, sender };
        Ok(())
    }

    pub(super) fn restored(
        &mut self,
        bytes: &[u8],
        setup: &Setup,
        rt: &Runtime,
        now: u64,
        out: &mut Out,
    ) -> Result<(), Ended> {
        let Some(up) = &mut self.up else { return Ok(()) };
        let Stage::Restoring { restore, asked, .. } = &mut up.stage else {
            return Ok(());
        };
        let taken = restore.receive(bytes, now);
        if std::env::var_os("KNHK_TRACE").is_some() {
            eprintln!("{:>7} {} restores: {taken:?}", now, self.name);
        }
        match taken {
            Ok(true) => {
                *asked -= *asked % 4;
                up.ask_at_ms = now;
                return Ok(());
            }
            Ok(false) if !restore.is_whole() => return Ok(()),
            Ok(false) => {}
            Err(Refusal::Fork(_) | Refusal::SplitView { .. } | Refusal::OldCopy { .. }) => {
                up.stage = Stage::Stopped;
                return Ok(());
            }
            Err(Refusal::Storage(error)) => return Err(Ended(error.to_string())),
            // Damaged on the way: it is asked for again.
            Err(_) => return Ok(()),
        }
        self.finish(setup, rt, now, out)
    }

    /// Puts the restored log in place and opens it.
    pub(super) fn finish(
        &mut self,
        setup: &Setup,
        rt: &Runtime,
        now: u64,
        out: &mut Out,
    ) -> Result<(), Ended> {
        let (at, keys) = (self.at, self.keys);
        let Some(up) = &mut self.up else { return Ok(()) };
        let Stage::Restoring { restore, .. } = std::mem::replace(&mut up.stage, Stage::Stopped) else {
            return Ok(());
        };
        let cose = restore.without_cose().map(|checkpoint| {
            let seeds = (0..keys).map(|number| seed(at, number));
            let signers = seeds.map(TestSigner::new);
            let mut signers = signers.filter(|it| checkpoint.verify(&[it.public_key()]).is_ok());
            let signer = signers.next().expect("one of our keys");
            let key = signer.public_key();
            let digest = RootSignature::digest(&key.key_id(), &checkpoint.root());
            RootSignature::new(&key, &checkpoint.root(), &signer.sign(&digest)).expect("a signature")
        });
        restore.finish(cose).map_err(ended("restore"))?;
        self.open_log(setup, rt, now, out)
    }
}
