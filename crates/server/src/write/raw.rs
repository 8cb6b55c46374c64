//! Changes that the server makes by itself, as a part of a request it has judged already: a binding sets a pod's node,
//! an eviction uses up a budget. They pass no admission and no rules.

use serde_json::Value;
use skiff_meta::{Object, Status};

use super::{ATTEMPTS, Change, Committed};
use crate::call::Call;
use crate::chain::Extra;
use crate::tree;

/// Changes the object called `name`. A refusal by `edit` counts once the cache is known to be fresh.
pub(crate) async fn edit(
    call: &Call,
    name: &str,
    dry_run: bool,
    edit: impl Fn(&mut Value, &Object) -> Result<(), Status>,
) -> Result<(), Status> {
    let mut fresh = false;
    for _ in 0..ATTEMPTS {
        let changed = match call.cached(name)? {
            None => Err(call.not_found(name)),
            Some(old) => {
                let mut new = old.to_value().map_err(Status::internal)?;
                edit(&mut new, &old).map(|()| (old, new))
            }
        };
        let (old, mut new) = match changed {
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
        tree::metadata(&mut new).remove("resourceVersion");
        let value = skiff_meta::object::canonical_bytes(&new).map_err(Status::internal)?;
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
