//! One answer that many wait for.
//!
//! Everything in a batch becomes durable with one sync, so all who wait for it share one allocation. Whoever hears the
//! answer first tells the others: the writer thread goes on at once, and a worker of the runtime wakes tasks for itself
//! far more cheaply than another thread does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::contract::StoreError;

/// How many are told by the one who answers, so that a single task that is slow to run does not hold up the others.
const HERALDS: usize = 4;

type Answer = Result<(), StoreError>;

/// Gives the answer, once; dropped without, the answer is [`StoreError::Closed`].
#[derive(Default)]
pub(crate) struct Promise(Arc<Mutex<Waiting>>);

/// Waits for it.
pub(crate) struct Waiter {
    waiting: Option<Arc<Mutex<Waiting>>>,
    seat: usize,
}

#[derive(Default)]
struct Waiting {
    answer: Option<Answer>,
    /// By seat, those who wait.
    wakers: Vec<Option<Waker>>,
    /// Seats before this one have been told.
    told: usize,
}

impl Promise {
    /// One more who waits.
    pub(crate) fn waiter(&self) -> Waiter {
        let mut waiting = self.0.lock();
        waiting.wakers.push(None);
        Waiter { waiting: Some(self.0.clone()), seat: waiting.wakers.len() - 1 }
    }

    /// How many wait, or did.
    pub(crate) fn waiters(&self) -> usize {
        self.0.lock().wakers.len()
    }

    pub(crate) fn keep(self, answer: Answer) {
        self.answer(answer);
    }

    fn answer(&self, answer: Answer) {
        let mut waiting = self.0.lock();
        if waiting.answer.is_none() {
            waiting.answer = Some(answer);
            let heralds = waiting.next(HERALDS);
            drop(waiting);
            heralds.into_iter().for_each(Waker::wake);
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.answer(Err(StoreError::Closed));
    }
}

impl Waiting {
    /// The next who are to be told.
    fn next(&mut self, most: usize) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while wakers.len() < most
            && let Some(seat) = self.wakers.get_mut(self.told)
        {
            wakers.extend(seat.take());
            self.told += 1;
        }
        wakers
    }
}

impl Future for Waiter {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let Some(waiting) = &self.waiting else { return Poll::Ready(Err(StoreError::Closed)) };
        let mut state = waiting.lock();
        let Some(answer) = state.answer.clone() else {
            state.wakers[self.seat] = Some(context.waker().clone());
            return Poll::Pending;
        };
        let others = state.next(usize::MAX);
        drop(state);
        self.waiting = None;
        others.into_iter().for_each(Waker::wake);
        Poll::Ready(answer)
    }
}

impl Drop for Waiter {
    /// Who stops waiting may have been the one to tell the others.
    fn drop(&mut self) {
        let Some(waiting) = self.waiting.take() else { return };
        let mut state = waiting.lock();
        state.wakers[self.seat] = None;
        if state.answer.is_some() {
            let others = state.next(usize::MAX);
            drop(state);
            others.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::task::{ArcWake, waker};

    use super::*;

    /// A task that counts how often it was woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl ArcWake for Task {
        fn wake_by_ref(task: &Arc<Self>) {
            task.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll(waiter: &mut Waiter, task: &Arc<Task>) -> Poll<Answer> {
        Pin::new(waiter).poll(&mut Context::from_waker(&waker(task.clone())))
    }

    /// A promise, ten who wait for it, and their tasks.
    fn ten() -> (Promise, Vec<Waiter>, Vec<Arc<Task>>) {
        let promise = Promise::default();
        let mut waiters: Vec<_> = (0..10).map(|_| promise.waiter()).collect();
        let tasks: Vec<Arc<Task>> = (0..10).map(|_| Arc::default()).collect();
        for (waiter, task) in waiters.iter_mut().zip(&tasks) {
            assert!(poll(waiter, task).is_pending());
        }
        assert_eq!(promise.waiters(), 10);
        (promise, waiters, tasks)
    }

    fn woken(tasks: &[Arc<Task>]) -> usize {
        tasks.iter().filter(|task| task.0.load(Ordering::Relaxed) == 1).count()
    }

    #[test]
    fn the_first_to_hear_tells_the_others() {
        let (promise, mut waiters, tasks) = ten();
        promise.keep(Ok(()));
        assert_eq!(woken(&tasks), HERALDS);
        assert!(matches!(poll(&mut waiters[2], &tasks[2]), Poll::Ready(Ok(()))));
        assert_eq!(woken(&tasks), 10);
        assert!(matches!(poll(&mut waiters[9], &tasks[9]), Poll::Ready(Ok(()))));
    }

    #[test]
    fn who_stops_waiting_passes_it_on() {
        let (promise, mut waiters, tasks) = ten();
        drop(waiters.drain(..2));
        promise.keep(Ok(()));
        drop(waiters.remove(0));
        assert_eq!(woken(&tasks[2..]), 8);
        assert_eq!(woken(&tasks[..2]), 0, "they had gone before");
    }

    #[test]
    fn a_promise_that_is_dropped_is_a_closed_store() {
        let (promise, mut waiters, tasks) = ten();
        let mut late = promise.waiter();
        drop(promise);
        for (waiter, task) in waiters.iter_mut().zip(&tasks) {
            assert!(matches!(poll(waiter, task), Poll::Ready(Err(StoreError::Closed))));
        }
        assert!(matches!(poll(&mut late, &tasks[0]), Poll::Ready(Err(StoreError::Closed))));
    }
}
