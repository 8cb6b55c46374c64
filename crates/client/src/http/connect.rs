//! Dialling: TCP, then TLS where the address says `https`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::tls;
use crate::backend::ClientError;
use crate::config::Remote;

/// A byte stream, encrypted or not.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection, encrypted or not.
pub type Raw = Box<dyn Io>;

/// A server's address, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    scheme: &'static str,
    /// As it stands in a URI: IPv6 in brackets.
    host: String,
    port: u16,
    /// Without a slash at the end.
    path: String,
}

impl Endpoint {
    /// The address in `remote`.
    pub(crate) fn new(remote: &Remote) -> Result<Self, ClientError> {
        let bad = || ClientError::Config(format!("{:?} is no address of a server", remote.server));
        let text =
            if remote.server.contains("://") { remote.server.clone() } else { format!("http://{}", remote.server) };
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let (scheme, default_port) = match uri.scheme_str() {
            Some("https") => ("https", 443),
            Some("http") => ("http", 80),
            _ => return Err(bad()),
        };
        let host = uri.host().ok_or_else(bad)?.to_owned();
        let port = uri.port_u16().unwrap_or(default_port);
        Ok(Self { scheme, host, port, path: uri.path().trim_end_matches('/').to_owned() })
    }

    /// `https://HOST:PORT/PATH` without a slash at the end.
    pub(crate) fn base(&self) -> String {
        format!("{}://{}:{}{}", self.scheme, self.host, self.port, self.path)
    }

    /// `wss://HOST:PORT/PATH` without a slash at the end.
    pub(crate) fn websocket_base(&self) -> String {
        format!("{}://{}:{}{}", if self.tls() { "wss" } else { "ws" }, self.host, self.port, self.path)
    }

    fn tls(&self) -> bool {
        self.scheme == "https"
    }

    fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

/// A connection of one's own that speaks HTTP/1.1, for those who speak it byte by byte.
///
/// # Errors
/// When the server is not reached or not trusted.
pub async fn raw(remote: &Remote) -> Result<Raw, ClientError> {
    dial(&Endpoint::new(remote)?, remote).await
}

/// Dials one connection for something other than plain requests; HTTP/1.1, since it is about to be upgraded.
///
/// # Errors
/// When the server is not reached or not trusted.
pub(crate) async fn dial(endpoint: &Endpoint, remote: &Remote) -> Result<Raw, ClientError> {
    let connector = Connector::with_protocols(endpoint.clone(), remote, &[b"http/1.1"])?;
    let stream = connector.connect().await;
    Ok(stream.map_err(|e| ClientError::Transport(format!("{} is not reached: {e}", remote.server)))?.0)
}

/// Dials for the connection pool.
#[derive(Clone)]
pub(super) struct Connector {
    endpoint: Endpoint,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Connector {
    pub(super) fn new(endpoint: Endpoint, remote: &Remote) -> Result<Self, ClientError> {
        Self::with_protocols(endpoint, remote, &[b"h2", b"http/1.1"])
    }

    fn with_protocols(endpoint: Endpoint, remote: &Remote, protocols: &[&[u8]]) -> Result<Self, ClientError> {
        let tls = if endpoint.tls() {
            let name = remote.tls_server_name.as_deref().unwrap_or_else(|| endpoint.bare_host()).to_owned();
            let name = ServerName::try_from(name).map_err(|e| ClientError::Config(format!("server name: {e}")))?;
            let mut config = tls::client_config(remote)?;
            config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
            Some((Arc::new(config), name))
        } else {
            None
        };
        Ok(Self { endpoint, tls })
    }

    /// The connection, and whether HTTP/2 was agreed on.
    async fn connect(&self) -> io::Result<(Raw, bool)> {
        let stream = TcpStream::connect((self.endpoint.bare_host(), self.endpoint.port)).await?;
        stream.set_nodelay(true)?;
        let Some((config, name)) = &self.tls else { return Ok((Box::new(stream), false)) };
        let stream = TlsConnector::from(config.clone()).connect(name.clone(), stream).await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((Box::new(stream), http2))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Pooled;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Pooled>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let (stream, http2) = this.connect().await?;
            Ok(Pooled { stream: TokioIo::new(stream), http2 })
        })
    }
}

/// A connection in the pool.
pub(super) struct Pooled {
    stream: TokioIo<Raw>,
    http2: bool,
}

impl Connection for Pooled {
    fn connected(&self) -> Connected {
        if self.http2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl hyper::rt::Read for Pooled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Pooled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
