//! Documents that were asked for a moment ago. Writing a large one costs a processor some time, and clients that start
//! together ask for the same ones: one of them waits for it to be written, the others for him.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use skiff_meta::WorldRef;
use tokio::sync::Mutex;

/// How long documents are kept: an idle server keeps none.
const WHILE: Duration = Duration::from_secs(30);

/// Written documents, by form and hash.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<HashMap<String, Bytes>>>);

impl Kept {
    /// The document called `name`, written if it is not kept; `None` where there is none of this name.
    pub(crate) async fn get(
        &self,
        world: &WorldRef,
        name: String,
        write: impl FnOnce() -> Option<Bytes> + Send,
    ) -> Option<Bytes> {
        let mut documents = self.0.lock().await;
        if let Some(kept) = documents.get(&name) {
            return Some(kept.clone());
        }
        let written = write()?;
        if documents.is_empty() {
            let (all, end) = (self.0.clone(), world.sleep(WHILE));
            let forget = async move {
                end.await;
                all.lock().await.clear();
            };
            drop(world.spawn("openapi documents", forget.boxed()));
        }
        documents.insert(name, written.clone());
        Some(written)
    }
}

#[cfg(test)]
mod tests {
    use futures::future::BoxFuture;
    use jiff::Timestamp;
    use skiff_meta::World;
    use skiff_meta::world::{RealWorld, Task};
    use tokio::sync::Notify;

    use super::*;

    /// The real world, but for its clock, which the test moves on.
    struct Waiting(WorldRef, Arc<Notify>);

    impl World for Waiting {
        fn now(&self) -> Timestamp {
            self.0.now()
        }
        fn elapsed(&self) -> Duration {
            self.0.elapsed()
        }
        fn sleep(&self, _duration: Duration) -> BoxFuture<'static, ()> {
            let end = self.1.clone();
            async move { end.notified().await }.boxed()
        }
        fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) -> Task {
            self.0.spawn(name, task)
        }
        fn random(&self) -> u64 {
            self.0.random()
        }
    }

    #[test]
    fn a_document_is_written_once_and_none_that_is_not_there() {
        let (kept, end) = (Kept::default(), Arc::new(Notify::new()));
        let world: WorldRef = Arc::new(Waiting(RealWorld::shared(), end.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut writes = 0;
            for _ in 0..3 {
                let mut write = || {
                    writes += 1;
                    Some(Bytes::from_static(b"a"))
                };
                assert_eq!(kept.get(&world, "a".to_owned(), &mut write).await.as_deref(), Some(&b"a"[..]));
            }
            assert_eq!(writes, 1);
            end.notify_one();
            while !kept.0.lock().await.is_empty() {
                tokio::task::yield_now().await;
            }
            assert_eq!(kept.get(&world, "b".to_owned(), || None).await, None);
        });
    }
}
