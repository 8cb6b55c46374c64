//! `skiff snapshot`: the whole state of a running server as one file, and a data directory made of one.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use http_body_util::BodyExt;
use skiff_client::config::Kubeconfig;
use skiff_client::http::HttpBackend;
use skiff_client::{Backend, Body, ClientError};
use skiff_meta::{Status, WorldRef};
use skiff_store::snapshot::{self, Contents};

use crate::error::StartError;

/// Saves what a server holds. The file appears whole and checked, or not at all.
pub(crate) async fn save(file: &Path, kubeconfig: Option<&Path>, world: WorldRef) -> Result<(), StartError> {
    let remote = Kubeconfig::discover(kubeconfig)?.remote(None)?;
    let backend = HttpBackend::new(remote, world, "skiff")?;
    let request = http::Request::get(skiff_server::snapshot::PATH).body(bytes::Bytes::new());
    let response = backend.send(request.map_err(|e| StartError::Snapshot(e.to_string()))?).await?;
    let (head, body) = response.into_parts();
    if !head.status.is_success() {
        let bytes = body.collect().await.map_err(|e| ClientError::Transport(e.to_string()))?.to_bytes();
        let said = serde_json::from_slice::<Status>(&bytes).map_or_else(|_| head.status.to_string(), |s| s.to_string());
        return Err(StartError::Snapshot(said));
    }
    let partial = PathBuf::from(format!("{}.part", file.display()));
    let done = match receive(body, &partial).await {
        Ok(()) => snapshot::verify(&partial).map_err(StartError::from),
        Err(error) => Err(error),
    };
    let done = done.and_then(|contents| {
        std::fs::rename(&partial, file).map_err(|e| StartError::Io(file.display().to_string(), e))?;
        Ok(contents)
    });
    if done.is_err() {
        // What went wrong is told; the remains tell nothing more.
        let _ = std::fs::remove_file(&partial);
    }
    tell("saved", file, done?);
    Ok(())
}

async fn receive(mut body: Body, path: &Path) -> Result<(), StartError> {
    let failed = |e| StartError::Io(path.display().to_string(), e);
    // All secrets of the cluster are in it.
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed)?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ClientError::Transport(e.to_string()))?;
        file.write_all(&frame.into_data().unwrap_or_default()).map_err(failed)?;
    }
    file.sync_all().map_err(failed)
}

/// Makes a data directory.
pub(crate) fn restore(file: &Path, data: &Path, world: &WorldRef) -> Result<(), StartError> {
    let contents = snapshot::restore(file, data, world)?;
    tell("restored into", data, contents);
    Ok(())
}

fn tell(what: &str, place: &Path, Contents { revision, second, keys, .. }: Contents) {
    let time = jiff::Timestamp::from_second(second).map_or_else(|_| String::new(), |time| format!(", {time}"));
    println!("{what} {}: {keys} keys at revision {revision}{time}", place.display());
}
