//! Questions to others.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UdpSocket, lookup_host};

/// How long others may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The page at an address, or the answer to a datagram.
pub(crate) async fn get(url: &str) -> Result<String, String> {
    let asked = async {
        match url.strip_prefix("udp://") {
            Some(address) => datagram(address).await,
            None => page(url).await,
        }
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(|error| format!("{url}: {error}")),
        Err(_) => Err(format!("{url}: no answer in time")),
    }
}

async fn page(url: &str) -> Result<String, String> {
    let uri: Uri = url.parse().map_err(|e| format!("{e}"))?;
    let host = uri.host().unwrap_or_default();
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80)));
    let stream = stream.await.map_err(|e| e.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header("host", host).body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    // The connection ends when nobody can send on it any more.
    let asked = async move {
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let code = answer.status();
        let body = answer.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        if code.is_success() { Ok(text) } else { Err(format!("{code}: {text}")) }
    };
    let (answer, _) = tokio::join!(asked, connection);
    answer
}

async fn datagram(address: &str) -> Result<String, String> {
    let words = |e: std::io::Error| e.to_string();
    let to = lookup_host(address).await.map_err(words)?.next().ok_or("no address")?;
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).await.map_err(words)?;
    socket.connect(to).await.map_err(words)?;
    socket.send(b"who").await.map_err(words)?;
    let mut buffer = [0; 512];
    let size = socket.recv(&mut buffer).await.map_err(words)?;
    Ok(String::from_utf8_lossy(buffer.get(..size).unwrap_or_default()).into_owned())
}

/// A name's addresses, sorted.
pub(crate) async fn lookup(name: &str) -> Result<Vec<String>, String> {
    let found = lookup_host((name, 0)).await.map_err(|e| format!("{name}: {e}"))?;
    let mut addresses: Vec<String> = found.map(|address| address.ip().to_string()).collect();
    addresses.sort();
    addresses.dedup();
    Ok(addresses)
}
