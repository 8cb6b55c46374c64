//! One connection to a node or a pod.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use skiff_client::Body;
use skiff_meta::WorldRef;
use skiff_meta::world::WorldExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::ProxyError;
use super::location::{Location, Transport};
use super::unchecked;

/// How long a connection may take to stand.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes connections.
pub(super) struct Dialer {
    kubelet: Arc<ClientConfig>,
    unchecked: Arc<ClientConfig>,
    world: WorldRef,
}

impl Dialer {
    pub(super) fn new(kubelet: Arc<ClientConfig>, world: WorldRef) -> Result<Self, rustls::Error> {
        Ok(Self { kubelet, unchecked: unchecked::config()?, world })
    }

    /// Sends one request on a connection of its own. Whoever keeps the answer's body, or its upgrade, keeps the
    /// connection.
    pub(super) async fn send(
        &self,
        location: &Location,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, ProxyError> {
        let connecting = self.connect(location, request);
        match self.world.timeout(PATIENCE, connecting).await {
            Some(Ok(answer)) => answer.await.map_err(ProxyError::Request),
            Some(Err(error)) => Err(error),
            None => Err(ProxyError::Patience(format!("{}:{}", location.host, location.port))),
        }
    }

    /// The same, to a server that proves to be `name` by what `tls` trusts.
    pub(super) async fn send_checked(
        &self,
        location: &Location,
        tls: &Arc<ClientConfig>,
        name: &str,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, ProxyError> {
        let connecting = async {
            let stream = self.dial(location).await?;
            let mut sender = self.speak(self.secure(tls, location, name, stream).await?).await?;
            Ok(async move { sender.send_request(request).await })
        };
        match self.world.timeout(PATIENCE, connecting).await {
            Some(Ok(answer)) => answer.await.map_err(ProxyError::Request),
            Some(Err(error)) => Err(error),
            None => Err(ProxyError::Patience(format!("{}:{}", location.host, location.port))),
        }
    }

    async fn dial(&self, location: &Location) -> Result<TcpStream, ProxyError> {
        let dial = |source| ProxyError::Dial { host: location.host.clone(), port: location.port, source };
        let stream = TcpStream::connect((location.host.as_str(), location.port)).await.map_err(dial)?;
        // Keystrokes travel one by one.
        stream.set_nodelay(true).map_err(dial)?;
        Ok(stream)
    }

    async fn connect(
        &self,
        location: &Location,
        request: Request<Body>,
    ) -> Result<impl Future<Output = hyper::Result<Response<Incoming>>> + Send + use<>, ProxyError> {
        let (stream, host) = (self.dial(location).await?, location.host.as_str());
        let mut sender = match location.transport {
            Transport::Plain => self.speak(stream).await?,
            Transport::Kubelet => self.speak(self.secure(&self.kubelet, location, host, stream).await?).await?,
            Transport::Unchecked => self.speak(self.secure(&self.unchecked, location, host, stream).await?).await?,
        };
        // The answer may take its time (a slow start of an exec); only the way to it is hurried.
        Ok(async move { sender.send_request(request).await })
    }

    async fn secure(
        &self,
        config: &Arc<ClientConfig>,
        location: &Location,
        name: &str,
        stream: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ProxyError> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| ProxyError::Name { host: name.to_owned() })?;
        let dial = |source| ProxyError::Dial { host: location.host.clone(), port: location.port, source };
        TlsConnector::from(config.clone()).connect(name, stream).await.map_err(dial)
    }

    async fn speak<S>(&self, stream: S) -> Result<http1::SendRequest<Body>, ProxyError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ProxyError::Request)?;
        let driving = async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!("connection to a node or pod broke off: {error}");
            }
        };
        self.world.spawn("node-connection", Box::pin(driving));
        Ok(sender)
    }
}
