//! `cp`: files and directories between here and a container, as `tar` packs them there.

use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use serde_json::Value;
use tokio::sync::mpsc;

use super::exec::run_in;
use super::logs::pod_of;
use crate::error::CliError;
use crate::session::Session;

/// Copy files and directories to and from containers, which must have `tar`.
#[derive(Args)]
pub struct Cp {
    /// PATH, or [NAMESPACE/]POD:PATH
    from: String,
    /// PATH, or [NAMESPACE/]POD:PATH
    to: String,
    /// Container
    #[arg(short = 'c', long)]
    container: Option<String>,
    /// Do not keep owner and permissions in the container
    #[arg(long)]
    no_preserve: bool,
}

/// One side of a copy.
#[derive(Debug, PartialEq)]
enum Place<'a> {
    Here(&'a str),
    There { namespace: Option<&'a str>, pod: &'a str, path: &'a str },
}

impl<'a> Place<'a> {
    fn parse(text: &'a str) -> Result<Self, CliError> {
        let Some((pod, path)) = text.split_once(':').filter(|(pod, _)| !pod.starts_with(['.', '/'])) else {
            return Ok(Self::Here(text));
        };
        let (namespace, pod) = pod.split_once('/').map_or((None, pod), |(namespace, pod)| (Some(namespace), pod));
        if pod.is_empty() || path.is_empty() || pod.contains('/') {
            return Err(CliError::usage(format!("{text:?} is not of the form [NAMESPACE/]POD:PATH")));
        }
        Ok(Self::There { namespace, pod, path })
    }
}

/// How many pieces of an archive may wait for the other side.
const WAITING: usize = 16;
const PIECE: usize = 64 << 10;

impl Cp {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        match (Place::parse(&self.from)?, Place::parse(&self.to)?) {
            (Place::Here(from), Place::There { namespace, pod, path }) => {
                let pod = self.pod(session, namespace, pod).await?;
                self.send(session, Path::new(from), &pod, path).await
            }
            (Place::There { namespace, pod, path }, Place::Here(to)) => {
                let pod = self.pod(session, namespace, pod).await?;
                self.fetch(session, &pod, path, Path::new(to)).await
            }
            _ => Err(CliError::usage("one of src or dest must be a remote file specification")),
        }
    }

    async fn pod(&self, session: &mut Session, namespace: Option<&str>, pod: &str) -> Result<Value, CliError> {
        if let Some(namespace) = namespace {
            session.namespace = namespace.to_owned();
        }
        pod_of(session, pod).await
    }

    async fn send(&self, session: &mut Session, from: &Path, pod: &Value, to: &str) -> Result<(), CliError> {
        if !from.exists() {
            return Err(CliError::usage(format!("{} doesn't exist in local filesystem", from.display())));
        }
        let is_directory = ["test", "-d", to].map(str::to_owned);
        let is_directory = match run_in(session, pod, self.container.as_deref(), &is_directory, None, None).await {
            Ok(()) => true,
            Err(CliError::Exit(_)) => false,
            Err(other) => return Err(other),
        };
        let base = from.canonicalize().ok().and_then(|path| path.file_name().map(PathBuf::from));
        let base = base.ok_or_else(|| CliError::usage(format!("{} has no name of its own", from.display())))?;
        let to = if is_directory { Path::new(to).join(base) } else { PathBuf::from(to) };
        let (folder, name) = (to.parent().unwrap_or(Path::new("")), to.file_name().unwrap_or_default());
        let mut command = vec!["tar".to_owned()];
        if self.no_preserve {
            command.extend(["--no-same-permissions", "--no-same-owner"].map(str::to_owned));
        }
        command.extend(["-xmf", "-"].map(str::to_owned));
        if !folder.as_os_str().is_empty() {
            command.extend(["-C".to_owned(), folder.display().to_string()]);
        }
        let (pieces, input) = mpsc::channel(WAITING);
        let (from, name) = (from.to_owned(), PathBuf::from(name));
        let packing = tokio::task::spawn_blocking(move || pack(&from, &name, Pieces(pieces)));
        let done = run_in(session, pod, self.container.as_deref(), &command, Some(input), None).await;
        let packed = packing.await.map_err(|e| CliError::usage(e.to_string()))?;
        // What tar says in the container explains why it stopped reading.
        done.and(packed.map_err(|e| CliError::Io(self.from.clone(), e)))
    }

    async fn fetch(&self, session: &mut Session, pod: &Value, from: &str, to: &Path) -> Result<(), CliError> {
        let command = ["tar", "cf", "-", from].map(str::to_owned);
        let (output, pieces) = mpsc::channel(WAITING);
        let to = match Path::new(from).file_name() {
            Some(name) if to.is_dir() => to.join(name),
            _ => to.to_owned(),
        };
        let prefix = inside(Path::new(from));
        let unpacking =
            tokio::task::spawn_blocking(move || unpack(Received { pieces, rest: Bytes::new() }, &prefix, &to));
        let done = run_in(session, pod, self.container.as_deref(), &command, None, Some(output)).await;
        let unpacked = unpacking.await.map_err(|e| CliError::usage(e.to_string()))?;
        let skipped = done.and(unpacked.map_err(|e| CliError::Io(self.to.clone(), e)))?;
        skipped.iter().for_each(|what| session.warn(&format!("warning: skipping {what}")));
        Ok(())
    }
}

