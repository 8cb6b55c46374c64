//! Bootstrap tokens go when their time is over. Nobody is let in by them then anyway; but secrets that nobody needs are
//! better not there.

pub(crate) mod signer;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use skiff_client::{
    After, Change, Client, ClientError, DeleteOptions, Informer, Key, Kind, Selection, Store, WorkQueue, Workers,
};
use skiff_meta::WorldRef;
use skiff_meta::world::Task;

use crate::Context;

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// All bootstrap tokens.
fn tokens(context: &Context) -> Informer<Secret> {
    let selection = Selection { fields: format!("type={TYPE}"), ..Selection::default() };
    context.informers.select::<Secret>(NAMESPACE, selection)
}

/// Starts the cleaner.
pub(crate) fn start(context: &Context, client: Client) -> Vec<Task> {
    let tokens = tokens(context);
    let queue = WorkQueue::new(context.world.clone());
    let to_queue = queue.clone();
    tokens.on(move |change: &Change<'_, Secret>| to_queue.add(change.key(), change.trace));
    let synced = vec![tokens.synced()];
    let workers = Workers { world: context.world.clone(), name: "token-cleaner", count: 1, synced };
    let (world, tokens) = (context.world.clone(), tokens.store());
    workers.start(queue, move |key: Key| {
        let (client, world, tokens) = (client.clone(), world.clone(), tokens.clone());
        async move { reconcile(&client, &world, &tokens, &key).await }
    })
}

async fn reconcile(client: &Client, world: &WorldRef, tokens: &Store<Secret>, key: &Key) -> Result<After, ClientError> {
    let Some(token) = tokens.get_key(key) else { return Ok(After::Change) };
    match left(&token, world.now()) {
        Left::Always => Ok(After::Change),
        Left::For(time) => Ok(After::Delay(time)),
        Left::Nothing => {
            let gone = client.namespaced::<Secret>(NAMESPACE).delete(&key.name, &DeleteOptions::uid(token.uid())).await;
            match gone {
                Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
                _ => Ok(After::Change),
            }
        }
    }
}

/// How long a token is still good for.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    Always,
    For(Duration),
    Nothing,
}

/// A time that nobody can read is over.
fn left(token: &Secret, now: Timestamp) -> Left {
    let said = token.data.as_ref().and_then(|data| data.get("expiration")).filter(|said| !said.0.is_empty());
    let Some(said) = said else { return Left::Always };
    let until = std::str::from_utf8(&said.0).ok().and_then(|text| text.parse::<Timestamp>().ok());
    let time = until.and_then(|until| Duration::try_from(until.duration_since(now)).ok());
    time.filter(|time| !time.is_zero()).map_or(Left::Nothing, Left::For)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn tokens_are_good_until_they_are_not() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (said, expected) in [
            (None, Left::Always),
            (Some(""), Left::Always),
            (Some("2026-01-01T00:00:05Z"), Left::For(Duration::from_secs(5))),
            (Some("2026-01-01T01:00:05+01:00"), Left::For(Duration::from_secs(5))),
            (Some("2026-01-01T00:00:00Z"), Left::Nothing),
            (Some("2025-01-01T00:00:00Z"), Left::Nothing),
            (Some("soon"), Left::Nothing),
        ] {
            let data = said.map(|said| [("expiration".to_owned(), ByteString(said.into()))].into());
            assert_eq!(left(&Secret { data, ..Secret::default() }, now), expected, "{said:?}");
        }
    }
}
