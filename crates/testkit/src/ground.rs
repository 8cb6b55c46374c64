//! What every simulated cluster begins with: the store that a first server has filled, and the authorities it did so with.
//! Made once in a process, in a world of its own, and the same for every seed.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use skiff_meta::WorldRef;
use skiff_server::pki::Pki;
use skiff_server::{Api, ServerConfig};
use skiff_store::{KeyRange, MemoryStore, RangeQuery, Store, StoreError, Transaction, Write};

use crate::Sim;
use crate::cluster::StartError;

/// Of the world's time; a server starts in less.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Ground {
    pub(crate) pki: Arc<Pki>,
    pairs: Vec<(Bytes, Bytes)>,
}

impl Ground {
    /// Shared by all.
    pub(crate) fn shared() -> Result<&'static Self, StartError> {
        static SHARED: OnceLock<Result<Ground, String>> = OnceLock::new();
        SHARED
            .get_or_init(|| Self::make().map_err(|error| error.to_string()))
            .as_ref()
            .map_err(|e| StartError::Ground(e.clone()))
    }

    fn make() -> Result<Self, StartError> {
        // No cluster draws the same: names and UIDs would be given twice.
        let sim = Sim::new(u64::MAX);
        let made = sim.run_until(
            async {
                let world = sim.world();
                let store: Arc<dyn Store> = Arc::new(MemoryStore::new(world.clone()));
                let pki = Arc::new(Pki::in_memory(world.now())?);
                let _api = Api::new(ServerConfig::default(), &pki, store.clone(), world).await?;
                let all = RangeQuery { keys: KeyRange::prefix(""), limit: 0, at: None };
                let pairs = store.range(all).await?.items.into_iter().map(|pair| (pair.key, pair.value)).collect();
                Ok(Self { pki, pairs })
            },
            LIMIT,
        );
        made.unwrap_or_else(|stuck| Err(StartError::Ground(stuck.to_string())))
    }

    /// A store in which all that is.
    pub(crate) async fn store(&self, world: WorldRef) -> Result<Arc<dyn Store>, StoreError> {
        let store = Arc::new(MemoryStore::new(world));
        let put = |(key, value): &(Bytes, Bytes)| Write::Put { key: key.clone(), value: value.clone(), lease: 0 };
        let writes = self.pairs.iter().map(put).collect();
        store.commit(Transaction { writes, ..Transaction::default() }).await?;
        Ok(store)
    }
}
