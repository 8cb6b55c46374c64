//! Containers' logs, from the files that the runtime writes (`TIME STREAM TAG TEXT` per line).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use skiff_cri::v1::{Container, ContainerFilter, ContainerState};
use tokio::sync::mpsc;

use super::query::Query;
use super::{Body, Context, Refusal};
use crate::node::Node;
use crate::os::Watched;
use crate::pod::facts::{self, key};

/// How often a follower asks whether the container still runs.
const LOOK: Duration = Duration::from_secs(1);
const CHUNK: usize = 64 * 1024;

/// What of a log is wanted.
#[derive(Clone, Debug, Default)]
struct Options {
    follow: bool,
    timestamps: bool,
    since: Option<Timestamp>,
    tail: Option<u64>,
    limit: Option<u64>,
    /// `stdout` or `stderr`; `None`: both.
    stream: Option<&'static str>,
}

impl Options {
    fn read(query: &Query, now: Timestamp) -> Result<Self, Refusal> {
        let seconds: Option<i64> = query.value("sinceSeconds")?;
        let ago = seconds.and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok());
        Ok(Self {
            follow: query.flag("follow"),
            timestamps: query.flag("timestamps"),
            since: ago.or(query.value("sinceTime")?),
            tail: query.value("tailLines")?,
            limit: query.value("limitBytes")?,
            stream: match query.get("stream") {
                Some("Stdout") => Some("stdout"),
                Some("Stderr") => Some("stderr"),
                _ => None,
            },
        })
    }
}

/// Answers with a container's log, as far as it is written, or as it comes.
pub(super) async fn answer(
    context: &Arc<Context>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Result<Response<Body>, Refusal> {
    let options = Options::read(query, context.node.world.now())?;
    let found = context.manager.find(namespace, pod);
    let found = found.ok_or_else(|| Refusal::not_found(format!("pod {pod:?} does not exist")))?;
    if facts::container(&found, container).is_none() {
        return Err(Refusal::not_found(format!("container {container:?} not found in pod {pod:?}")));
    }
    let chosen = choose(&context.node, &found, container, query.flag("previous")).await?;
    let status = context.node.runtime.container_status(&chosen.id).await;
    let path = PathBuf::from(status.map_err(|error| Refusal::internal(error.to_string()))?.log_path);
    let reader = Reader::open(&path, options.tail)
        .map_err(|error| Refusal::internal(format!("failed to open log file {:?}: {error}", path.display())))?;
    let (send, receive) = mpsc::channel(4);
    let node = context.node.clone();
    let task = copy(node.clone(), reader, options, chosen.id, send);
    drop(node.world.spawn("log", Box::pin(task)));
    let frames = tokio_stream::wrappers::ReceiverStream::new(receive).map(|chunk| Ok(Frame::data(chunk)));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

/// Which of the containers of a name is meant: the newest that has run, or the one before.
async fn choose(node: &Node, pod: &Pod, container: &str, previous: bool) -> Result<Container, Refusal> {
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let labels = [label(key::POD_UID, facts::uid(pod)), label(key::CONTAINER_NAME, container)];
    let filter = ContainerFilter { label_selector: labels.into(), ..ContainerFilter::default() };
    let listed = node.runtime.list_containers(filter).await;
    let mut listed = listed.map_err(|error| Refusal::internal(error.to_string()))?;
    listed.sort_by_key(|container| std::cmp::Reverse(container.created_at));
    let waits = is_waiting(pod, container);
    let mut begun = listed.into_iter().filter(|c| c.state() != ContainerState::ContainerCreated);
    let name = facts::name(pod);
    if previous {
        // While the next waits to be started, the last one that ended is both the newest and the previous.
        let skip = usize::from(waits.is_none());
        let old = begun.nth(skip).filter(|c| c.state() == ContainerState::ContainerExited);
        let words = format!("previous terminated container {container:?} in pod {name:?} not found");
        return old.ok_or_else(|| Refusal::bad(words));
    }
    begun.next().ok_or_else(|| {
        let why = match waits.as_deref() {
            Some("ErrImagePull") => "image can't be pulled".to_owned(),
            Some("ImagePullBackOff") => "trying and failing to pull image".to_owned(),
            Some(reason) => reason.to_owned(),
            None => "no logs yet".to_owned(),
        };
        Refusal::bad(format!("container {container:?} in pod {name:?} is waiting to start: {why}"))
    })
}

/// Why a container waits, if it does, as the API was told last.
fn is_waiting(pod: &Pod, container: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let mut statuses = lists.into_iter().flatten().flatten();
    let found = statuses.find(|status| status.name == container)?;
    found.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

/// Reads lines from a log that may grow and be replaced.
struct Reader {
    path: PathBuf,
    file: File,
    pending: Vec<u8>,
}

impl Reader {
    fn open(path: &Path, tail: Option<u64>) -> io::Result<Self> {
        let mut file = File::open(path)?;
        if let Some(lines) = tail {
            let start = tail_start(&mut file, lines)?;
            file.seek(SeekFrom::Start(start))?;
        }
        Ok(Self { path: path.to_owned(), file, pending: Vec::new() })
    }

    /// The next whole lines, up to a chunk; nothing when all is read.
    fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let mut chunk = vec![0; CHUNK];
            let count = self.file.read(&mut chunk)?;
            if count == 0 {
                return Ok(Vec::new());
            }
            self.pending.extend_from_slice(&chunk[..count]);
            if let Some(end) = self.pending.iter().rposition(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(end + 1);
                return Ok(std::mem::replace(&mut self.pending, rest));
            }
        }
    }

    /// A last line that was never finished.
    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }

    /// Goes on with the file that has taken the place of the one read so far, if one has.
    fn follow_replacement(&mut self) -> io::Result<bool> {
        let Ok(present) = std::fs::metadata(&self.path) else { return Ok(false) };
        if present.ino() == self.file.metadata()?.ino() {
            return Ok(false);
        }
        self.file = File::open(&self.path)?;
        Ok(true)
    }
}

