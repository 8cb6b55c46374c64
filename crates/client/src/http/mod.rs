//! The backend over HTTPS: one connection pool, HTTP/2 where the server speaks it.
//!
//! Real sockets: the one module of this crate (with [`crate::ws`]) that needs a Tokio runtime.

mod connect;
mod tls;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy;
use hyper_util::rt::TokioTimer;
use parking_lot::{Mutex, RwLock};
use skiff_meta::WorldRef;

use crate::backend::{Backend, Body, ClientError, Event, ListTarget};
use crate::config::Remote;
pub(crate) use connect::{Endpoint, dial};
pub use connect::{Io, Raw, raw};

/// How often a request is repeated when the server says "later" with a time.
const MOST_RETRIES: u32 = 10;
/// How long a token read from a file is used before the file is read again.
const TOKEN_LIFE: Duration = Duration::from_secs(60);

/// A [`Backend`] over HTTPS; clones share the connection pool.
#[derive(Clone)]
pub struct HttpBackend {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    agent: HeaderValue,
    world: WorldRef,
    /// Who we are there.
    link: RwLock<Link>,
    token: Mutex<Option<(Duration, HeaderValue)>>,
}

/// Our credentials, and the connections made with them.
#[derive(Clone)]
struct Link {
    remote: Arc<Remote>,
    pool: legacy::Client<connect::Connector, Full<Bytes>>,
}

impl Link {
    fn new(remote: Remote, endpoint: &Endpoint, world: &WorldRef) -> Result<Self, ClientError> {
        let connector = connect::Connector::new(endpoint.clone(), &remote)?;
        let pool = legacy::Client::builder(Executor(world.clone()))
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_keep_alive_interval(Duration::from_secs(30))
            .http2_keep_alive_timeout(Duration::from_secs(15))
            .http2_initial_stream_window_size(4 << 20)
            .http2_initial_connection_window_size(16 << 20)
            .build(connector);
        Ok(Self { remote: Arc::new(remote), pool })
    }
}

/// Runs the pool's tasks through the world.
#[derive(Clone)]
struct Executor(WorldRef);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, task: F) {
        self.0.spawn("http", Box::pin(task));
    }
}

impl HttpBackend {
    /// A backend for `remote`; `agent` is the `User-Agent`, from which the server derives the default field manager.
    /// Nothing is dialled yet.
    ///
    /// # Errors
    /// When the address, a certificate or a key cannot be read.
    pub fn new(remote: Remote, world: WorldRef, agent: &str) -> Result<Self, ClientError> {
        let endpoint = Endpoint::new(&remote)?;
        let link = RwLock::new(Link::new(remote, &endpoint, &world)?);
        let agent =
            HeaderValue::try_from(agent).map_err(|_| ClientError::Config(format!("bad user agent {agent:?}")))?;
        Ok(Self { inner: Arc::new(Inner { endpoint, agent, world, link, token: Mutex::default() }) })
    }

    /// Shows another certificate from now on, on connections of its own; those that are open end with their last request.
    ///
    /// # Errors
    /// When certificate or key (PEM) cannot be read; the old ones stay.
    pub fn renew(&self, certificate: Vec<u8>, key: Vec<u8>) -> Result<(), ClientError> {
        let remote = Remote { client_certificate: certificate, client_key: key, ..(*self.remote_now()).clone() };
        *self.inner.link.write() = Link::new(remote, &self.inner.endpoint, &self.inner.world)?;
        Ok(())
    }

    fn remote_now(&self) -> Arc<Remote> {
        self.inner.link.read().remote.clone()
    }

