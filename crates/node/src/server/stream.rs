//! Exec, attach and port-forward: between the client's connection, which the API server passes through to us, and the
//! runtime's streaming server.
//!
//! That server speaks SPDY/3.1. Clients that do so too are connected to it as they are. Today's clients speak
//! WebSockets: for exec and attach, whose channels are translated to streams one by one (with an end of input, which
//! only version 5 of the protocol has), and for port-forward as a tunnel for SPDY itself, which is unpacked.

use std::sync::Arc;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use skiff_client::ws;
use skiff_client::ws::channel::{CLOSE, ERROR, RESIZE, STDERR, STDIN, STDOUT};
use skiff_cri::v1::{
    AttachRequest, ContainerFilter, ContainerState, ContainerStateValue, ExecRequest, PodSandboxFilter,
    PodSandboxState, PodSandboxStateValue,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::query::Query;
use super::spdy::{self, Said, Sender};
use super::{Body, Context, Refusal, websocket};
use crate::node::Node;
use crate::pod::facts::{self, key};

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const SPDY: &str = "SPDY/3.1";
/// What the runtime's server is asked for.
const RUNTIME_EXEC: &str = "v4.channel.k8s.io";
const RUNTIME_FORWARD: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Which streams a client wants.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Wanted {
    fn read(query: &Query) -> Result<Self, Refusal> {
        let tty = query.flag("tty");
        let wanted = Self {
            stdin: query.flag("input") || query.flag("stdin"),
            stdout: query.flag("output") || query.flag("stdout"),
            // A terminal has one output.
            stderr: (query.flag("error") || query.flag("stderr")) && !tty,
            tty,
        };
        if !wanted.stdin && !wanted.stdout && !wanted.stderr {
            return Err(Refusal::bad("you must specify at least 1 of stdin, stdout, stderr"));
        }
        Ok(wanted)
    }

    /// The streams to open at the runtime, in the order its server expects, with their channels.
    fn streams(self) -> impl Iterator<Item = (&'static str, u8)> {
        let wanted = [
            ("error", ERROR, true),
            ("stdin", STDIN, self.stdin),
            ("stdout", STDOUT, self.stdout),
            ("stderr", STDERR, self.stderr),
            ("resize", RESIZE, self.tty),
        ];
        wanted.into_iter().filter(|(.., wanted)| *wanted).map(|(name, channel, _)| (name, channel))
    }
}

/// Runs a command in a container.
pub(super) async fn exec(
    context: &Arc<Context>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let wanted = Wanted::read(query)?;
    let container_id = running_container(context, namespace, pod, container).await?;
    let Wanted { stdin, stdout, stderr, tty } = wanted;
    let cmd = query.all("command").map(str::to_owned).collect();
    let asked = context.node.runtime.exec(ExecRequest { container_id, cmd, tty, stdin, stdout, stderr }).await;
    let url = asked.map_err(|error| Refusal::internal(error.to_string()))?;
    channels(&context.node, wanted, &url, request).await
}

/// Connects to the main process of a container.
pub(super) async fn attach(
    context: &Arc<Context>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let wanted = Wanted::read(query)?;
    let container_id = running_container(context, namespace, pod, container).await?;
    let Wanted { stdin, stdout, stderr, tty } = wanted;
    let asked = context.node.runtime.attach(AttachRequest { container_id, stdin, tty, stdout, stderr }).await;
    let url = asked.map_err(|error| Refusal::internal(error.to_string()))?;
    channels(&context.node, wanted, &url, request).await
}

/// Connects to ports of a pod.
pub(super) async fn port_forward(
    context: &Arc<Context>,
    namespace: &str,
    pod: &str,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let found = find(context, namespace, pod)?;
    let labels = [(key::POD_UID.to_owned(), facts::uid(&found).to_owned())];
    let ready = PodSandboxStateValue { state: PodSandboxState::SandboxReady.into() };
    let filter = PodSandboxFilter { label_selector: labels.into(), state: Some(ready), ..PodSandboxFilter::default() };
    let sandboxes = context.node.runtime.list_pod_sandboxes(filter).await;
    let sandboxes = sandboxes.map_err(|error| Refusal::internal(error.to_string()))?;
    let newest = sandboxes.into_iter().max_by_key(|sandbox| sandbox.created_at);
    let sandbox = newest.ok_or_else(|| Refusal::bad(format!("pod {pod:?} is not running")))?;
    let ports = ports(query)?;
    let asked = context.node.runtime.port_forward(&sandbox.id, ports).await;
    let url = asked.map_err(|error| Refusal::internal(error.to_string()))?;
    let tunnelled = websocket::offered(request.headers()).iter().any(|protocol| protocol == TUNNEL);
    if tunnelled { tunnel(&context.node, &url, request).await } else { relay(&context.node, &url, request).await }
}

/// Ports in a query, those of one value with commas between them. Only WebSockets name them beforehand.
fn ports(query: &Query) -> Result<Vec<i32>, Refusal> {
    let bad = |text: &str| Refusal::bad(format!("invalid port {text:?}"));
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).map(i32::from).ok_or_else(|| bad(text));
    query.all("port").flat_map(|ports| ports.split(',')).map(number).collect()
}

