//! Doubt: a request whose answer was lost may have been carried out.
//!
//! Whoever creates objects with generated names and tries again at once would have one too many. The server is asked
//! what there is; once the cache has come as far as the newest of the owner's objects, it is believed again.

use skiff_client::{Api, ClientError, Kind, Selection};

use super::{is_controlled_by, revision_of};

/// A server that cannot be reached at all is no reason to hold up others.
const ATTEMPTS: usize = 5;

/// The revision at which the outcome of a request of `owner` that ended in `error` can be seen; `None`: there is no
/// doubt, or nobody to ask.
pub(crate) async fn seen_at<K: Kind, O: Kind>(api: &Api<K>, owner: &O, error: &ClientError) -> Option<u64> {
    if !matches!(error, ClientError::Transport(_) | ClientError::BadAnswer(_)) {
        return None;
    }
    for _ in 0..ATTEMPTS {
        match api.list(&Selection::default()).await {
            Ok(list) => {
                let ours = list.items.iter().filter(|object| is_controlled_by(*object, owner));
                return ours.map(revision_of).max();
            }
            Err(ClientError::Transport(_)) => {}
            Err(_) => return None,
        }
    }
    None
}
