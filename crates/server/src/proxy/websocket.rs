//! Logs and watches over a WebSocket, for browsers: what is told, in messages of its own.
//!
//! The answer is made as it always is; only the way from here to the client differs. Of logs each piece is a message
//! (`httpstream/wsstream` upstream), of watches each event is (`endpoints/handlers/watch.go`).

use base64::Engine;
use bytes::{Buf, BytesMut};
use futures::{SinkExt, Stream, StreamExt};
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
use crate::auth::BEARER_PROTOCOL as BEARER;

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
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
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

/// A log over a WebSocket: an empty message first, as upstream's, then each piece as it comes.
pub(super) fn log(
    headers: &HeaderMap,
    mut body: Body,
    client: Option<OnUpgrade>,
    world: &WorldRef,
) -> Result<Response<Body>, Status> {
    let (protocol, encoding) = negotiate(headers)?;
    let messages = async_stream::stream! {
        yield encoding.message(Bytes::new());
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(bytes) = frame.into_data() {
                yield encoding.message(bytes);
            }
        }
    };
    answer(headers, protocol, client, world, Box::pin(messages))
}

/// A watch over a WebSocket: each event is a message, of text where `text` says that events are lines.
pub(crate) fn watch(
    headers: &HeaderMap,
    mut body: Body,
    text: bool,
    client: Option<OnUpgrade>,
    world: &WorldRef,
) -> Result<Response<Body>, Status> {
    let messages = async_stream::stream! {
        let mut waiting = BytesMut::new();
        while let Some(Ok(frame)) = body.frame().await {
            waiting.extend_from_slice(&frame.into_data().unwrap_or_default());
            while let Some(message) = event(&mut waiting, text) {
                yield message;
            }
        }
    };
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let mut offered = offered.flat_map(|value| value.split(',')).map(str::trim);
    let protocol = offered.find(|name| !name.starts_with(BEARER)).unwrap_or_default();
    answer(headers, protocol, client, world, Box::pin(messages))
}

/// The first whole event: a line, or what four bytes of length stand before.
fn event(waiting: &mut BytesMut, text: bool) -> Option<Message> {
    if text {
        let end = waiting.iter().position(|byte| *byte == b'\n')? + 1;
        let line = waiting.split_to(end);
        return Some(Message::Text(String::from_utf8_lossy(&line).as_ref().into()));
    }
    let length = u32::from_be_bytes(*waiting.first_chunk()?) as usize;
    (waiting.len() >= length + 4).then(|| {
        waiting.advance(4);
        Message::Binary(waiting.split_to(length).freeze())
    })
}

/// Agrees to a WebSocket; the messages go through it once the connection is the client's.
fn answer(
    headers: &HeaderMap,
    protocol: &str,
    client: Option<OnUpgrade>,
    world: &WorldRef,
    messages: impl Stream<Item = Message> + Send + Unpin + 'static,
) -> Result<Response<Body>, Status> {
    let client = client.ok_or_else(|| Status::bad_request("this connection cannot be upgraded"))?;
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| Status::bad_request("missing Sec-WebSocket-Key"))?;
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).map_err(Status::internal)?;
    let sending = async move {
        match client.await {
            Ok(upgraded) => send(upgraded, messages).await,
            Err(error) => tracing::debug!("a stream was not upgraded after all: {error}"),
        }
    };
    world.spawn("websocket", Box::pin(sending));
    let mut response = Response::new(relay::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    fields.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if !protocol.is_empty() {
        fields.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::try_from(protocol).map_err(Status::internal)?);
    }
    Ok(response)
}

/// The messages, and a proper end, which clients take for that of what is told.
async fn send(upgraded: hyper::upgrade::Upgraded, mut messages: impl Stream<Item = Message> + Unpin) {
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    let (mut sink, mut source) = socket.split();
    let mut well = true;
    while well {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) => well = sink.send(message).await.is_ok(),
                None => break,
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

    #[test]
    fn events_are_told_apart() {
        let mut lines = BytesMut::from(&b"{\"a\":1}\n{\"b\""[..]);
        assert_eq!(event(&mut lines, true), Some(Message::Text("{\"a\":1}\n".into())));
        assert_eq!((event(&mut lines, true), &lines[..]), (None, &b"{\"b\""[..]));
        let mut frames = BytesMut::from(&b"\0\0\0\x02ab\0\0\0\x03c"[..]);
        assert_eq!(event(&mut frames, false), Some(Message::Binary(Bytes::from_static(b"ab"))));
        assert_eq!((event(&mut frames, false), frames.len()), (None, 5));
    }
}