/// Where the last `lines` lines begin.
fn tail_start(file: &mut File, lines: u64) -> io::Result<u64> {
    let end = file.metadata()?.len();
    if lines == 0 {
        return Ok(end);
    }
    let (mut position, mut found) = (end, 0);
    while position > 0 {
        let start = position.saturating_sub(CHUNK as u64);
        let mut chunk = vec![0; usize::try_from(position - start).unwrap_or(CHUNK)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut chunk)?;
        for (index, byte) in chunk.iter().enumerate().rev() {
            let at = start + index as u64;
            // The newline that ends the file ends its last line.
            if *byte == b'\n' && at + 1 < end {
                found += 1;
                if found == lines {
                    return Ok(at + 1);
                }
            }
        }
        position = start;
    }
    Ok(0)
}

/// Turns raw lines into what was asked for.
struct Printer {
    options: Options,
    left: Option<u64>,
    /// Whether the last line printed was a whole one.
    fresh: bool,
}

impl Printer {
    fn new(options: Options) -> Self {
        Self { left: options.limit, options, fresh: true }
    }

    /// What to print of these lines.
    fn print(&mut self, raw: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(raw.len());
        for line in raw.split_inclusive(|byte| *byte == b'\n') {
            self.line(line, &mut out);
        }
        if let Some(left) = &mut self.left {
            out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= out.len() as u64;
        }
        out
    }

    fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (Some(time), Some(stream), Some(tag), Some(text)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return;
        };
        if self.options.stream.is_some_and(|wanted| wanted.as_bytes() != stream) {
            return;
        }
        if let Some(since) = self.options.since {
            let time = std::str::from_utf8(time).ok().and_then(|time| time.parse::<Timestamp>().ok());
            if time.is_none_or(|time| time < since) {
                return;
            }
        }
        if self.options.timestamps && self.fresh {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        // A line too long for the runtime comes in parts, all but the last marked with P.
        let partial = tag.first() == Some(&b'P');
        let text = if partial { text.strip_suffix(b"\n").unwrap_or(text) } else { text };
        out.extend_from_slice(text);
        self.fresh = !partial;
    }
}