/// The parts of a path that lead down, without root and `..`.
fn inside(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => drop(out.pop()),
            _ => {}
        }
    }
    out
}

/// Packs a file or directory under another name.
fn pack(from: &Path, name: &Path, out: impl Write) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(out);
    archive.follow_symlinks(false);
    if from.is_dir() {
        archive.append_dir_all(name, from)?;
    } else {
        archive.append_path_with_name(from, name)?;
    }
    archive.into_inner()?.flush()
}

/// Unpacks what lies under `prefix` to `to`; returns what was left out. Links are not followed out of the directory,
/// since whoever runs the container chooses them.
fn unpack(from: impl Read, prefix: &Path, to: &Path) -> std::io::Result<Vec<String>> {
    let mut skipped = Vec::new();
    for entry in tar::Archive::new(from).entries()? {
        let mut entry = entry?;
        let name = inside(&entry.path()?);
        let below = name.strip_prefix(prefix).map_err(|_| std::io::Error::other("tar contents corrupted"))?;
        let place = if below.as_os_str().is_empty() { to.to_owned() } else { to.join(below) };
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            std::fs::create_dir_all(&place)?;
        } else if kind.is_file() {
            if let Some(folder) = place.parent() {
                std::fs::create_dir_all(folder)?;
            }
            std::io::copy(&mut entry, &mut std::fs::File::create(&place)?)?;
        } else {
            skipped.push(format!("{} (no file or directory)", place.display()));
        }
    }
    Ok(skipped)
}

/// Sends what is written, in pieces.
struct Pieces(mpsc::Sender<Bytes>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = bytes.len().min(PIECE);
        let sent = self.0.blocking_send(Bytes::copy_from_slice(&bytes[..count]));
        sent.map(|()| count).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Reads pieces as they come.
struct Received {
    pieces: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.rest = piece,
            }
        }
        let count = self.rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.rest.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let there = |namespace, pod, path| Place::There { namespace, pod, path };
        for (text, place) in [
            ("a/b", Place::Here("a/b")),
            ("./a:b", Place::Here("./a:b")),
            ("web:/tmp/x", there(None, "web", "/tmp/x")),
            ("ns/web:x", there(Some("ns"), "web", "x")),
        ] {
            assert_eq!(Place::parse(text).unwrap(), place, "{text}");
        }
        assert!(Place::parse("web:").is_err());
    }

    #[test]
    fn what_is_packed_is_unpacked_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("from/inner")).unwrap();
        std::fs::write(at("from/inner/file"), "text").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at("from/link")).unwrap();
        let mut archive = Vec::new();
        pack(&at("from"), Path::new("tmp/x"), &mut archive).unwrap();
        let skipped = unpack(&archive[..], Path::new("tmp/x"), &at("to")).unwrap();
        assert_eq!(std::fs::read_to_string(at("to/inner/file")).unwrap(), "text");
        assert!(skipped.len() == 1 && !at("to/link").exists(), "{skipped:?}");
        assert!(unpack(&archive[..], Path::new("other"), &at("to")).is_err());
        let mut archive = Vec::new();
        pack(&at("from/inner/file"), Path::new("file"), &mut archive).unwrap();
        unpack(&archive[..], Path::new("file"), &at("alone")).unwrap();
        assert_eq!(std::fs::read_to_string(at("alone")).unwrap(), "text");
        assert_eq!(inside(Path::new("/a/../../etc/./x")), Path::new("etc/x"));
    }
}
