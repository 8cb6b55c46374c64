//! The writer thread: takes a batch, makes it durable, publishes it, answers; and sees to checkpoints.
//!
//! A thread of its own, since each sync blocks for as long as the disk likes.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use skiff_meta::WorldRef;

use super::checkpoint::{self, Plan};
use super::{Files, Log, Options, recover};
use crate::contract::StoreError;
use crate::disk::{Disk, RealDisk, store_error};
use crate::engine::{EmbeddedStore, Engine, Shared, State};
use crate::expiry::Expiry;
use crate::staging::{Batch, Staging};

impl EmbeddedStore {
    /// Opens the store in `dir`, which is made if it is missing, and reads it; blocks for as long as that takes.
    ///
    /// Must be called where `world` can spawn: leases that are still alive are watched over from here on.
    pub fn open(dir: impl AsRef<Path>, world: WorldRef, options: Options) -> Result<Self, StoreError> {
        let disk = RealDisk::open(dir.as_ref()).map_err(|error| StoreError::Io(Arc::new(error)))?;
        Self::open_on(Arc::new(disk), world, options)
    }

    /// The same on any disk.
    pub fn open_on(disk: Arc<dyn Disk>, world: WorldRef, options: Options) -> Result<Self, StoreError> {
        let recovered = recover::open(disk.clone(), &world, &options)?;
        let has_leases = recovered.core.leases().first_end().is_some();
        let files = recovered.log.files.clone();
        let shared = Shared::new(world, recovered.core, Some(Staging::new(files.clone())));
        let writer = Writer {
            shared: shared.clone(),
            log: recovered.log,
            files,
            options,
            answered: 1,
            sync: Duration::ZERO,
            hurried: 0,
            since_checkpoint: recovered.since_checkpoint,
            keys_at_checkpoint: recovered.keys_at_checkpoint,
            checkpoint: None,
        };
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(|error| store_error(&*disk, error))?;
        if has_leases {
            Expiry::watch_over(&shared);
        }
        Ok(Engine::from_shared(shared))
    }
}

/// The longest that writers get to gather.
const GATHER: Duration = Duration::from_millis(1);
/// How many batches are taken as they are after writers did not gather in their moment: they are too many, and keep disk
/// and processors busy in turns.
const HURRIED: u32 = 16;

/// How much log there is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Amount {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

struct Writer {
    shared: Arc<Shared>,
    log: Log,
    files: Arc<Files>,
    options: Options,
    /// How many the last batch answered, and how long its sync took.
    answered: usize,
    sync: Duration,
    /// So many batches are not waited for.
    hurried: u32,
    since_checkpoint: Amount,
    keys_at_checkpoint: u64,
    checkpoint: Option<JoinHandle<()>>,
}

/// Tells all who wait, or will, when the writer has ended, be it by a panic.
struct LastWord(Arc<Shared>);

impl Drop for LastWord {
    fn drop(&mut self) {
        let mut state = self.0.state.write();
        state.closed = true;
        let answers = state.staging.as_mut().map(Staging::stop);
        let wake = state.watchers.close();
        drop(state);
        wake.wake();
        if let Some(answers) = answers {
            answers.give();
        }
    }
}

impl Writer {
    fn run(mut self) {
        let _last_word = LastWord(self.shared.clone());
        with_staging(&self.shared, |staging| staging.begin(std::thread::current()));
        while let Some(mut batch) = self.next() {
            let start = self.shared.world.elapsed();
            let result = self.write(&mut batch);
            self.sync = self.shared.world.elapsed().saturating_sub(start);
            self.answered = batch.promise.waiters();
            self.settle(batch, result);
        }
        if let Some(checkpoint) = self.checkpoint.take()
            && checkpoint.join().is_err()
        {
            tracing::error!("writing a checkpoint panicked");
        }
        // Lets go of the directory before the last word is spoken.
        drop(self);
    }

    /// Waits for the next batch; `None` when the store has closed and nothing is left to write.
    ///
    /// Writers who were answered together come back one by one. To sync for the first of them alone would make all
    /// others wait for two syncs instead of one, so they get a moment, short beside a sync, to gather.
    fn next(&mut self) -> Option<Batch> {
        let world = self.shared.world.clone();
        let gathers = self.answered > 1 && self.hurried == 0;
        let moment = if gathers { (self.sync / 4).min(GATHER) } else { Duration::ZERO };
        self.hurried = self.hurried.saturating_sub(1);
        let until = world.elapsed() + moment;
        loop {
            let left = until.saturating_sub(world.elapsed());
            let mut state = self.shared.state.write();
            let State { staging: Some(staging), closed, .. } = &mut *state else { return None };
            let enough = if left.is_zero() || *closed { 1 } else { self.answered };
            let waiting = staging.waiting();
            if waiting >= enough {
                if gathers && waiting < self.answered {
                    self.hurried = HURRIED;
                }
                return staging.take();
            }
            if *closed {
                return None;
            }
            staging.wake_at(enough);
            drop(state);
            if left.is_zero() {
                std::thread::park();
            } else {
                std::thread::park_timeout(left);
            }
        }
    }

    fn write(&mut self, batch: &mut Batch) -> Result<(), StoreError> {
        if batch.entries == 0 {
            return Ok(());
        }
        self.log.append(&mut batch.frame, batch.entries)?;
        self.since_checkpoint.bytes += batch.frame.len() as u64;
        self.since_checkpoint.entries += u64::from(batch.entries);
        Ok(())
    }

    fn settle(&mut self, batch: Batch, result: Result<(), StoreError>) {
        let clock = self.shared.clock();
        let mut state = self.shared.state.write();
        let wake = match result {
            Ok(()) => state.publish(batch.head, clock),
            Err(_) => Default::default(),
        };
        let State { core, staging: Some(staging), .. } = &mut *state else { return };
        let is_full = matches!(result, Err(StoreError::NoSpace(_)));
        let answers = match result {
            Ok(()) => staging.succeed(batch),
            Err(error) => {
                let is_final = !is_full;
                staging.fail(core, batch, error, is_final)
            }
        };
        let plan = if self.checkpoint_is_due(is_full) { Some(Plan::make(&mut state, &self.log, clock)) } else { None };
        drop(state);
        wake.wake();
        answers.give();
        if let Some(plan) = plan {
            self.begin_checkpoint(plan);
        }
    }

    /// When the disk is full any checkpoint of something new is welcome: the log before it can go.
    fn checkpoint_is_due(&self, is_full: bool) -> bool {
        let Amount { bytes, entries } = self.since_checkpoint;
        let is_large = bytes >= self.options.checkpoint_bytes.max(2 * self.files.checkpoint_size())
            || entries >= self.options.checkpoint_entries.max(self.keys_at_checkpoint);
        (is_large || is_full && entries > 0) && self.checkpoint.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn begin_checkpoint(&mut self, plan: Plan) {
        self.since_checkpoint = Amount::default();
        self.keys_at_checkpoint = plan.keys;
        let revision = plan.revision;
        let (shared, files) = (self.shared.clone(), self.files.clone());
        let thread = std::thread::Builder::new().name("store-checkpoint".into());
        match thread.spawn(move || checkpoint::run(&shared, &files, &plan)) {
            Ok(handle) => self.checkpoint = Some(handle),
            Err(error) => {
                tracing::warn!("a checkpoint could not begin, will try again: {error}");
                self.shared.state.write().core.unpin(revision);
            }
        }
    }
}

fn with_staging(shared: &Shared, change: impl FnOnce(&mut Staging)) {
    if let Some(staging) = shared.state.write().staging.as_mut() {
        change(staging);
    }
}
