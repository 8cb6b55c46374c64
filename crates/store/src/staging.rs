//! Where mutations wait for the disk.
//!
//! What arrives while the writer thread syncs one batch becomes the next batch: the busier the store, the larger the
//! batches, and the latency of a lone write stays that of one sync.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::Thread;

use crate::contract::{Revision, StoreError};
use crate::entry::Entry;
use crate::log::Files;
use crate::log::frame;
use crate::promise::{Promise, Waiter};
use crate::state::{Clock, Core, Undo};

/// A batch takes no more entries once it has this many bytes.
const FULL: usize = 1 << 20;

/// Applied, but not durable yet.
pub(crate) struct Staging {
    batches: VecDeque<Batch>,
    /// The writer has a batch in its hands.
    in_flight: bool,
    /// How many wait for an answer, beside those in flight.
    waiting: usize,
    /// The writer sleeps until so many wait.
    wake_at: usize,
    /// The log cannot be trusted any more: no further mutations.
    failed: Option<StoreError>,
    /// The buffer of the last batch, to be filled again.
    spare: Vec<u8>,
    writer: Option<Thread>,
    /// The writer has ended.
    stopped: bool,
    /// Who waits for the writer's end.
    closers: Promise,
    files: Arc<Files>,
}

/// Mutations that become durable together.
pub(crate) struct Batch {
    /// The log frame, its header still empty.
    pub(crate) frame: Vec<u8>,
    pub(crate) entries: u32,
    /// The newest revision once this batch is durable.
    pub(crate) head: Revision,
    undo: Vec<Undo>,
    pub(crate) promise: Promise,
}

/// A place in the row of those who wait.
pub(crate) struct Ticket {
    answer: Option<Waiter>,
    writer: Option<Thread>,
}

impl Ticket {
    /// Wakes the writer if it may be asleep. To be called after the lock is released, which the writer needs at once.
    pub(crate) fn wake_writer(&self) {
        if let Some(writer) = &self.writer {
            writer.unpark();
        }
    }

    pub(crate) async fn redeem(self) -> Result<(), StoreError> {
        match self.answer {
            Some(answer) => answer.await,
            None => Ok(()),
        }
    }
}

impl Staging {
    pub(crate) fn new(files: Arc<Files>) -> Self {
        Self {
            batches: VecDeque::new(),
            in_flight: false,
            waiting: 0,
            wake_at: 1,
            failed: None,
            spare: Vec::new(),
            writer: None,
            stopped: false,
            closers: Promise::default(),
            files,
        }
    }

    /// Applies the entries and queues them. Without entries the answer still waits for all before it, which may have
    /// been what decided it.
    pub(crate) fn stage(&mut self, core: &mut Core, entries: Vec<Entry>, clock: Clock) -> Result<Ticket, StoreError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if entries.is_empty() && self.batches.is_empty() && !self.in_flight {
            return Ok(Ticket { answer: None, writer: None });
        }
        if self.batches.back().is_none_or(|batch| batch.frame.len() >= FULL) {
            self.batches.push_back(Batch::new(std::mem::take(&mut self.spare)));
        }
        let mut answer = None;
        if let Some(batch) = self.batches.back_mut() {
            for entry in entries {
                entry.encode(&mut batch.frame);
                batch.entries += 1;
                batch.undo.extend(core.apply(entry, clock));
            }
            batch.head = core.head();
            answer = Some(batch.promise.waiter());
        }
        self.waiting += 1;
        let wakes = !self.in_flight && self.waiting == self.wake_at;
        Ok(Ticket { answer, writer: self.writer.clone().filter(|_| wakes) })
    }

    /// The writer introduces itself.
    pub(crate) fn begin(&mut self, writer: Thread) {
        self.writer = Some(writer);
    }

    /// The next batch for the writer.
    pub(crate) fn take(&mut self) -> Option<Batch> {
        let batch = self.batches.pop_front()?;
        self.in_flight = true;
        self.waiting -= batch.promise.waiters();
        Some(batch)
    }

    /// How many wait for the writer.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The writer goes to sleep until so many wait.
    pub(crate) fn wake_at(&mut self, waiting: usize) {
        self.wake_at = waiting;
    }

    /// A batch is durable; its waiters are to be answered.
    pub(crate) fn succeed(&mut self, batch: Batch) -> Answers {
        self.in_flight = false;
        if batch.frame.capacity() <= 2 * FULL {
            self.spare = batch.frame;
        }
        Answers { promises: vec![batch.promise], answer: Ok(()) }
    }

    /// A batch could not be written: it and all that was decided after it never happened.
    pub(crate) fn fail(&mut self, core: &mut Core, batch: Batch, error: StoreError, is_final: bool) -> Answers {
        self.in_flight = false;
        let (mut undo, mut promises) = (batch.undo, vec![batch.promise]);
        for batch in self.batches.drain(..) {
            undo.extend(batch.undo);
            promises.push(batch.promise);
        }
        self.waiting = 0;
        core.take_back(undo);
        if is_final {
            self.failed = Some(error.clone());
        }
        Answers { promises, answer: Err(error) }
    }

    /// Asks for word of the writer's end.
    pub(crate) fn finish(&mut self) -> Ticket {
        if self.stopped {
            return Ticket { answer: None, writer: None };
        }
        Ticket { answer: Some(self.closers.waiter()), writer: self.writer.clone() }
    }

    /// The writer has ended and will take nothing more; whoever still waits learns that the store is closed.
    pub(crate) fn stop(&mut self) -> Answers {
        self.stopped = true;
        self.batches.clear();
        self.waiting = 0;
        Answers { promises: vec![std::mem::take(&mut self.closers)], answer: Ok(()) }
    }

    /// The files on the disk.
    pub(crate) fn files(&self) -> &Arc<Files> {
        &self.files
    }

    /// Leases as the last durable batch left them, where batches after it have removed some already.
    pub(crate) fn undo(&self) -> impl Iterator<Item = &Undo> {
        self.batches.iter().flat_map(|batch| &batch.undo)
    }
}

impl Batch {
    fn new(mut frame: Vec<u8>) -> Self {
        frame::begin(&mut frame);
        Self { frame, entries: 0, head: 0, undo: Vec::new(), promise: Promise::default() }
    }
}

/// Answers to be given once the lock is released.
#[must_use]
pub(crate) struct Answers {
    promises: Vec<Promise>,
    answer: Result<(), StoreError>,
}

impl Answers {
    pub(crate) fn give(self) {
        for promise in self.promises {
            promise.keep(self.answer.clone());
        }
    }
}
