//! GET of one object.

use std::time::Duration;

use skiff_meta::Status;

use crate::call::{Answer, Call};
use crate::error;
use crate::request::query::{parse_given_version, parse_version};

/// How long a reader waits for a version it has heard of elsewhere (upstream's figure).
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// The object: the newest, or with `resourceVersion` one not older than that.
pub(crate) async fn get(call: &mut Call) -> Result<Answer, Status> {
    let name = call.target.name.clone();
    let parse = if call.served.resource.habits.cached { parse_version } else { parse_given_version };
    match parse(call.query.text("resourceVersion"))? {
        None => {
            call.catch_up().await?;
        }
        Some(version) => {
            call.api.feed.reach(version, PATIENCE).await.map_err(|late| error::catch_up(&late.into()))?;
        }
    }
    let object = call.cached(&name)?.ok_or_else(|| call.not_found(&name))?;
    Ok(Answer::Object(200, object))
}