fn find(context: &Context, namespace: &str, pod: &str) -> Result<Arc<Pod>, Refusal> {
    let found = context.manager.find(namespace, pod);
    found.ok_or_else(|| Refusal::not_found("pod does not exist"))
}

async fn running_container(context: &Context, namespace: &str, pod: &str, container: &str) -> Result<String, Refusal> {
    let found = find(context, namespace, pod)?;
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let labels = [label(key::POD_UID, facts::uid(&found)), label(key::CONTAINER_NAME, container)];
    let running = ContainerStateValue { state: ContainerState::ContainerRunning.into() };
    let filter = ContainerFilter { label_selector: labels.into(), state: Some(running), ..ContainerFilter::default() };
    let listed = context.node.runtime.list_containers(filter).await;
    let listed = listed.map_err(|error| Refusal::internal(error.to_string()))?;
    let newest = listed.into_iter().max_by_key(|container| container.created_at);
    newest
        .map(|container| container.id)
        .ok_or_else(|| Refusal::not_found(format!("container not found ({container:?})")))
}

/// A connection to the runtime's streaming server, and its answer to `request`.
async fn dial(node: &Node, url: &str, mut request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, Refusal> {
    let failed = |error: &dyn std::fmt::Display| Refusal::internal(format!("the runtime's streaming server: {error}"));
    let uri: Uri = url.parse().map_err(|error| failed(&error))?;
    let authority = uri.authority().ok_or_else(|| failed(&"its address has no host"))?;
    let stream = TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80))).await;
    let stream = stream.map_err(|error| failed(&error))?;
    stream.set_nodelay(true).map_err(|error| failed(&error))?;
    let host = HeaderValue::try_from(authority.as_str()).map_err(|error| failed(&error))?;
    request.headers_mut().insert(header::HOST, host);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().map_err(|error| failed(&error))?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
    let drive = async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!("a stream of the runtime broke off: {error}");
        }
    };
    drop(node.world.spawn("runtime stream", Box::pin(drive)));
    sender.send_request(request).await.map_err(|error| failed(&error))
}

/// An SPDY connection to the runtime's streaming server.
async fn spdy_connection(node: &Node, url: &str, protocol: &'static str) -> Result<TokioIo<Upgraded>, Refusal> {
    let mut request = Request::new(Empty::new());
    *request.method_mut() = Method::POST;
    let fields = request.headers_mut();
    fields.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
    fields.insert(PROTOCOL_VERSION, HeaderValue::from_static(protocol));
    let mut answer = dial(node, url, request).await?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        let code = answer.status();
        let body = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let words = String::from_utf8_lossy(&body).trim().to_owned();
        return Err(Refusal::internal(format!("the runtime's streaming server answered {code}: {words}")));
    }
    let upgraded = hyper::upgrade::on(&mut answer).await;
    upgraded.map(TokioIo::new).map_err(|error| Refusal::internal(error.to_string()))
}

