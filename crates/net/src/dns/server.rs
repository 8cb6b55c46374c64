//! Sockets: UDP and TCP on one port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use skiff_meta::world::WorldExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::respond::{Responder, Step, Transport};

/// Most questions waiting for other name servers at a time; more are dropped, and their clients ask again.
const MAX_PENDING: usize = 1_024;
/// Most TCP connections at a time.
const MAX_CONNECTIONS: usize = 256;
/// How long a TCP connection may be silent.
const IDLE: Duration = Duration::from_secs(10);

/// Bound sockets.
pub(super) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Binds both on `address`; port 0 takes any that is free for both.
    pub(super) async fn bind(address: SocketAddr) -> io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        let udp = UdpSocket::bind(tcp.local_addr()?).await?;
        Ok(Self { udp, tcp })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Answers for ever.
    pub(super) async fn serve(self, responder: Responder) {
        let Self { udp, tcp } = self;
        futures::join!(serve_udp(Arc::new(udp), responder.clone()), serve_tcp(tcp, responder));
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, responder: Responder) {
    let pending = Arc::new(Semaphore::new(MAX_PENDING));
    let mut buffer = vec![0; 4_096];
    loop {
        let (size, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error about an earlier answer; the socket lives on.
            Err(error) => {
                tracing::debug!("DNS over UDP: {error}");
                continue;
            }
        };
        match responder.start(buffer.get(..size).unwrap_or_default(), Transport::Udp) {
            Step::Ignore => {}
            Step::Reply(bytes) => send(&socket, client, &bytes).await,
            Step::Ask(question) => {
                let Ok(permit) = pending.clone().try_acquire_owned() else { continue };
                let (socket, asker) = (socket.clone(), responder.clone());
                let task = Box::pin(async move {
                    let bytes = asker.finish(*question).await;
                    send(&socket, client, &bytes).await;
                    drop(permit);
                });
                drop(responder.world.spawn("dns question", task));
            }
        }
    }
}

async fn send(socket: &UdpSocket, client: SocketAddr, bytes: &[u8]) {
    if let Err(error) = socket.send_to(bytes, client).await {
        tracing::debug!(%client, "DNS answer not sent: {error}");
    }
}

async fn serve_tcp(listener: TcpListener, responder: Responder) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // The semaphore is never closed, so this ends only with the task.
    while let Ok(permit) = connections.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, client)) => {
                let answerer = responder.clone();
                let task = Box::pin(async move {
                    if let Err(error) = converse(stream, &answerer).await {
                        tracing::debug!(%client, "DNS over TCP: {error}");
                    }
                    drop(permit);
                });
                drop(responder.world.spawn("dns connection", task));
            }
            Err(error) => {
                // Out of descriptors, most likely: give others time to return some.
                tracing::warn!("DNS over TCP: {error}");
                responder.world.sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Answers one question after the other on a connection.
async fn converse(mut stream: TcpStream, responder: &Responder) -> io::Result<()> {
    loop {
        let Some(request) = responder.world.timeout(IDLE, read(&mut stream)).await else { return Ok(()) };
        let Some(request) = request? else { return Ok(()) };
        let bytes = match responder.start(&request, Transport::Tcp) {
            Step::Ignore => return Ok(()),
            Step::Reply(bytes) => bytes,
            Step::Ask(question) => responder.finish(*question).await,
        };
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &bytes].concat();
        match responder.world.timeout(IDLE, stream.write_all(&framed)).await {
            Some(written) => written?,
            None => return Ok(()),
        }
    }
}

/// One framed message; `None` at the connection's end.
async fn read(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}
