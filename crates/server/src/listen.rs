//! The thin layer between sockets and [`Api::handle`]: HTTPS with HTTP/1.1 and HTTP/2 on one port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use skiff_client::{Backend, Body};
use skiff_meta::WorldRef;
use skiff_meta::world::{Task, WorldExt};
use skiff_store::Store;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::api::Api;
use crate::chain::{Identity, Peer, User};
use crate::config::ServerConfig;
use crate::error::ServerError;
use crate::pki::{Pki, ServingNames};

mod lanes;

use lanes::{Lanes, Load};

/// A client that has not finished its handshake or its headers by then never will.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long connections may take at the end. Those that lead to pods would go on for ever.
const LAST_CONNECTIONS: Duration = Duration::from_secs(2);
/// How long requests may take then, of which each would end by itself: as long as the slowest webhook.
const LAST_REQUESTS: Duration = Duration::from_secs(30);
/// How often it is looked whether one is left.
const LOOK: Duration = Duration::from_millis(20);
/// Streams on one HTTP/2 connection: clients put all their watches on one.
const STREAMS: u32 = 4_096;
/// Bytes a client may send ahead on one HTTP/2 stream, and on all of one connection.
const WINDOWS: (u32, u32) = (1 << 20, 4 << 20);

/// The longest head of a request (upstream's figure): selectors may name thousands of values.
const HEAD: u32 = 1 << 20;

/// An API server that listens.
pub struct Server {
    api: Arc<Api>,
    address: SocketAddr,
    world: WorldRef,
    stop: watch::Sender<bool>,
    accepting: Task,
}

impl Server {
    /// Takes the port. Done before anything is written, so that an occupied one leaves nothing behind.
    ///
    /// # Errors
    /// When the address is taken, or not ours.
    pub fn bind(address: SocketAddr) -> Result<std::net::TcpListener, ServerError> {
        std::net::TcpListener::bind(address).map_err(|source| ServerError::Listen { address, source })
    }

    /// Starts the API behind a port that [`Server::bind`] took.
    ///
    /// # Errors
    /// When the socket cannot be used, or as [`Api::new`].
    pub async fn start(
        listener: std::net::TcpListener,
        mut config: ServerConfig,
        pki: &Pki,
        store: Arc<dyn Store>,
        world: WorldRef,
    ) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Listen { address: config.bind, source };
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        config.bind = address;
        let names = ServingNames::new(&config.cluster_domain, names(&config));
        let tls = TlsAcceptor::from(pki.server_tls(&names, world.now())?);
        let api = Api::new(config, pki, store, world.clone()).await?;
        let (stop, stopped) = watch::channel(false);
        let door = Arc::new(Door { api: api.clone(), world: world.clone(), tls, lanes: Arc::new(Lanes::new()) });
        let accepting = world.spawn("listener", door.open(listener, stopped).boxed());
        Ok(Self { api, address, world, stop, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server without its socket.
    pub fn api(&self) -> &Arc<Api> {
        &self.api
    }

    /// Somebody of this process, with the rights of `user`.
    pub fn backend(&self, user: User) -> Arc<dyn Backend> {
        self.api.backend(user)
    }

    /// Takes no more requests, and lets the running ones finish: those that would not end by themselves have a moment.
    pub async fn shutdown(self) {
        self.api.stopping.store(true, std::sync::atomic::Ordering::Relaxed);
        self.world.timeout(LAST_CONNECTIONS, crate::servers::leave(&self.api)).await;
        let _ = self.stop.send(true);
        self.accepting.await;
        if let Some(audit) = &self.api.audit {
            self.world.timeout(LAST_CONNECTIONS, audit.close()).await;
        }
    }
}

/// What the certificate must name beside the fixed names.
fn names(config: &ServerConfig) -> Vec<String> {
    let mut names = config.tls_sans.clone();
    names.push(config.advertise.to_string());
    names.extend(config.kubernetes_address().map(|first| first.to_string()));
    if !config.bind.ip().is_unspecified() {
        names.push(config.bind.ip().to_string());
    }
    names
}

/// Runs hyper's tasks through the world.
#[derive(Clone)]
struct Tasks(WorldRef, Arc<Lanes>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.1.in_front(|| self.0.spawn("http", task.boxed()));
    }
}

struct Door {
    api: Arc<Api>,
    world: WorldRef,
    tls: TlsAcceptor,
    lanes: Arc<Lanes>,
}

impl Door {
    async fn open(self: Arc<Self>, listener: TcpListener, mut stopped: watch::Receiver<bool>) {
        let graceful = Arc::new(GracefulShutdown::new());
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopped.changed() => break,
            };
            match accepted {
                Ok((stream, address)) => {
                    let (door, watcher) = (self.clone(), graceful.watcher());
                    self.world.spawn("connection", async move { door.serve(stream, address, watcher).await }.boxed());
                }
                Err(error) => {
                    // Out of file descriptors, mostly: those that end make room.
                    tracing::warn!("a connection was not accepted: {error}");
                    self.world.sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(listener);
        self.api.end_watches();
        if let Ok(graceful) = Arc::try_unwrap(graceful) {
            let mut ended = graceful.shutdown().boxed();
            if self.world.timeout(LAST_CONNECTIONS, &mut ended).await.is_none() {
                self.world.timeout(LAST_REQUESTS, futures::future::select(ended, self.all_answered().boxed())).await;
            }
        }
    }

    async fn all_answered(&self) {
        while self.api.in_flight.any() {
            self.world.sleep(LOOK).await;
        }
    }

    async fn serve(&self, stream: TcpStream, address: SocketAddr, watcher: hyper_util::server::graceful::Watcher) {
        let _ = stream.set_nodelay(true);
        let stream = match self.world.timeout(PATIENCE, self.tls.accept(stream)).await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => return tracing::debug!(%address, "TLS handshake: {error}"),
            None => return tracing::debug!(%address, "TLS handshake: timed out"),
        };
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let certificates = certificates.iter().map(|c| c.clone().into_owned()).collect();
        let peer = Arc::new(Peer { certificates, address: Some(address) });
        let load = Arc::new(Load::default());
        let (api, lanes, counting) = (self.api.clone(), self.lanes.clone(), load.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (api, identity) = (api.clone(), Identity::Peer(peer.clone()));
            let (lanes, counting) = (lanes.clone(), counting.clone());
            async move {
                let response = lanes.future_in_front(api.handle(request.map(boxed), identity)).await;
                Ok::<Response<Body>, std::convert::Infallible>(counting.count(response))
            }
        });
        let mut builder = auto::Builder::new(Tasks(self.world.clone(), self.lanes.clone()));
        builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(HEAD as usize);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PATIENCE)
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(HEAD)
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1);
        let connection =
            watcher.watch(builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned());
        let whole = connection.map(move |ended| {
            if let Err(error) = ended {
                tracing::debug!(%address, "connection ended: {error}");
            }
        });
        self.lanes.drive(whole, &load).await;
    }
}

fn boxed(body: Incoming) -> Body {
    body.map_err(Into::into).boxed_unsync()
}
