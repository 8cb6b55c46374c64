//! Files of pods: directories, volumes' contents, last words of containers.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use super::usage::{Size, Space};

/// One file of a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner; `None`: root.
    pub owner: Option<u32>,
}

/// Reads and writes files. Calls block, but for no longer than a local disk takes.
pub trait Files: Send + Sync + 'static {
    /// Makes a directory with all above it; `mode` are the permission bits of the last one.
    ///
    /// # Errors
    /// When the system refuses.
    fn make_directory(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Writes a file with these permission bits; who reads it sees the old or the new content, never a part.
    ///
    /// # Errors
    /// When the system refuses.
    fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()>;
    /// Puts another file in the place of this one: who reads it sees the old or the new content, whenever the machine stops.
    ///
    /// # Errors
    /// When the system refuses.
    fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()>;
    /// Makes a directory show exactly these files (by path below it), all of them at once, as upstream's volumes do:
    /// they lie in a directory of their own, and one symbolic link is switched over.
    ///
    /// # Errors
    /// When the system refuses.
    fn publish(&self, directory: &Path, files: &BTreeMap<String, Content>, group: Option<u32>) -> io::Result<()>;
    /// The last `limit` bytes of a file; nothing when it is not there.
    ///
    /// # Errors
    /// When the system refuses.
    fn tail(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>>;
    /// Removes a file or a directory with all in it; fine when it is not there.
    ///
    /// # Errors
    /// When the system refuses.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory; none when it is not there.
    ///
    /// # Errors
    /// When the system refuses.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;
    /// Gives a directory and all in it to a group, which may then write; new files in it inherit the group. With
    /// `root_only` nothing is touched when the directory itself is the group's already.
    ///
    /// # Errors
    /// When the system refuses.
    fn give_to_group(&self, directory: &Path, group: u32, root_only: bool) -> io::Result<()>;
    /// What a file takes, or a directory with all in it on the same file system; nothing when it is not there.
    ///
    /// # Errors
    /// When the system refuses.
    fn size(&self, path: &Path) -> io::Result<Size>;
    /// What is left of the file system of a path.
    ///
    /// # Errors
    /// When the path is not there.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// What a host path of this type refers to is there, or is made where the type says so. Types are upstream's
    /// (`DirectoryOrCreate`, `File`, ...), empty for none.
    ///
    /// # Errors
    /// When something else is there, or nothing.
    fn check_host_path(&self, path: &Path, kind: &str) -> io::Result<()>;
    /// `below` inside `directory`, made where it is missing; `None` when links lead out of the directory.
    ///
    /// # Errors
    /// When the system refuses.
    fn resolve_below(&self, directory: &Path, below: &str) -> io::Result<Option<PathBuf>>;
}

/// The machine's files.
pub struct RealFiles;

/// Where a volume's files really are.
const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn not_found_is<T>(result: io::Result<T>, otherwise: T) -> io::Result<T> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(otherwise),
        other => other,
    }
}

impl Files for RealFiles {
    fn make_directory(&self, path: &Path, mode: u32) -> io::Result<()> {
        fs::create_dir_all(path)?;
        set_mode(path, mode)
    }

    fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        // A file that a container has mounted stays the same file only if it is written in place.
        if path.exists() {
            return fs::write(path, bytes);
        }
        self.replace(path, bytes, mode)
    }

    fn replace(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let mut next = path.as_os_str().to_owned();
        next.push(".new");
        fs::write(&next, bytes)?;
        set_mode(Path::new(&next), mode)?;
        fs::rename(&next, path)
    }

    fn publish(&self, directory: &Path, files: &BTreeMap<String, Content>, group: Option<u32>) -> io::Result<()> {
        let old = not_found_is(fs::read_link(directory.join(DATA)).map(Some), None)?;
        if let Some(old) = &old
            && holds_exactly(&directory.join(old), files)?
        {
            return Ok(());
        }
        let name = new_name(directory);
        let fresh = directory.join(&name);
        fs::create_dir(&fresh)?;
        set_mode(&fresh, 0o755)?;
        for (path, content) in files {
            let path = fresh.join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, &content.bytes)?;
            set_mode(&path, if group.is_some() { content.mode | 0o040 } else { content.mode })?;
            chown(&path, content.owner, group)?;
        }
        // The names people see lead through the one link that is switched.
        for top in tops(files) {
            let link = directory.join(top);
            if fs::symlink_metadata(&link).is_err() {
                symlink(Path::new(DATA).join(top), &link)?;
            }
        }
        let next = directory.join(NEXT);
        not_found_is(fs::remove_file(&next), ())?;
        symlink(&name, &next)?;
        fs::rename(&next, directory.join(DATA))?;
        for stale in fs::read_dir(directory)?.flatten() {
            let stale_name = stale.file_name().to_string_lossy().into_owned();
            let is_link = !stale_name.starts_with("..");
            if is_link && !tops(files).any(|top| top == stale_name) {
                fs::remove_file(stale.path())?;
            }
        }
        match old {
            Some(old) => not_found_is(fs::remove_dir_all(directory.join(old)), ()),
            None => Ok(()),
        }
    }

    fn tail(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        use std::io::{Read, Seek, SeekFrom};
        let Some(mut file) = not_found_is(fs::File::open(path).map(Some), None)? else { return Ok(Vec::new()) };
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(limit as u64)))?;
        let mut bytes = Vec::new();
        file.take(limit as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let kind = not_found_is(fs::symlink_metadata(path).map(Some), None)?;
        match kind {
            Some(kind) if kind.is_dir() => not_found_is(fs::remove_dir_all(path), ()),
            Some(_) => not_found_is(fs::remove_file(path), ()),
            None => Ok(()),
        }
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let Some(entries) = not_found_is(fs::read_dir(directory).map(Some), None)? else { return Ok(Vec::new()) };
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    fn give_to_group(&self, directory: &Path, group: u32, root_only: bool) -> io::Result<()> {
        let own = fs::metadata(directory)?;
        if root_only && own.gid() == group && own.mode() & 0o2770 == 0o2770 {
            return Ok(());
        }
        for entry in fs::read_dir(directory)?.flatten() {
            if entry.file_type()?.is_dir() {
                self.give_to_group(&entry.path(), group, false)?;
            } else if !entry.file_type()?.is_symlink() {
                chown(entry.path(), None, Some(group))?;
                set_mode(&entry.path(), entry.metadata()?.permissions().mode() | 0o660)?;
            }
        }
        chown(directory, None, Some(group))?;
        set_mode(directory, own.mode() | 0o2770)
    }

    fn size(&self, path: &Path) -> io::Result<Size> {
        match not_found_is(fs::symlink_metadata(path).map(Some), None)? {
            Some(found) => size(path, &found),
            None => Ok(Size::default()),
        }
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        Space::of(path)
    }

    fn check_host_path(&self, path: &Path, kind: &str) -> io::Result<()> {
        use std::os::unix::fs::FileTypeExt;
        let wrong =
            |what: &str| Err(io::Error::other(format!("hostPath type check failed: {} is not {what}", path.display())));
        if kind == "DirectoryOrCreate" && !path.exists() {
            return fs::create_dir_all(path);
        }
        if kind == "FileOrCreate" && !path.exists() {
            return fs::write(path, b"");
        }
        let found = match kind {
            // Whatever is there is mounted; what is not there is made a directory by the runtime.
            "" => return Ok(()),
            _ => not_found_is(fs::metadata(path).map(|metadata| Some(metadata.file_type())), None)?,
        };
        let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_some_and(test);
        match kind {
            "Directory" | "DirectoryOrCreate" if !is(fs::FileType::is_dir) => wrong("a directory"),
            "File" | "FileOrCreate" if !is(fs::FileType::is_file) => wrong("a file"),
            "Socket" if !is(|kind| kind.is_socket()) => wrong("a socket file"),
            "CharDevice" if !is(|kind| kind.is_char_device()) => wrong("a character device"),
            "BlockDevice" if !is(|kind| kind.is_block_device()) => wrong("a block device"),
            _ => Ok(()),
        }
    }

    fn resolve_below(&self, directory: &Path, below: &str) -> io::Result<Option<PathBuf>> {
        if Path::new(below).components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Ok(None);
        }
        let root = fs::canonicalize(directory)?;
        let path = root.join(below);
        if !path.exists() {
            // Walk down as far as things exist, so that nothing is made where a link leads.
            let there = path.ancestors().find(|path| path.exists()).unwrap_or(&root);
            if !fs::canonicalize(there)?.starts_with(&root) {
                return Ok(None);
            }
            fs::create_dir_all(&path)?;
        }
        let real = fs::canonicalize(&path)?;
        Ok(real.starts_with(&root).then_some(real))
    }
}

