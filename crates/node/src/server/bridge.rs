//! WebSocket clients and the runtime's SPDY: the channel protocols of remote commands (versions 4 and 5; KEP-4006), and
//! SPDY tunnelled whole for port-forwarding.

use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use skiff_meta::WorldRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::{Message, protocol::Role};

use super::spdy::{self, Frame, Writer};
use super::{Answer, Body, Refusal, refuse, upstream};

const CHANNELS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
const CHUNK: usize = 32 * 1024;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    /// Numbered channels in WebSocket messages.
    Channels(&'static str),
    /// SPDY in WebSocket messages.
    Tunnel(&'static str),
    /// What the runtime itself may understand.
    Other,
}

impl Language {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let is_websocket = headers
            .get(header::UPGRADE)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|v| v.eq_ignore_ascii_case("websocket"));
        if !is_websocket {
            return Self::Other;
        }
        let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
        let offered: Vec<&str> = offered.flat_map(|v| v.split(',')).map(str::trim).collect();
        if offered.contains(&TUNNEL) {
            return Self::Tunnel(TUNNEL);
        }
        CHANNELS.iter().find(|c| offered.contains(c)).map_or(Self::Other, |c| Self::Channels(c))
    }
}

type Client = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;
type Runtime = TokioIo<hyper::upgrade::Upgraded>;

/// Accepts the client's WebSocket; `serve` runs once it stands.
fn accept<F: Future<Output = ()> + Send + 'static>(
    mut request: Request<Incoming>,
    protocol: &'static str,
    world: &WorldRef,
    serve: impl FnOnce(Client) -> F + Send + 'static,
) -> Answer {
    let key = request
        .headers()
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "no Sec-WebSocket-Key"))?;
    let accepted = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    world.spawn(
        "websocket",
        Box::pin(async move {
            match upgrade.await {
                Ok(upgraded) => {
                    serve(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await).await
                }
                Err(error) => tracing::debug!("a WebSocket did not come about: {error}"),
            }
        }),
    );
    let mut response: Response<Body> = super::text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    headers
        .insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accepted).unwrap_or(HeaderValue::from_static("")));
    Ok(response)
}

async fn dial(url: &str, protocol: &'static str, world: &WorldRef) -> Result<Runtime, Refusal> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert("x-stream-protocol-version", HeaderValue::from_static(protocol));
    upstream::upgraded(upstream::dial(url, &headers, world).await?).await
}

/// SPDY within WebSocket: unpacked, and passed on.
pub(super) async fn tunnel(request: Request<Incoming>, url: &str, protocol: &'static str, world: &WorldRef) -> Answer {
    let runtime = dial(url, "portforward.k8s.io", world).await?;
    accept(request, protocol, world, |client| async move {
        let (mut read, mut write) = tokio::io::split(runtime);
        let (mut send, mut receive) = client.split();
        let up = async {
            while let Some(Ok(message)) = receive.next().await {
                match message {
                    Message::Binary(bytes) => write.write_all(&bytes).await?,
                    Message::Close(_) => break,
                    _ => {}
                }
            }
            write.shutdown().await
        };
        let down = async {
            let mut buffer = vec![0; CHUNK];
            loop {
                let count = read.read(&mut buffer).await.unwrap_or(0);
                if count == 0 || send.send(Message::Binary(buffer[..count].to_vec().into())).await.is_err() {
                    break;
                }
            }
            let _ = send.close().await;
        };
        futures::pin_mut!(up, down);
        futures::future::select(up, down).await;
    })
}

/// The SPDY streams of one command.
#[derive(Clone, Copy, Default)]
struct Streams {
    error: u32,
    stdin: Option<u32>,
    stdout: Option<u32>,
    stderr: Option<u32>,
    resize: Option<u32>,
}

impl Streams {
    /// Opens those that are wanted, in the order that the runtime expects; the frames to send.
    fn open(
        writer: &mut Writer,
        (stdin, stdout, stderr, tty): (bool, bool, bool, bool),
    ) -> std::io::Result<(Self, Vec<u8>)> {
        let mut frames = Vec::new();
        let mut open = |kind: &str, wanted: bool| {
            if !wanted {
                return Ok(None);
            }
            let (id, frame) = writer.open(&[("streamtype", kind)])?;
            frames.extend(frame);
            Ok::<_, std::io::Error>(Some(id))
        };
        let error = open("error", true)?.unwrap_or_default();
        let streams = Self {
            error,
            stdin: open("stdin", stdin)?,
            stdout: open("stdout", stdout)?,
            stderr: open("stderr", stderr)?,
            resize: open("resize", tty)?,
        };
        Ok((streams, frames))
    }

