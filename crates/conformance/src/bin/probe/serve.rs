//! A server that tells about itself and asks others.
//!
//! | Path | Answer |
//! |---|---|
//! | `/hostname` | the container's host name; so do datagrams |
//! | `/client` | the address that asks |
//! | `/echo` | method, path and query, as they came |
//! | `/get?URL`, `/lookup?NAME` | as the commands |
//! | `/file?PATH`, `/env?NAME` | a file, a variable |
//! | `/healthz` | 200, or 500 after `/fail` until `/mend`; gRPC health checks go by the same |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::BodyExt;
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};

use crate::ask;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How it serves.
pub(crate) struct Options {
    port: u16,
    udp: u16,
    /// Seconds it goes on after it was asked to end.
    linger: u16,
    /// Whether it begins with failing health checks.
    failing: bool,
}

impl Options {
    pub(crate) fn read(flags: &[&str]) -> Result<Self, String> {
        let mut options = Self { port: 8_080, udp: 8_081, linger: 0, failing: false };
        let mut words = flags.iter();
        while let Some(&flag) = words.next() {
            if flag == "--failing" {
                options.failing = true;
                continue;
            }
            let value = words.next().and_then(|value| value.parse().ok()).ok_or_else(|| format!("{flag} NUMBER"))?;
            match flag {
                "--port" => options.port = value,
                "--udp" => options.udp = value,
                "--linger" => options.linger = value,
                _ => return Err(format!("{flag} is not known; --port, --udp, --linger, --failing")),
            }
        }
        Ok(options)
    }
}

pub(crate) async fn run(options: Options) -> Result<(), String> {
    let words = |e: std::io::Error| e.to_string();
    let listener = TcpListener::bind(("::", options.port)).await.map_err(words)?;
    let socket = UdpSocket::bind(("::", options.udp)).await.map_err(words)?;
    let failing = Arc::new(AtomicBool::new(options.failing));
    let mut term = signal(SignalKind::terminate()).map_err(words)?;
    println!("serving");
    tokio::select! {
        () = accept(listener, failing) => {}
        () = datagrams(socket) => {}
        () = async {
            term.recv().await;
            println!("asked to end");
            tokio::time::sleep(Duration::from_secs(options.linger.into())).await;
        } => {}
    }
    Ok(())
}

async fn accept(listener: TcpListener, failing: Arc<AtomicBool>) {
    loop {
        let Ok((stream, from)) = listener.accept().await else { continue };
        let failing = failing.clone();
        tokio::spawn(serve(stream, from, failing));
    }
}

async fn serve(stream: TcpStream, from: SocketAddr, failing: Arc<AtomicBool>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let failing = failing.clone();
        async move {
            // What the caller sends is of no use, but must be taken.
            let (head, body) = request.into_parts();
            let _ = body.collect().await;
            Ok::<_, Infallible>(answer(&head, from, &failing).await)
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
}

async fn answer(head: &http::request::Parts, from: SocketAddr, failing: &AtomicBool) -> Response<Body> {
    let query = head.uri.query().unwrap_or_default();
    let said = match head.uri.path() {
        "/grpc.health.v1.Health/Check" => return health(failing.load(Ordering::Relaxed)),
        "/hostname" => Ok(hostname()),
        "/client" => Ok(from.ip().to_canonical().to_string()),
        "/get" => ask::get(query).await,
        "/lookup" => ask::lookup(query).await.map(|addresses| addresses.join("\n")),
        "/file" => std::fs::read_to_string(query).map_err(|e| e.to_string()),
        "/env" => std::env::var(query).map_err(|e| e.to_string()),
        "/fail" | "/mend" => {
            failing.store(head.uri.path() == "/fail", Ordering::Relaxed);
            Ok(String::new())
        }
        "/healthz" if failing.load(Ordering::Relaxed) => Err("failing".to_owned()),
        "/healthz" => Ok("ok".to_owned()),
        _ => Ok(format!("{} {}", head.method, head.uri)),
    };
    let (code, text) = match said {
        Ok(text) => (200, text),
        Err(text) => (500, text),
    };
    let mut response = Response::new(body([Frame::data(Bytes::from(text))]));
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or_default();
    response
}

/// gRPC's answer to a health check: a message with field 1 = SERVING or NOT_SERVING, and the trailer of a success.
fn health(failing: bool) -> Response<Body> {
    let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, if failing { 2 } else { 1 }]);
    let trailers = HeaderMap::from_iter(
        [("grpc-status".parse(), "0")]
            .into_iter()
            .filter_map(|(name, value)| name.ok().map(|name| (name, HeaderValue::from_static(value)))),
    );
    let mut response = Response::new(body([Frame::data(message), Frame::trailers(trailers)]));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn body<const N: usize>(frames: [Frame<Bytes>; N]) -> Body {
    StreamBody::new(futures::stream::iter(frames).map(Ok)).boxed_unsync()
}

async fn datagrams(socket: UdpSocket) {
    let mut buffer = [0; 512];
    loop {
        let Ok((_, from)) = socket.recv_from(&mut buffer).await else { continue };
        let _ = socket.send_to(hostname().as_bytes(), from).await;
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}
