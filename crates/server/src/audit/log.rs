//! The audit log in a file: a line of JSON for each event, and older files beside it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_meta::WorldRef;

use super::backend::Sink;

const DAY: Duration = Duration::from_secs(86_400);

/// Where the log is, and how much is kept.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// The file; `-` is standard output.
    pub path: PathBuf,
    /// Days that older files are kept; 0: for ever.
    pub max_age: u32,
    /// Older files that are kept; 0: all.
    pub max_backups: u32,
    /// Megabytes of one file; 0: 100.
    pub max_size: u32,
}

pub(super) struct Log {
    options: LogOptions,
    world: WorldRef,
    open: Mutex<Open>,
}

/// The file of the moment.
struct Open {
    /// `None`: standard output.
    file: Option<File>,
    size: u64,
}

impl Log {
    /// Opens the file, and makes it and its directory where needed.
    pub(super) fn open(options: LogOptions, world: WorldRef) -> io::Result<Self> {
        let open = if options.path == Path::new("-") {
            Open { file: None, size: 0 }
        } else {
            if let Some(folder) = options.path.parent() {
                fs::create_dir_all(folder)?;
            }
            create(&options.path)?
        };
        Ok(Self { options, world, open: Mutex::new(open) })
    }

    fn most(&self) -> u64 {
        u64::from(if self.options.max_size == 0 { 100 } else { self.options.max_size }) << 20
    }

    fn append(&self, lines: &[u8]) -> io::Result<()> {
        let mut open = self.open.lock();
        if open.file.is_none() {
            return io::stdout().lock().write_all(lines);
        }
        if open.size > 0 && open.size + lines.len() as u64 > self.most() {
            *open = self.rotate()?;
        }
        if let Some(file) = &mut open.file {
            file.write_all(lines)?;
        }
        open.size += lines.len() as u64;
        Ok(())
    }

    /// Puts the file aside under the time's name and begins a new one.
    fn rotate(&self) -> io::Result<Open> {
        let now = self.world.now();
        let stamp = now.strftime("%Y-%m-%dT%H-%M-%S.%3f");
        fs::rename(&self.options.path, self.sibling(&stamp.to_string()))?;
        let open = create(&self.options.path)?;
        if let Err(error) = self.forget() {
            tracing::warn!("older audit logs were not removed: {error}");
        }
        Ok(open)
    }

    /// Name and ending of the file, without the dot.
    fn parts(&self) -> (String, String) {
        let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let end = self.options.path.extension().map(|_| format!(".{}", text(self.options.path.extension())));
        (text(self.options.path.file_stem()), end.unwrap_or_default())
    }

    fn sibling(&self, stamp: &str) -> PathBuf {
        let (name, end) = self.parts();
        self.options.path.with_file_name(format!("{name}-{stamp}{end}"))
    }

    /// Removes files that are too many or too old; their names say when they were put aside.
    fn forget(&self) -> io::Result<()> {
        let (name, end) = self.parts();
        let folder = self.options.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut stamps: Vec<String> = fs::read_dir(folder)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|file| Some(file.strip_prefix(&format!("{name}-"))?.strip_suffix(&*end)?.to_owned()))
            .filter(|stamp| stamp.len() == 23 && stamp.as_bytes()[10] == b'T')
            .collect();
        stamps.sort_by(|a, b| b.cmp(a));
        let oldest = match self.options.max_age {
            0 => String::new(),
            days => {
                let then = self.world.now().checked_sub(DAY * days).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
                then.strftime("%Y-%m-%dT%H-%M-%S.%3f").to_string()
            }
        };
        let most = if self.options.max_backups == 0 { usize::MAX } else { self.options.max_backups as usize };
        for (_, stamp) in stamps.iter().enumerate().filter(|(place, stamp)| *place >= most || **stamp < oldest) {
            fs::remove_file(self.sibling(stamp))?;
        }
        Ok(())
    }
}

/// Opens a file that only its owner may read.
fn create(path: &Path) -> io::Result<Open> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let size = file.metadata()?.len();
    Ok(Open { file: Some(file), size })
}

#[async_trait]
impl Sink for Log {
    fn name(&self) -> &'static str {
        "log"
    }

    async fn write(&self, events: &[Value]) -> Result<(), String> {
        let mut lines = Vec::new();
        for event in events {
            serde_json::to_writer(&mut lines, event).map_err(|e| e.to_string())?;
            lines.push(b'\n');
        }
        self.append(&lines).map_err(|error| format!("{}: {error}", self.options.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_meta::world::RealWorld;

    #[tokio::test]
    async fn files_are_put_aside_and_in_the_end_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/audit.log");
        let names = || {
            let all = fs::read_dir(folder.path().join("logs")).unwrap();
            let mut names: Vec<String> = all.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let options = LogOptions { path: path.clone(), max_age: 1, max_backups: 2, max_size: 1 };
        let log = Log::open(options.clone(), RealWorld::shared()).unwrap();
        fs::write(folder.path().join("logs/audit-2001-01-01T00-00-00.000.log"), "old").unwrap();
        fs::write(folder.path().join("logs/audit-other.log"), "not ours").unwrap();
        let big = Value::String("x".repeat(700_000));
        log.write(std::slice::from_ref(&big)).await.unwrap();
        assert_eq!(names().len(), 3);
        for _ in 0..4 {
            let before = names();
            log.write(std::slice::from_ref(&big)).await.unwrap();
            assert_ne!(names(), before, "put aside at every write");
        }
        assert_eq!(names().iter().filter(|n| n.starts_with("audit-2")).count(), 2, "{:?}", names());
        assert!(names().iter().all(|n| !n.contains("2001")) && names().contains(&"audit-other.log".to_owned()));
        // Started again it goes on in the same file.
        drop(log);
        let log = Log::open(options, RealWorld::shared()).unwrap();
        log.write(&[Value::from(1)]).await.unwrap();
        assert!(fs::read_to_string(path).unwrap().ends_with("\"\n1\n"));
    }
}
