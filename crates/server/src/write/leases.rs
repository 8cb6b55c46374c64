//! Leases under which short-lived objects (Events) are written.

use std::time::Duration;

use parking_lot::Mutex;
use skiff_meta::{Status, World};
use skiff_store::{LeaseId, Store};

use crate::error;

/// Objects written within this time share a lease and live that much longer at most.
const SHARED: Duration = Duration::from_secs(60);

/// The lease of the moment.
#[derive(Default)]
pub(crate) struct Leases {
    current: Mutex<Option<(LeaseId, Duration)>>,
}

impl Leases {
    /// A lease that ends at least `ttl` from now.
    pub(crate) async fn lease(&self, store: &dyn Store, world: &dyn World, ttl: u64) -> Result<LeaseId, Status> {
        let now = world.elapsed();
        if let Some((lease, until)) = *self.current.lock()
            && now < until
        {
            return Ok(lease);
        }
        let lease = store.grant(Duration::from_secs(ttl) + SHARED).await.map_err(|e| error::store(&e))?;
        *self.current.lock() = Some((lease, now + SHARED));
        Ok(lease)
    }
}
