//! Passing a request on and its answer back, streams included.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use skiff_client::Body;
use skiff_meta::WorldRef;

use super::ProxyError;
use super::location::Location;

/// Headers that concern one connection only (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Whether the client wants to leave HTTP behind.
pub(super) fn wants_upgrade(headers: &HeaderMap) -> bool {
    let connection = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    connection.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("upgrade"))
}

/// The request as the other side gets it: without what is between the client and us.
pub(super) fn outbound(location: &Location, request: Request<Body>) -> Result<Request<Body>, ProxyError> {
    let (mut parts, body) = request.into_parts();
    parts.uri = location.path.parse::<Uri>().map_err(|e| ProxyError::Bad(e.to_string()))?;
    let upgrade = wants_upgrade(&parts.headers).then(|| parts.headers.get(header::UPGRADE).cloned()).flatten();
    strip(&mut parts.headers);
    if let Some(upgrade) = upgrade {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(header::UPGRADE, upgrade);
    }
    // Who the client is stays here; we speak for ourselves from now on.
    parts.headers.remove(header::AUTHORIZATION);
    let impersonation: Vec<HeaderName> =
        parts.headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    impersonation.iter().for_each(|name| drop(parts.headers.remove(name)));
    let host = HeaderValue::from_str(&location.authority()).map_err(|e| ProxyError::Bad(e.to_string()))?;
    parts.headers.insert(header::HOST, host);
    parts.extensions.clear();
    parts.version = http::Version::HTTP_11;
    Ok(Request::from_parts(parts, body))
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// A plain answer, its body as it comes.
pub(super) fn inbound(answer: Response<Incoming>) -> Response<Body> {
    let (mut parts, body) = answer.into_parts();
    strip(&mut parts.headers);
    parts.extensions.clear();
    parts.version = http::Version::default();
    Response::from_parts(parts, body.map_err(|e| Box::new(e) as skiff_client::BodyError).boxed_unsync())
}

/// The answer to a request for an upgrade: when the other side agrees, bytes are copied both ways until both are done.
pub(super) fn upgrade(
    mut answer: Response<Incoming>,
    client: Option<OnUpgrade>,
    world: &WorldRef,
) -> Result<Response<Body>, ProxyError> {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(inbound(answer));
    }
    let client = client.ok_or_else(|| ProxyError::Bad("this connection cannot be upgraded".to_owned()))?;
    let node = hyper::upgrade::on(&mut answer);
    let copying = async move {
        match futures::future::try_join(client, node).await {
            Ok((client, node)) => copy(TokioIo::new(client), TokioIo::new(node)).await,
            Err(error) => tracing::debug!("a stream was not upgraded after all: {error}"),
        }
    };
    world.spawn("stream-relay", Box::pin(copying));
    let (mut parts, _) = answer.into_parts();
    parts.extensions.clear();
    parts.version = http::Version::HTTP_11;
    Ok(Response::from_parts(parts, empty()))
}

async fn copy<A, B>(mut client: A, mut node: B)
where
    A: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    B: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    // A side that breaks off is the ordinary end of an exec whose window was closed.
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut node).await {
        tracing::debug!("a stream broke off: {error}");
    }
}

/// A body without bytes.
pub(super) fn empty() -> Body {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A path up to and including `/proxy`, and what follows it, its leading slash included.
pub(super) fn split_path(path: &str, namespaced: bool) -> (&str, &str) {
    // /api/v1/nodes/NAME/proxy or /api/v1/namespaces/NAMESPACE/pods/NAME/proxy
    let segments = if namespaced { 7 } else { 5 };
    let end = path.match_indices('/').nth(segments).map_or(path.len(), |(at, _)| at);
    path.split_at(end)
}

/// Proxied pages link relative to themselves, which needs the slash at the end.
pub(super) fn slash_redirect(method: &Method, uri: &Uri, rest: &str) -> Option<Response<Body>> {
    if !rest.is_empty() || !matches!(*method, Method::GET | Method::HEAD) {
        return None;
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = HeaderValue::from_str(&format!("{}/{query}", uri.path())).ok()?;
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, location);
    Some(response)
}
