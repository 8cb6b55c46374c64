//! Logs over a WebSocket, for browsers: what the node tells, in messages of its own (`httpstream/wsstream` upstream).
//!
//! The node answers as it always does; only the way from here to the client differs.

use base64::Engine;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use skiff_client::Body;
use skiff_meta::{Status, WorldRef};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::relay;

/// How bytes become messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Binary,
    Base64,
}

impl Encoding {
    fn message(self, bytes: Bytes) -> Message {
        match self {
            Self::Binary => Message::Binary(bytes),
            Self::Base64 => Message::Text(base64::engine::general_purpose::STANDARD.encode(bytes).into()),
        }
    }
}

/// Whether the client wants a WebSocket.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok());
    relay::wants_upgrade(headers) && upgrade.is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
}

/// The first subprotocol the client offers that we speak, with its encoding; none offered: none named.
fn negotiate(headers: &HeaderMap) -> Result<(&'static str, Encoding), Status> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
    let spoken = [("binary.k8s.io", Encoding::Binary), ("base64.binary.k8s.io", Encoding::Base64)];
    let found = offered.iter().find_map(|name| spoken.into_iter().find(|(known, _)| known == name));
    match found {
        None if offered.is_empty() => Ok(("", Encoding::Binary)),
        None => Err(Status::bad_request(format!("requested protocol(s) are not supported: {offered:?}"))),
        Some(found) => Ok(found),
    }
}

/// Agrees to a WebSocket; `body` goes through it once the connection is the client's.
pub(super) fn answer(
    headers: &HeaderMap,
    body: Body,
    client: Option<OnUpgrade>,
    world: &WorldRef,
) -> Result<Response<Body>, Status> {
    let (protocol, encoding) = negotiate(headers)?;
    let client = client.ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| Status::bad_request("missing Sec-WebSocket-Key"))?;
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(Status::internal)?;
    let sending = async move {
        match client.await {
            Ok(upgraded) => send(upgraded, body, encoding).await,
            Err(error) => tracing::debug!("a stream was not upgraded after all: {error}"),
        }
    };
    world.spawn("log-websocket", Box::pin(sending));
    let mut response = Response::new(relay::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if !protocol.is_empty() {
        fields.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok(response)
}

/// An empty message first, as upstream's; then the body; then a proper end, which clients take for the log's.
async fn send(upgraded: hyper::upgrade::Upgraded, mut body: Body, encoding: Encoding) {
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    let (mut sink, mut source) = socket.split();
    let mut well = sink.send(encoding.message(Bytes::new())).await.is_ok();
    while well {
        tokio::select! {
            frame = body.frame() => match frame.map(|frame| frame.map(http_body::Frame::into_data)) {
                Some(Ok(Ok(bytes))) => well = sink.send(encoding.message(bytes)).await.is_ok(),
                Some(Ok(Err(_))) => {}
                Some(Err(_)) | None => break,
            },
            // The client has nothing to say but that it leaves.
            said = source.next() => well = matches!(said, Some(Ok(message)) if !message.is_close()),
        }
    }
    let end = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    // One that has gone already needs no farewell.
    let _ = sink.send(Message::Close(Some(end))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subprotocols() {
        for (offered, expected) in [
            (None, Ok(("", Encoding::Binary))),
            (Some("binary.k8s.io"), Ok(("binary.k8s.io", Encoding::Binary))),
            (Some("other, base64.binary.k8s.io"), Ok(("base64.binary.k8s.io", Encoding::Base64))),
            (Some("other"), Err(400)),
        ] {
            let mut headers = HeaderMap::new();
            offered.map(|value| headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(value)));
            assert_eq!(negotiate(&headers).map_err(|status| status.code), expected, "{offered:?}");
        }
        assert_eq!(Encoding::Base64.message(Bytes::from_static(b"hi")), Message::Text("aGk=".into()));
    }
}
