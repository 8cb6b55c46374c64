//! Changes that the server makes by itself, as a part of a request it has judged already: a binding sets a pod's node,
//! an eviction uses up a budget. They pass no admission and no rules.

use serde_json::Value;
use skiff_meta::partial::{Partial, Wanted};
use skiff_meta::{Object, Status};

use super::{ATTEMPTS, Change, Committed};
use crate::call::Call;
use crate::chain::Extra;

/// Changes the object called `name`, of which `edit` sees what is `wanted`. A refusal by `edit` counts once the cache is known
/// to be fresh.
pub(crate) async fn edit(
    call: &Call,
    name: &str,
    dry_run: bool,
    wanted: &Wanted,
    edit: impl Fn(&mut Value, &Object) -> Result<(), Status>,
) -> Result<(), Status> {
    let mut fresh = false;
    for _ in 0..ATTEMPTS {
        let changed = match call.cached(name)? {
            None => Err(call.not_found(name)),
            Some(old) => {
                let (mut new, rest) = Partial::read(old.canonical(), wanted).map_err(Status::internal)?;
                let edited = edit(&mut new, &old);
                edited.and_then(|()| rest.write(&new).map_err(Status::internal)).map(|new| (old, new))
            }
        };
        let (old, value) = match changed {
            Ok(changed) => changed,
            Err(status) if fresh => return Err(status),
            Err(_) => {
                call.catch_up().await?;
                fresh = true;
                continue;
            }
        };
        if dry_run {
            return Ok(());
        }
        if value == old.canonical() {
            return Ok(());
        }
        let (key, expected) = (call.store_key(name)?, old.revision());
        let change = Change { key, expected, value: Some(value), lease: 0 };
        if let Committed::At(_) = call.commit(&change, Extra::default()).await? {
            return Ok(());
        }
        fresh = true;
    }
    Err(call.too_busy(name))
}
