//! The server needs no Tokio runtime: here its tasks run on plain threads, its clock is frozen.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures::future::BoxFuture;
use skiff_meta::World;
use skiff_meta::world::Task;
use skiff_server::pki::Pki;
use skiff_server::{Api, ServerConfig};
use skiff_store::MemoryStore;
use support::{CONFIG_MAPS, Server, config_map};

/// Time stands still, and random numbers count up.
#[derive(Default)]
struct Frozen(AtomicU64);

impl World for Frozen {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }
    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
    #[allow(clippy::disallowed_methods, reason = "this world's tasks are threads")]
    fn spawn(&self, _: &'static str, task: BoxFuture<'static, ()>) -> Task {
        let (done, end) = futures::channel::oneshot::channel::<()>();
        let (task, abort) = futures::future::abortable(task);
        std::thread::spawn(move || {
            let _ = block_on(task);
            let _ = done.send(());
        });
        Task::new(
            move || abort.abort(),
            Box::pin(async move {
                let _ = end.await;
            }),
        )
    }
    fn random(&self) -> u64 {
        self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed)
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn runs_without_tokio() {
    block_on(async {
        let world = Arc::new(Frozen::default());
        let store = Arc::new(MemoryStore::new(world.clone()));
        let pki = Pki::in_memory(world.now()).unwrap();
        let api = Api::new(ServerConfig::default(), &pki, store.clone(), world).await.unwrap();
        let server = Server::of(api, store);
        let mut lines = server.watch(&format!("{CONFIG_MAPS}?watch=1"), "*/*").await;
        let made = server.post(CONFIG_MAPS, &config_map("a", "x")).await.ok();
        assert_eq!(made["metadata"]["creationTimestamp"], "1970-01-01T00:00:00Z");
        while lines.told().await != "ADDED a" {}
    });
}
