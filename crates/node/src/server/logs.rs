//! `/containerLogs`: what a container wrote, now and for as long as it writes.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use skiff_meta::WorldRef;
use skiff_meta::world::WorldExt;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::log_line::{Wanted, tail_start};
use super::{Answer, Body, FoundContainer, Lookup, Query, refuse};
use crate::os::Watched;

/// How much is read at a time.
const CHUNK: usize = 64 * 1024;
/// A follower looks whether the container still runs at least this often: its end changes no file.
const LOOK: Duration = Duration::from_secs(1);

/// A log being read.
struct Reader {
    file: File,
    path: PathBuf,
    wanted: Wanted,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
    /// Bytes that may still be shown.
    left: Option<u64>,
    follow: Option<Follow>,
}

struct Follow {
    watched: Watched,
    world: WorldRef,
    pods: Lookup,
    namespace: String,
    pod: String,
    container: FoundContainer,
}

pub(super) async fn serve(
    container: FoundContainer,
    query: &Query,
    pods: &Lookup,
    (namespace, pod): (&str, &str),
    world: &WorldRef,
) -> Answer {
    let previous = query.is_set("previous");
    let path = if previous {
        container.previous_log.clone()
    } else {
        Some(container.log_path.clone()).filter(|p| !p.is_empty())
    };
    let Some(path) = path.map(PathBuf::from) else {
        let which = if previous { "previous terminated container" } else { "container" };
        let why = format!("{which} \"{}\" in pod \"{pod}\" is not available", container.name);
        return Err(refuse(StatusCode::BAD_REQUEST, why));
    };
    let now = world.now();
    let since = match query.get("sinceSeconds").parse::<i64>() {
        Ok(seconds) => now.checked_sub(jiff::SignedDuration::from_secs(seconds)).ok(),
        Err(_) => query.get("sinceTime").parse().ok(),
    };
    let stream = match query.get("stream") {
        "Stdout" => "stdout",
        "Stderr" => "stderr",
        _ => "",
    };
    let wanted = Wanted { since, stream: stream.to_owned(), timestamps: query.is_set("timestamps") };
    let failed = |e: std::io::Error| {
        refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("the log {} cannot be read: {e}", path.display()))
    };
    // Watched before read, so that nothing written in between is missed.
    let follow = if query.is_set("follow") && !previous {
        let watched = Watched::changes(path.parent().unwrap_or(Path::new("/"))).map_err(failed)?;
        let (namespace, pod) = (namespace.to_owned(), pod.to_owned());
        Some(Follow { watched, world: world.clone(), pods: pods.clone(), namespace, pod, container })
    } else {
        None
    };
    let mut file = File::open(&path).await.map_err(failed)?;
    if let Ok(count) = query.get("tailLines").parse() {
        let start = start_of_tail(&mut file, count).await.map_err(failed)?;
        file.seek(SeekFrom::Start(start)).await.map_err(failed)?;
    }
    let left = query.get("limitBytes").parse().ok();
    let reader = Reader { file, path, wanted, rest: Vec::new(), left, follow };
    let chunks = futures::stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.next().await {
            Ok(Some(chunk)) => Some((Ok(Frame::data(chunk)), Some(reader))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    let body: Body = StreamBody::new(chunks.boxed()).boxed_unsync();
    let mut response = Response::new(body);
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// Where the last lines begin. Reads backwards in growing steps, so that the cost is the tail's, not the log's.
async fn start_of_tail(file: &mut File, count: usize) -> std::io::Result<u64> {
    let size = file.metadata().await?.len();
    let mut step = CHUNK as u64;
    loop {
        let from = size.saturating_sub(step);
        file.seek(SeekFrom::Start(from)).await?;
        let mut bytes = Vec::new();
        file.take(size - from).read_to_end(&mut bytes).await?;
        // The first line of a part may be cut; it counts only at the beginning of the log.
        let cut = if from == 0 { 0 } else { bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |i| i + 1) };
        let start = tail_start(&bytes[cut..], count);
        if start > 0 || from == 0 {
            return Ok(from + (cut + start) as u64);
        }
        step *= 4;
    }
}

impl Reader {
    /// The next piece of what is to be shown; `None` at the end.
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        let mut ended = false;
        loop {
            if self.left == Some(0) {
                return Ok(None);
            }
            let mut buffer = vec![0; CHUNK];
            let count = self.file.read(&mut buffer).await?;
            if count > 0 {
                if let Some(shown) = self.take(&buffer[..count]) {
                    return Ok(Some(shown));
                }
                continue;
            }
            if ended || self.follow.is_none() {
                return Ok(None);
            }
            if self.rotated().await? {
                continue;
            }
            let Some(follow) = &mut self.follow else { return Ok(None) };
            // Read once more after the container's end: its last words may have come in between.
            ended = follow.container_ended().await;
            if !ended {
                let news = follow.watched.changed();
                follow.world.timeout(LOOK, news.map(drop)).await;
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Option<Bytes> {
        self.rest.extend_from_slice(bytes);
        let end = self.rest.iter().rposition(|b| *b == b'\n')? + 1;
        let lines: Vec<u8> = self.rest.drain(..end).collect();
        let mut out = Vec::new();
        lines.split(|b| *b == b'\n').for_each(|line| self.wanted.show(line, &mut out));
        if let Some(left) = &mut self.left {
            out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= out.len() as u64;
        }
        (!out.is_empty()).then(|| out.into())
    }

    /// Goes over to the new file when the log was rotated; whether it did.
    async fn rotated(&mut self) -> std::io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let Ok(there) = tokio::fs::metadata(&self.path).await else { return Ok(false) };
        if there.ino() == self.file.metadata().await?.ino() {
            return Ok(false);
        }
        self.file = File::open(&self.path).await?;
        self.rest.clear();
        Ok(true)
    }
}

impl Follow {
    async fn container_ended(&self) -> bool {
        let pod = self.pods.pod(&self.namespace, &self.pod).await;
        let same = pod.and_then(|p| p.containers.into_iter().find(|c| c.name == self.container.name));
        !same.is_some_and(|c| c.running && c.id == self.container.id)
    }
}