/// A file may go while it is looked at.
fn size(path: &Path, found: &fs::Metadata) -> io::Result<Size> {
    let mut sum = Size { bytes: found.blocks() * 512, inodes: 1 };
    if !found.is_dir() {
        return Ok(sum);
    }
    for entry in not_found_is(fs::read_dir(path).map(Some), None)?.into_iter().flatten().flatten() {
        let Some(inner) = not_found_is(entry.metadata().map(Some), None)? else { continue };
        if inner.dev() == found.dev() {
            sum = sum + size(&entry.path(), &inner)?;
        }
    }
    Ok(sum)
}

fn tops(files: &BTreeMap<String, Content>) -> impl Iterator<Item = &str> {
    files.keys().filter_map(|path| path.split('/').next())
}

/// A name that is not taken, in upstream's style: two dots hide it from programs that list the volume.
fn new_name(directory: &Path) -> String {
    (0u64..)
        .map(|n| format!("..{n}"))
        .find(|name| fs::symlink_metadata(directory.join(name)).is_err())
        .unwrap_or_default()
}

fn holds_exactly(directory: &Path, files: &BTreeMap<String, Content>) -> io::Result<bool> {
    let mut present = Vec::new();
    collect(directory, Path::new(""), &mut present)?;
    present.sort();
    if !present.iter().eq(files.keys()) {
        return Ok(false);
    }
    for (path, content) in files {
        if not_found_is(fs::read(directory.join(path)), Vec::new())? != content.bytes {
            return Ok(false);
        }
    }
    Ok(true)
}

