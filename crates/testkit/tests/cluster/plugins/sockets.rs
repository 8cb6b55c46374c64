//! What all plugins of the tests share: a runtime of their own, and the socket that the agent finds them by.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use skiff_meta::world::RealWorld;
use skiff_plugins::registration::registration_server::{Registration, RegistrationServer};
use skiff_plugins::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use skiff_plugins::{Request, Response, Status, async_trait, serve};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;

/// Where plugins live; they go with it, and so do their sockets.
pub(crate) struct Home {
    runtime: Runtime,
    sockets: Vec<PathBuf>,
}

impl Home {
    pub(crate) fn new() -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Ok(Self { runtime: runtime.map_err(|error| error.to_string())?, sockets: Vec::new() })
    }

    /// Serves on this socket until the end.
    pub(crate) fn serve<S>(&mut self, socket: &Path, service: S) -> Result<(), String>
    where
        S: Service + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        let failed = |error: std::io::Error| format!("{}: {error}", socket.display());
        socket.parent().map(std::fs::create_dir_all).transpose().map_err(failed)?;
        let _guard = self.runtime.enter();
        let listener = UnixListener::bind(socket).map_err(failed)?;
        self.sockets.push(socket.to_owned());
        self.runtime.spawn(serve(listener, service, RealWorld::shared()));
        Ok(())
    }

    /// Waits for something that plugins do.
    pub(crate) fn run<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// Makes a plugin known to the agent whose directory this is, and waits until it is taken in.
    pub(crate) fn register(&mut self, agent: &Path, kind: &str, name: &str, endpoint: &Path) -> Result<(), String> {
        let versions = if kind == "DRAPlugin" { "v1.DRAPlugin" } else { "1.0.0" };
        let info = PluginInfo {
            r#type: kind.to_owned(),
            name: name.to_owned(),
            endpoint: endpoint.display().to_string(),
            supported_versions: vec![versions.to_owned()],
        };
        let socket = agent.join("plugins_registry").join(format!("{name}-reg.sock"));
        let (told, hears) = channel();
        self.serve(&socket, RegistrationServer::new(Registrar { info, told }))?;
        match hears.recv_timeout(Duration::from_secs(60)) {
            Ok(status) if status.plugin_registered => Ok(()),
            Ok(status) => Err(format!("{name} is not registered: {}", status.error)),
            Err(_) => Err(format!("nobody registers {name}")),
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.sockets.iter().for_each(|socket| drop(std::fs::remove_file(socket)));
    }
}

/// A gRPC service.
pub(crate) trait Service:
    tower::Service<
        http::Request<hyper::body::Incoming>,
        Response = http::Response<skiff_plugins::Body>,
        Error = std::convert::Infallible,
    >
{
}

impl<S> Service for S where
    S: tower::Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<skiff_plugins::Body>,
            Error = std::convert::Infallible,
        >
{
}

struct Registrar {
    info: PluginInfo,
    told: Sender<RegistrationStatus>,
}

#[async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(self.info.clone()))
    }
    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        // Later agents tell it as well, and nobody listens any more.
        drop(self.told.send(request.into_inner()));
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
