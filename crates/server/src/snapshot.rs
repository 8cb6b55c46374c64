//! The whole state as one file, for `skiff snapshot save`.
//!
//! A path that is no resource, so nobody may read it who is not a cluster administrator (or was given the path itself):
//! all secrets are in it, and so are the cluster's keys.

use futures::TryStreamExt;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use skiff_client::{Body, BodyError};
use skiff_meta::Status;

use crate::api::Api;
use crate::error;
use crate::pki::IRREPLACEABLE;

/// Where it is.
pub const PATH: &str = "/skiff/snapshot";

/// Streams the state as it is now, and the keys that cannot be made anew.
pub(crate) async fn save(api: &Api) -> Result<Response<Body>, Status> {
    let mut files = Vec::new();
    for name in IRREPLACEABLE {
        let Some(data) = &api.config.data_dir else { break };
        match std::fs::read(data.join("pki").join(name)) {
            Ok(content) => files.push((format!("pki/{name}"), content.into())),
            // Keys that live in memory are nobody's to save.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Status::internal(format!("pki/{name}: {error}"))),
        }
    }
    let snapshot = api.store.snapshot(files).await.map_err(|e| error::store(&e))?;
    let frames = snapshot.map_ok(Frame::data).map_err(BodyError::from);
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let content_type = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}