fn collect(directory: &Path, below: &Path, out: &mut Vec<String>) -> io::Result<()> {
    let Some(entries) = not_found_is(fs::read_dir(directory.join(below)).map(Some), None)? else { return Ok(()) };
    for entry in entries.flatten() {
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(directory, &path, out)?;
        } else {
            out.push(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

/// No files: writing succeeds and leaves nothing.
pub struct NoFiles;

impl Files for NoFiles {
    fn make_directory(&self, _: &Path, _: u32) -> io::Result<()> {
        Ok(())
    }
    fn write(&self, _: &Path, _: &[u8], _: u32) -> io::Result<()> {
        Ok(())
    }
    fn replace(&self, _: &Path, _: &[u8], _: u32) -> io::Result<()> {
        Ok(())
    }
    fn publish(&self, _: &Path, _: &BTreeMap<String, Content>, _: Option<u32>) -> io::Result<()> {
        Ok(())
    }
    fn tail(&self, _: &Path, _: usize) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }
    fn remove(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn give_to_group(&self, _: &Path, _: u32, _: bool) -> io::Result<()> {
        Ok(())
    }
    fn size(&self, _: &Path) -> io::Result<Size> {
        Ok(Size::default())
    }
    fn space(&self, _: &Path) -> io::Result<Space> {
        Ok(Space::default())
    }
    fn check_host_path(&self, _: &Path, _: &str) -> io::Result<()> {
        Ok(())
    }
    fn resolve_below(&self, directory: &Path, below: &str) -> io::Result<Option<PathBuf>> {
        Ok(Some(directory.join(below)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(pairs: &[(&str, &str)]) -> BTreeMap<String, Content> {
        let content = |text: &str| Content { bytes: text.into(), mode: 0o644, owner: None };
        pairs.iter().map(|(path, text)| ((*path).to_owned(), content(text))).collect()
    }

    #[test]
    fn a_volume_is_switched_in_one_step() {
        let dir = tempfile::tempdir().expect("a directory");
        let read = |path: &str| fs::read_to_string(dir.path().join(path)).ok();
        RealFiles.publish(dir.path(), &files(&[("a", "1"), ("d/b", "2")]), None).expect("published");
        assert_eq!((read("a").as_deref(), read("d/b").as_deref()), (Some("1"), Some("2")));
        let first = fs::read_link(dir.path().join(DATA)).expect("a link");
        RealFiles.publish(dir.path(), &files(&[("a", "1"), ("d/b", "2")]), None).expect("published");
        assert_eq!(fs::read_link(dir.path().join(DATA)).expect("a link"), first, "nothing changed, nothing switched");
        RealFiles.publish(dir.path(), &files(&[("a", "3"), ("c", "4")]), None).expect("published");
        assert_eq!((read("a").as_deref(), read("c").as_deref(), read("d/b")), (Some("3"), Some("4"), None));
        let mut names = RealFiles.list(dir.path()).expect("listed");
        names.sort();
        assert_eq!(names.len(), 4, "{names:?}: the link, its directory and two names");
    }

    #[test]
    fn paths_stay_below_their_volume() {
        let dir = tempfile::tempdir().expect("a directory");
        let volume = dir.path().join("v");
        fs::create_dir(&volume).expect("made");
        symlink("/etc", volume.join("out")).expect("linked");
        let resolve = |below: &str| RealFiles.resolve_below(&volume, below).expect("resolved");
        assert!(resolve("a/b").is_some_and(|path| path.is_dir()));
        assert_eq!((resolve("../x"), resolve("out"), resolve("out/new")), (None, None, None));
    }

    #[test]
    fn a_group_may_write_what_it_is_given() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("f"), "").expect("written");
        let group = fs::metadata(dir.path()).expect("there").gid();
        RealFiles.give_to_group(dir.path(), group, false).expect("given");
        let mode = |name: &str| fs::metadata(dir.path().join(name)).expect("there").mode() & 0o7777;
        assert_eq!((mode("") & 0o2070, mode("f") & 0o060), (0o2070, 0o060));
        fs::write(dir.path().join("g"), "").expect("written");
        set_mode(&dir.path().join("g"), 0o600).expect("set");
        RealFiles.give_to_group(dir.path(), group, true).expect("given");
        assert_eq!(mode("g"), 0o600, "the root is the group's, so nothing is looked at");
    }

    #[test]
    fn the_end_of_a_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("f");
        fs::write(&path, "0123456789").expect("written");
        assert_eq!(RealFiles.tail(&path, 4).expect("read"), b"6789");
        assert!(RealFiles.tail(&dir.path().join("none"), 4).expect("read").is_empty());
        let size = RealFiles.size(dir.path()).expect("counted");
        assert!(size.bytes > 0 && size.inodes > 1, "{size:?}");
        assert_eq!(RealFiles.size(&dir.path().join("none")).expect("counted"), Size::default());
    }

    #[test]
    fn host_paths_are_what_they_are_said_to_be() {
        let dir = tempfile::tempdir().expect("a directory");
        let made = dir.path().join("x/y");
        RealFiles.check_host_path(&made, "DirectoryOrCreate").expect("made");
        assert!(RealFiles.check_host_path(&made, "File").is_err());
        assert!(RealFiles.check_host_path(&dir.path().join("none"), "Directory").is_err());
        RealFiles.check_host_path(&dir.path().join("none"), "").expect("not checked");
    }
}
