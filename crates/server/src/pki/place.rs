//! Where certificates and keys are kept: a directory, or memory.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::PkiError;

/// Named texts, for their owner only.
pub(super) enum Place {
    Directory(PathBuf),
    Memory(Mutex<BTreeMap<String, String>>),
}

impl Place {
    /// A directory, made where it is missing.
    pub(super) fn directory(path: &Path) -> Result<Self, PkiError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| PkiError::Io { path: path.to_owned(), source })?;
        Ok(Self::Directory(path.to_owned()))
    }

    pub(super) fn memory() -> Self {
        Self::Memory(Mutex::default())
    }

    /// The path of `file`, for messages.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        match self {
            Self::Directory(directory) => directory.join(file),
            Self::Memory(_) => PathBuf::from(file),
        }
    }

    /// The text of `file`; `None` when there is no such file. What is not UTF-8 is not PEM either, and reads as damaged.
    pub(super) fn read(&self, file: &str) -> Result<Option<String>, PkiError> {
        match self {
            Self::Memory(files) => Ok(files.lock().get(file).cloned()),
            Self::Directory(directory) => {
                let path = directory.join(file);
                match fs::read(&path) {
                    Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(PkiError::Io { path, source }),
                }
            }
        }
    }

    /// Sets `file`, whole or not at all.
    pub(super) fn write(&self, file: &str, text: &str) -> Result<(), PkiError> {
        self.put(file, text, false)
    }

    /// As [`Place::write`], for what cannot be made anew: on disk for good after [`Place::sync`].
    pub(super) fn write_synced(&self, file: &str, text: &str) -> Result<(), PkiError> {
        self.put(file, text, true)
    }

    /// Makes the names of all files written so far last.
    pub(super) fn sync(&self) -> Result<(), PkiError> {
        let Self::Directory(directory) = self else { return Ok(()) };
        let synced = fs::File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|source| PkiError::Io { path: directory.clone(), source })
    }

    fn put(&self, file: &str, text: &str, sync: bool) -> Result<(), PkiError> {
        match self {
            Self::Memory(files) => {
                files.lock().insert(file.to_owned(), text.to_owned());
                Ok(())
            }
            Self::Directory(directory) => write_private(&directory.join(file), text, sync),
        }
    }
}

/// Replaces a file by renaming; readable by its owner only.
pub(super) fn write_private(path: &Path, text: &str, sync: bool) -> Result<(), PkiError> {
    let attempt = || {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let temporary = path.with_file_name(name);
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        if sync {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)
    };
    attempt().map_err(|source| PkiError::Io { path: path.to_owned(), source })
}
