//! gRPC over a unix socket, from either end.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use http::{Request as HttpRequest, Response as HttpResponse};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use skiff_meta::WorldRef;
use tokio::net::{UnixListener, UnixStream};
use tonic::Request;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};
use tower::Service;

/// A plugin that does not answer within this hangs: upstream's limit for storage drivers.
const LIMIT: Duration = Duration::from_secs(120);

/// A connection to the plugin that listens on `socket`. It is made at its first use, and again after a break. Must be
/// called inside a Tokio runtime.
pub fn connect(socket: &Path) -> Channel {
    let path = socket.to_owned();
    // The address only fills the authority header; the connector decides where to go.
    Endpoint::from_static("http://localhost")
        .connect_with_connector_lazy(tower::service_fn(move |_| dial(path.clone())))
}

async fn dial(path: PathBuf) -> std::io::Result<TokioIo<UnixStream>> {
    Ok(TokioIo::new(UnixStream::connect(path).await?))
}

/// A request that gives up when the plugin hangs.
pub fn limited<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(LIMIT);
    request
}

/// Serves on a socket, for ever.
pub async fn serve<S>(listener: UnixListener, service: S, world: WorldRef)
where
    S: Service<HttpRequest<Incoming>, Response = HttpResponse<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let mut connections = FuturesUnordered::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(()) = connections.next() => continue,
        };
        let Ok((stream, _)) = stream else {
            // Out of descriptors, most likely: they may come back.
            world.sleep(Duration::from_secs(1)).await;
            continue;
        };
        let service = service.clone();
        let answer = service_fn(move |request| service.clone().call(request));
        let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let connection = http2.serve_connection(TokioIo::new(stream), answer);
        // Whoever breaks off knows it.
        connections.push(async move { drop(connection.await) }.boxed());
    }
}