/// Connects a client that speaks the same as the runtime's server, whatever that is.
async fn relay(node: &Arc<Node>, url: &str, mut request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let mut forwarded = Request::new(Empty::new());
    *forwarded.method_mut() = request.method().clone();
    let spoken = request.headers().iter().filter(|(name, _)| {
        let name = name.as_str();
        matches!(name, "connection" | "upgrade" | "x-stream-protocol-version") || name.starts_with("sec-websocket-")
    });
    for (name, value) in spoken {
        forwarded.headers_mut().append(name, value.clone());
    }
    let mut answer = dial(node, url, forwarded).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let (client, runtime) = (hyper::upgrade::on(&mut request), hyper::upgrade::on(&mut answer));
        let copy = async move {
            let Ok((client, runtime)) = futures::future::try_join(client, runtime).await else { return };
            // Either side may end it at any time; that is no fault.
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(runtime)).await;
        };
        drop(node.world.spawn("stream", Box::pin(copy)));
    }
    let (parts, body) = answer.into_parts();
    Ok(Response::from_parts(parts, body.map_err(std::io::Error::other).boxed_unsync()))
}

/// SPDY in a WebSocket: its messages are pieces of the connection.
async fn tunnel(node: &Arc<Node>, url: &str, mut request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let runtime = spdy_connection(node, url, RUNTIME_FORWARD).await?;
    let answer = websocket::agree(request.headers(), TUNNEL)?;
    let client = hyper::upgrade::on(&mut request);
    let copy = async move {
        let Ok(client) = client.await else { return };
        let (mut to_client, mut from_client) = websocket::socket(client).await.split();
        let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
        let inward = async {
            while let Some(bytes) = websocket::next(&mut from_client).await {
                if to_runtime.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        };
        let outward = async {
            let mut buffer = vec![0; 32 * 1024];
            while let Ok(count @ 1..) = from_runtime.read(&mut buffer).await {
                let piece = Bytes::copy_from_slice(&buffer[..count]);
                if to_client.send(Message::Binary(piece)).await.is_err() {
                    break;
                }
            }
            // The client may be gone already.
            let _ = to_client.send(websocket::farewell()).await;
        };
        tokio::select! {
            () = inward => {}
            () = outward => {}
        }
    };
    drop(node.world.spawn("port forward", Box::pin(copy)));
    Ok(answer)
}

/// Exec and attach.
async fn channels(
    node: &Arc<Node>,
    wanted: Wanted,
    url: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    if !websocket::wants(request.headers(), "websocket") {
        return relay(node, url, request).await;
    }
    let offered = websocket::offered(request.headers());
    let Some(protocol) = ws::COMMANDS.into_iter().find(|known| offered.iter().any(|offer| offer == known)) else {
        return relay(node, url, request).await;
    };
    let runtime = spdy_connection(node, url, RUNTIME_EXEC).await?;
    let answer = websocket::agree(request.headers(), protocol)?;
    let client = hyper::upgrade::on(&mut request);
    let translate = async move {
        match client.await {
            Ok(client) => translate(websocket::socket(client).await, runtime, wanted).await,
            Err(error) => tracing::debug!("a stream was not upgraded after all: {error}"),
        }
    };
    drop(node.world.spawn("exec", Box::pin(translate)));
    Ok(answer)
}

/// Channels of the WebSocket to streams of the runtime and back, until the runtime has said all.
async fn translate(client: websocket::Socket, runtime: TokioIo<Upgraded>, wanted: Wanted) {
    let (mut to_client, mut from_client) = client.split();
    let (mut from_runtime, to_runtime) = tokio::io::split(runtime);
    let mut to_runtime = Sender::new(to_runtime);
    let mut streams = Vec::new();
    for (name, channel) in wanted.streams() {
        match to_runtime.open(&[("streamtype", name)]).await {
            Ok(stream) => streams.push((channel, stream)),
            Err(error) => return tracing::debug!("a stream of the runtime was not opened: {error}"),
        }
    }
    let stream_of = |wanted: u8| streams.iter().find(|(channel, _)| *channel == wanted).map(|(_, stream)| *stream);
    // An empty message tells the client that the way is open.
    let first = if wanted.stdout {
        STDOUT
    } else if wanted.stderr {
        STDERR
    } else {
        ERROR
    };
    if !websocket::send(&mut to_client, first, &[]).await {
        return;
    }
    let (pings, mut pinged) = tokio::sync::mpsc::channel(4);
    let inward = async {
        loop {
            tokio::select! {
                message = websocket::next(&mut from_client) => {
                    let Some(message) = message else { return };
                    if pass(&mut to_runtime, &message, stream_of).await.is_err() {
                        return;
                    }
                }
                Some(id) = pinged.recv() => drop(to_runtime.pong(id).await),
            }
        }
    };
    let outward = async {
        // Input and terminal sizes are not answered.
        let mut open: Vec<(u8, u32)> =
            streams.iter().filter(|(channel, _)| !matches!(*channel, STDIN | RESIZE)).copied().collect();
        while !open.is_empty() {
            match spdy::receive(&mut from_runtime).await {
                Ok(Said::Data { stream, bytes, last }) => {
                    let channel = open.iter().find(|(_, of)| *of == stream).map(|(channel, _)| *channel);
                    if let Some(channel) = channel.filter(|_| !bytes.is_empty())
                        && !websocket::send(&mut to_client, channel, &bytes).await
                    {
                        return;
                    }
                    if last {
                        open.retain(|(_, of)| *of != stream);
                    }
                }
                Ok(Said::Reset { stream }) => open.retain(|(_, of)| *of != stream),
                Ok(Said::Ping(id)) => drop(pings.send(id).await),
                Ok(Said::Other) => {}
                Ok(Said::Gone) | Err(_) => break,
            }
        }
        // The client may be gone already.
        let _ = to_client.send(websocket::farewell()).await;
    };
    tokio::pin!(inward, outward);
    tokio::select! {
        () = &mut outward => {}
        // A client that leaves takes its command's streams with it.
        () = &mut inward => {}
    }
}

/// One message of the client.
async fn pass<W: tokio::io::AsyncWrite + Unpin>(
    to_runtime: &mut Sender<W>,
    message: &[u8],
    stream_of: impl Fn(u8) -> Option<u32>,
) -> std::io::Result<()> {
    match message {
        [CLOSE, channel, ..] => match stream_of(*channel) {
            Some(stream) => to_runtime.data(stream, &[], true).await,
            None => Ok(()),
        },
        [channel @ (STDIN | RESIZE), bytes @ ..] if !bytes.is_empty() => match stream_of(*channel) {
            Some(stream) => to_runtime.data(stream, bytes, false).await,
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_those_asked_for() {
        let names = |text: &str| -> Vec<&str> {
            Wanted::read(&Query::parse(text)).expect("wanted").streams().map(|(name, _)| name).collect()
        };
        assert_eq!(names("output=1&error=1"), ["error", "stdout", "stderr"]);
        assert_eq!(names("input=1&output=1&error=1&tty=1"), ["error", "stdin", "stdout", "resize"]);
        assert!(Wanted::read(&Query::parse("tty=1")).is_err());
    }

    #[test]
    fn ports_are_read() {
        for (text, expected) in
            [("", Some(vec![])), ("port=80", Some(vec![80])), ("port=80%2C81&port=8", Some(vec![80, 81, 8]))]
        {
            assert_eq!(ports(&Query::parse(text)).ok(), expected, "{text}");
        }
        for text in ["port=0", "port=x", "port=80%2C", "port=70000"] {
            assert!(ports(&Query::parse(text)).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn an_end_of_input_is_passed_on() {
        let mut wire = Vec::new();
        let mut sender = Sender::new(&mut wire);
        let stream_of = |channel| (channel == STDIN).then_some(3);
        for message in [&[STDIN, b'a'][..], &[RESIZE, b'{'], &[CLOSE, STDIN], &[STDOUT, b'x'], &[]] {
            pass(&mut sender, message, stream_of).await.expect("passed");
        }
        assert_eq!(wire, [&[0, 0, 0, 3, 0, 0, 0, 1, b'a'][..], &[0, 0, 0, 3, 1, 0, 0, 0]].concat());
    }
}
