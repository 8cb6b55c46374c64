//! Two lanes for connections: whoever asks for little waits for nobody who asks for much.
//!
//! Sealing and sending a large list takes many times as long as answering for one object, and on few cores the tasks of
//! fifty clients who list stand before the one who does not. A connection whose last answer was large is therefore driven
//! by threads of their own, which the kernel lets run behind the others, and never on all processors: what the kernel does
//! for whoever sends much, it does to the end, however urgent the others are.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::Response;
use http_body_util::BodyExt;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use skiff_client::Body;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::respond::body::IsLarge;

/// How much the back lane's threads give way to others (`nice`): they get a tenth of a core that others want too, and all of
/// one that nobody wants.
const COURTESY: i32 = 10;
/// What the back lane's threads are called.
const BACK: &str = "large-answers";

/// The lanes of one server.
pub(super) struct Lanes {
    front: Handle,
    /// Begun with the first large answer: most servers of one machine never send one. None when there are no threads.
    back: OnceLock<Option<Runtime>>,
}

impl Lanes {
    /// Lanes whose front is the runtime that is current here.
    pub(super) fn new() -> Self {
        Self { front: Handle::current(), back: OnceLock::new() }
    }

    /// Drives a connection to its end, in the lane that fits what is sent on it.
    pub(super) async fn drive(&self, connection: impl Future<Output = ()> + Send + 'static, load: &Arc<Load>) {
        let mut connection: BoxFuture<'static, ()> = Box::pin(connection);
        while !while_fitting(&mut connection, || !load.is_large()).await {
            let Some(back) = self.back() else { return connection.await };
            let load = load.clone();
            let driven = back.spawn(async move {
                let ended = while_fitting(&mut connection, || load.is_large()).await;
                (connection, ended)
            });
            match driven.await {
                Ok((_, true)) => return,
                Ok((rest, false)) => connection = rest,
                Err(error) => return tracing::error!("a connection's task failed: {error}"),
            }
        }
    }

    /// Runs `work` so that tasks it starts belong to the front lane.
    pub(super) fn in_front<T>(&self, work: impl FnOnce() -> T) -> T {
        let _entered = self.front.enter();
        work()
    }

    /// A future that is polled as by [`Lanes::in_front`].
    pub(super) async fn future_in_front<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        std::future::poll_fn(|context| self.in_front(|| future.as_mut().poll(context))).await
    }

    fn back(&self) -> Option<&Handle> {
        let begin = || {
            let places = places();
            let threads = match places.len() {
                0 => std::thread::available_parallelism().map_or(1, usize::from),
                some => some,
            };
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(threads).thread_name(BACK).enable_all().on_thread_start(move || give_way(&places));
            builder.build().inspect_err(|error| tracing::warn!("no threads for large answers: {error}")).ok()
        };
        self.back.get_or_init(begin).as_ref().map(Runtime::handle)
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        // A runtime that is dropped waits for its threads, which no task may do.
        if let Some(back) = self.back.take().flatten() {
            back.shutdown_background();
        }
    }
}

/// The processors of the back lane: all that this process may use but the first quarter of them, of two the second. None
/// where there is one only, or nobody can tell.
fn places() -> Vec<usize> {
    let allowed = sched_getaffinity(None).unwrap_or_default();
    let all: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    if all.len() < 2 { Vec::new() } else { all[all.len().div_ceil(4)..].to_vec() }
}

fn give_way(places: &[usize]) {
    let mut set = CpuSet::new();
    places.iter().for_each(|cpu| set.set(*cpu));
    let kept = if places.is_empty() { Ok(()) } else { sched_setaffinity(None, &set) };
    if let Err(error) = kept.and(rustix::process::setpriority_process(None, COURTESY)) {
        tracing::debug!("large answers are sent where, and at the priority, that all others are: {error}");
    }
}

/// Polls until the end, which is true, or until `fits` is not true any more.
async fn while_fitting(connection: &mut BoxFuture<'static, ()>, fits: impl Fn() -> bool) -> bool {
    std::future::poll_fn(|context: &mut Context<'_>| match connection.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(true),
        Poll::Pending if fits() => Poll::Pending,
        Poll::Pending => Poll::Ready(false),
    })
    .await
}

/// What is sent on one connection.
#[derive(Default)]
pub(super) struct Load {
    /// Whether the last answer was a large one: the next is likely to be, and even its beginning shall not be in the way.
    last: AtomicBool,
    /// How many large answers are being sent.
    large: AtomicUsize,
}

impl Load {
    fn is_large(&self) -> bool {
        self.last.load(Ordering::Relaxed) || self.large.load(Ordering::Relaxed) > 0
    }

    /// Notes an answer; a large one counts until its body is sent or dropped.
    pub(super) fn count(self: &Arc<Self>, response: Response<Body>) -> Response<Body> {
        let is_large = response.extensions().get::<IsLarge>().is_some();
        self.last.store(is_large, Ordering::Relaxed);
        if !is_large {
            return response;
        }
        self.large.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(self.clone());
        response.map(|body| {
            let held = move |frame| {
                let _ = &counted;
                frame
            };
            body.map_frame(held).boxed_unsync()
        })
    }
}

struct Counted(Arc<Load>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.large.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use parking_lot::Mutex;
    use skiff_meta::world::RealWorld;

    use super::*;
    use crate::respond::body::full;

    fn answer(is_large: bool) -> Response<Body> {
        let mut response = Response::new(full(Bytes::from_static(b"x")));
        if is_large {
            response.extensions_mut().insert(IsLarge);
        }
        response
    }

    fn lane() -> &'static str {
        if std::thread::current().name() == Some(BACK) { "back" } else { "front" }
    }

    #[tokio::test]
    async fn a_connection_runs_where_its_answers_belong() {
        let (lanes, load) = (Arc::new(Lanes::new()), Arc::new(Load::default()));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let connection = {
            let (seen, load, lanes) = (seen.clone(), load.clone(), lanes.clone());
            async move {
                let note = || seen.lock().push(lane());
                note();
                let large = load.count(answer(true));
                tokio::task::yield_now().await;
                note();
                // Another one on the same connection, which is answered while the large one is still being sent.
                let small = load.count(answer(false));
                tokio::task::yield_now().await;
                note();
                let task = {
                    let seen = seen.clone();
                    async move { seen.lock().push(lane()) }
                };
                lanes.in_front(|| RealWorld::shared().spawn("of a request", Box::pin(task))).await;
                drop((large, small));
                tokio::task::yield_now().await;
                note();
            }
        };
        lanes.drive(connection, &load).await;
        assert_eq!(*seen.lock(), ["front", "back", "back", "front", "front"]);
    }

    #[test]
    fn the_back_lane_leaves_a_processor_to_the_others() {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        let places = places();
        assert_eq!(places.len(), if all < 2 { 0 } else { all - all.div_ceil(4) });
        // On a thread of its own, which it is to be of.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                give_way(&places);
                let own = sched_getaffinity(None).unwrap();
                assert!(places.is_empty() || own.count() as usize == places.len());
            });
        });
    }

    #[tokio::test]
    async fn who_asked_for_much_last_begins_in_the_back() {
        let load = Arc::new(Load::default());
        drop(load.count(answer(true)));
        assert!(load.is_large());
        drop(load.count(answer(false)));
        assert!(!load.is_large());
    }
}
