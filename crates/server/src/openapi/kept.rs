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
    use skiff_meta::world::RealWorld;

    use super::*;

    #[test]
    fn a_document_is_written_once_and_none_that_is_not_there() {
        let (kept, world) = (Kept::default(), RealWorld::shared());
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
            assert_eq!(kept.get(&world, "b".to_owned(), || None).await, None);
        });
    }
}
