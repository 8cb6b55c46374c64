//! DELETE of a collection: each object that is selected, one by one, not atomically (as upstream).

use std::sync::Arc;

use futures::StreamExt;
use skiff_meta::{Object, Status};

use super::list::{Found, find};
use crate::call::{Answer, Call, Payload};
use crate::request::ListOptions;
use crate::respond::list::{Items, Page, page};
use crate::select::Selection;
use crate::write::remove::{DeleteOptions, remove};

/// Deletes in flight at a time.
const TOGETHER: usize = 32;

/// Deletes all that is selected and answers with what was found.
pub(crate) async fn delete_collection(call: &mut Call, payload: Payload) -> Result<Answer, Status> {
    let list_options = ListOptions::parse(&call.query)?;
    let cache = call.cache()?;
    Selection::new(&call.served, &cache, call.namespace(), &list_options)?;
    let options = super::delete::options(call, &payload)?;
    super::delete::warn(call, &options);
    let Found::Page(found) = find(call, &list_options).await? else {
        return Err(Status::expired("The provided continue parameter is too old."));
    };
    let (revision, objects) = (found.revision, found.items.into_objects());
    let deletes: Vec<_> = objects.iter().map(|o| one(call.copy(), o.clone(), options.clone())).collect();
    let results: Vec<Result<(), Status>> = futures::stream::iter(deletes).buffer_unordered(TOGETHER).collect().await;
    results.into_iter().collect::<Result<(), Status>>()?;
    let items = Items::Picked(objects);
    let whole = Page { items, revision, continue_token: String::new(), remaining: None };
    Ok(Answer::Raw(page(call, whole)?))
}

async fn one(mut call: Call, object: Arc<Object>, options: DeleteOptions) -> Result<(), Status> {
    call.target.namespace.clone_from(&object.meta().namespace);
    match remove(&mut call, &object.meta().name, &options).await {
        Err(status) if !status.is("NotFound") => Err(status),
        _ => Ok(()),
    }
}