    fn channel(&self, stream: u32) -> Option<u8> {
        let is = |id: Option<u32>| id == Some(stream);
        match stream {
            id if id == self.error => Some(ERROR),
            _ if is(self.stdout) => Some(STDOUT),
            _ if is(self.stderr) => Some(STDERR),
            _ => None,
        }
    }

    /// The frame for a message of the client, if it means anything.
    fn frame(&self, message: &[u8]) -> Option<Vec<u8>> {
        match message.split_first()? {
            (&STDIN, bytes) => Some(spdy::data(self.stdin?, bytes, false)),
            (&RESIZE, bytes) => Some(spdy::data(self.resize?, bytes, false)),
            (&CLOSE, [STDIN]) => Some(spdy::data(self.stdin?, &[], true)),
            _ => None,
        }
    }
}

/// A remote command's channels, translated.
pub(super) async fn channels(
    request: Request<Incoming>,
    url: &str,
    protocol: &'static str,
    streams: (bool, bool, bool, bool),
    world: &WorldRef,
) -> Answer {
    let mut runtime = dial(url, "v4.channel.k8s.io", world).await?;
    let failed = |e: std::io::Error| refuse(StatusCode::BAD_GATEWAY, format!("the runtime's stream broke off: {e}"));
    let (streams, frames) = Streams::open(&mut Writer::new(), streams).map_err(failed)?;
    runtime.write_all(&frames).await.map_err(failed)?;
    accept(request, protocol, world, move |client| async move {
        if let Err(error) = relay(client, runtime, streams).await {
            tracing::debug!("a remote command's stream ended: {error}");
        }
    })
}

async fn relay(client: Client, runtime: Runtime, streams: Streams) -> std::io::Result<()> {
    let (mut read, mut write) = tokio::io::split(runtime);
    let (mut send, mut receive) = client.split();
    let broken = |e: tokio_tungstenite::tungstenite::Error| std::io::Error::other(e);
    let (mut chunk, mut buffer) = (vec![0; CHUNK], Vec::new());
    let mut open: Vec<u32> = [Some(streams.error), streams.stdout, streams.stderr].into_iter().flatten().collect();
    while !open.is_empty() {
        tokio::select! {
            message = receive.next() => match message {
                Some(Ok(Message::Binary(message))) => {
                    if let Some(frame) = streams.frame(&message) {
                        write.write_all(&frame).await?;
                    }
                }
                None | Some(Ok(Message::Close(_)) | Err(_)) => return write.shutdown().await,
                Some(Ok(_)) => {}
            },
            count = read.read(&mut chunk) => {
                let count = count?;
                if count == 0 {
                    break;
                }
                buffer.extend_from_slice(&chunk[..count]);
                while let Some(frame) = spdy::next(&mut buffer) {
                    match frame {
                        Frame::Data { stream, bytes, last } => {
                            if let Some(channel) = streams.channel(stream).filter(|_| !bytes.is_empty()) {
                                let mut message = vec![channel];
                                message.extend(bytes);
                                send.send(Message::Binary(message.into())).await.map_err(broken)?;
                            }
                            if last {
                                open.retain(|id| *id != stream);
                            }
                        }
                        Frame::Ping(id) => write.write_all(&spdy::pong(id)).await?,
                        Frame::Reset(stream) => open.retain(|id| *id != stream),
                        Frame::GoAway => open.clear(),
                        Frame::Other => {}
                    }
                }
            }
        }
    }
    send.close().await.map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages() {
        let of = |upgrade: &str, protocols: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::UPGRADE, upgrade.parse().expect("a value"));
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocols.parse().expect("a value"));
            Language::of(&headers)
        };
        assert_eq!(of("websocket", "v4.channel.k8s.io, v5.channel.k8s.io"), Language::Channels("v5.channel.k8s.io"));
        assert_eq!(of("WebSocket", "v4.channel.k8s.io"), Language::Channels("v4.channel.k8s.io"));
        assert_eq!(of("websocket", TUNNEL), Language::Tunnel(TUNNEL));
        assert_eq!(of("SPDY/3.1", "v4.channel.k8s.io"), Language::Other);
    }

    #[test]
    fn messages_become_frames() {
        let streams = Streams { error: 1, stdin: Some(3), stdout: Some(5), stderr: None, resize: None };
        assert_eq!(streams.frame(&[STDIN, b'x']), Some(spdy::data(3, b"x", false)));
        assert_eq!(streams.frame(&[CLOSE, STDIN]), Some(spdy::data(3, b"", true)));
        assert_eq!(streams.frame(&[RESIZE, b'{']), None, "no terminal, no size");
        assert_eq!(streams.frame(&[]), None);
        assert_eq!((streams.channel(5), streams.channel(1), streams.channel(9)), (Some(STDOUT), Some(ERROR), None));
    }
}