/// Sends the log until its end, or while the container runs and somebody listens.
async fn copy(node: Arc<Node>, mut reader: Reader, options: Options, id: String, send: mpsc::Sender<Bytes>) {
    let follow = options.follow;
    let mut printer = Printer::new(options);
    let mut watched = None;
    let mut running = follow;
    loop {
        match reader.next() {
            Ok(raw) if !raw.is_empty() => {
                let text = printer.print(&raw);
                if !text.is_empty() && send.send(text.into()).await.is_err() {
                    return;
                }
                if printer.is_done() {
                    return;
                }
            }
            Ok(_) => {
                if matches!(reader.follow_replacement(), Ok(true)) {
                    continue;
                }
                if !running {
                    let rest = printer.print(&reader.rest());
                    if !rest.is_empty() {
                        // Nobody listening any more is fine at the end.
                        let _ = send.send(rest.into()).await;
                    }
                    return;
                }
                if watched.is_none() {
                    watched = reader.path.parent().and_then(|directory| Watched::changes(directory).ok());
                    // What was written before the watch began is read now.
                    continue;
                }
                running = wait(&node, watched.as_mut(), &id, &send).await;
            }
            Err(error) => return tracing::debug!("a log cannot be read: {error}"),
        }
    }
}

/// Waits for a change. Whether the container still runs and somebody still listens.
async fn wait(node: &Node, watched: Option<&mut Watched>, id: &str, send: &mpsc::Sender<Bytes>) -> bool {
    let changed = async {
        match watched {
            Some(watched) => drop(watched.changed().await),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = changed => true,
        () = send.closed() => false,
        () = node.world.sleep(LOOK) => {
            let status = node.runtime.container_status(id).await;
            status.is_ok_and(|status| status.state() == ContainerState::ContainerRunning)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LOG: &str = "2026-01-01T00:00:01Z stdout F one\n2026-01-01T00:00:02Z stderr F two\n\
                       2026-01-01T00:00:03Z stdout P thr\n2026-01-01T00:00:03Z stdout F ee\n";

    fn printed(options: Options) -> String {
        String::from_utf8(Printer::new(options).print(LOG.as_bytes())).expect("text")
    }

    #[test]
    fn lines_are_printed_as_asked_for() {
        let time = |text: &str| text.parse::<Timestamp>().ok();
        assert_eq!(printed(Options::default()), "one\ntwo\nthree\n");
        let timestamps = Options { timestamps: true, ..Options::default() };
        assert_eq!(
            printed(timestamps),
            "2026-01-01T00:00:01Z one\n2026-01-01T00:00:02Z two\n2026-01-01T00:00:03Z three\n"
        );
        assert_eq!(printed(Options { since: time("2026-01-01T00:00:02Z"), ..Options::default() }), "two\nthree\n");
        assert_eq!(printed(Options { limit: Some(6), ..Options::default() }), "one\ntw");
        assert_eq!(printed(Options { stream: Some("stderr"), ..Options::default() }), "two\n");
    }

    #[test]
    fn the_tail_is_found_whatever_the_size() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let mut file = File::create(&path).expect("a file");
        for number in 0..30_000 {
            writeln!(file, "t stdout F line {number}").expect("written");
        }
        let tail = |lines| {
            let mut reader = Reader::open(&path, Some(lines)).expect("opened");
            let mut all = Vec::new();
            loop {
                let raw = reader.next().expect("read");
                if raw.is_empty() {
                    break String::from_utf8(all).expect("text").lines().count();
                }
                all.extend(raw);
            }
        };
        assert_eq!((tail(0), tail(1), tail(7), tail(29_999), tail(40_000)), (0, 1, 7, 29_999, 30_000));
    }

    #[test]
    fn a_log_may_grow_and_be_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        std::fs::write(&path, "a\nb").expect("written");
        let mut reader = Reader::open(&path, None).expect("opened");
        assert_eq!(reader.next().expect("read"), b"a\n");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("opened");
        file.write_all(b"c\n").expect("written");
        assert_eq!(reader.next().expect("read"), b"bc\n");
        assert!(!reader.follow_replacement().expect("looked"));
        std::fs::rename(&path, dir.path().join("log.old")).expect("renamed");
        std::fs::write(&path, "new\n").expect("written");
        assert!(reader.next().expect("read").is_empty() && reader.follow_replacement().expect("looked"));
        assert_eq!(reader.next().expect("read"), b"new\n");
    }
}