    async fn send_now(&self, request: Request<Bytes>) -> Result<Response<Body>, ClientError> {
        let mut request = self.inner.endpoint.absolute(request)?;
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, self.inner.agent.clone());
        if !headers.contains_key(header::AUTHORIZATION)
            && let Some(bearer) = self.inner.bearer()?
        {
            headers.insert(header::AUTHORIZATION, bearer);
        }
        for attempt in 0.. {
            let link = self.inner.link.read().clone();
            let response = link.pool.request(request.clone().map(Full::new)).await;
            let response = response.map_err(|e| ClientError::Transport(unreached(&link.remote.server, &e)))?;
            match retry_after(&response) {
                Some(delay) if attempt < MOST_RETRIES => self.inner.world.sleep(delay).await,
                _ => return Ok(response.map(|body| BodyExt::map_err(body, Into::into).boxed_unsync())),
            }
        }
        Err(ClientError::Transport("the server is too busy".into()))
    }
}

impl Inner {
    fn bearer(&self) -> Result<Option<HeaderValue>, ClientError> {
        let remote = self.link.read().remote.clone();
        let Some(file) = &remote.token_file else {
            return remote.token.as_deref().map(bearer).transpose();
        };
        let now = self.world.elapsed();
        let mut known = self.token.lock();
        if let Some((read, value)) = &*known
            && now < *read + TOKEN_LIFE
        {
            return Ok(Some(value.clone()));
        }
        let text = std::fs::read_to_string(file)
            .map_err(|e| ClientError::Config(format!("token file {}: {e}", file.display())))?;
        let value = bearer(text.trim())?;
        *known = Some((now, value.clone()));
        Ok(Some(value))
    }
}

/// `Bearer TOKEN`, kept out of logs.
pub(crate) fn bearer(token: &str) -> Result<HeaderValue, ClientError> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| ClientError::Config("the token has characters that cannot be sent".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// When to try again, where the server refused for now and says when.
fn retry_after<B>(response: &Response<B>) -> Option<Duration> {
    let busy = response.status() == StatusCode::TOO_MANY_REQUESTS || response.status().is_server_error();
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    busy.then_some(Duration::from_secs(seconds))
}

fn unreached(server: &str, error: &dyn std::error::Error) -> String {
    let mut text = format!("{server} is not reached: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Backend for HttpBackend {
    fn send(&self, request: Request<Bytes>) -> BoxFuture<'static, Result<Response<Body>, ClientError>> {
        let this = self.clone();
        Box::pin(async move { this.send_now(request).await })
    }

    fn list_watch(&self, target: ListTarget) -> BoxStream<'static, Event> {
        watch::events(self.clone(), self.inner.world.clone(), target)
    }

    fn remote(&self) -> Option<Arc<Remote>> {
        Some(self.remote_now())
    }
}

impl Endpoint {
    /// The request with the whole address in its URI.
    fn absolute(&self, mut request: Request<Bytes>) -> Result<Request<Bytes>, ClientError> {
        let target = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        // The root is what the address names, without a slash behind it.
        let target = if target == "/" { "" } else { target };
        let uri = format!("{}{target}", self.base());
        *request.uri_mut() =
            Uri::try_from(&uri).map_err(|e| ClientError::Config(format!("{uri:?} is no address: {e}")))?;
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_servers_are_asked_again() {
        let response = |code: u16, after: &str| {
            let builder = Response::builder().status(code).header("Retry-After", after);
            retry_after(&builder.body(()).unwrap())
        };
        assert_eq!(response(429, "2"), Some(Duration::from_secs(2)));
        assert_eq!(response(503, "1"), Some(Duration::from_secs(1)));
        assert_eq!(response(404, "1"), None);
        assert_eq!(response(429, "soon"), None);
    }

    #[test]
    fn a_server_with_a_path_keeps_it() {
        let remote = Remote { server: "https://[::1]:6443/k8s/".into(), ..Remote::default() };
        let request = Request::get("/api/v1/pods?limit=1").body(Bytes::new()).unwrap();
        let request = Endpoint::new(&remote).unwrap().absolute(request).unwrap();
        assert_eq!(request.uri(), "https://[::1]:6443/k8s/api/v1/pods?limit=1");
    }
}
