//! Reading a request's body.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use skiff_client::Body;
use skiff_meta::Status;

/// Upstream's limit for the bodies of writes.
const LIMIT: usize = 3 << 20;

/// The whole body.
///
/// # Errors
/// 413 when it is over 3 MiB, 400 when the connection breaks.
pub(crate) async fn read(body: Body) -> Result<Bytes, Status> {
    let too_large = || Status::too_large(format!("Request entity too large: limit is {LIMIT}"));
    if body.size_hint().lower() > LIMIT as u64 {
        return Err(too_large());
    }
    let mut body = body;
    let mut whole: Option<BytesMut> = None;
    let mut first = Bytes::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Status::bad_request(format!("the body broke off: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        match &mut whole {
            // Most bodies come in one piece and need no copy.
            None if first.is_empty() => first = data,
            None => {
                let mut all = BytesMut::from(&first[..]);
                all.extend_from_slice(&data);
                whole = Some(all);
            }
            Some(all) => all.extend_from_slice(&data),
        }
        if whole.as_ref().map_or(first.len(), BytesMut::len) > LIMIT {
            return Err(too_large());
        }
    }
    Ok(whole.map_or(first, BytesMut::freeze))
}

/// `Content-Type` without parameters, empty when missing.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let text = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim()
}
