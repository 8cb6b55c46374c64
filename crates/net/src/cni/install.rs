//! Putting plugin and configuration where the container runtime looks for them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::protocol::{PluginConfig, VERSIONS};

/// The plugin's file name; the binary answers to it.
pub(super) const PLUGIN: &str = "skiff-cni";
/// What containerd calls first, by this name.
const LOOPBACK: &str = "loopback";
/// First in the directory's order, so that the runtime takes ours.
const CONFIG: &str = "00-skiff.conflist";

/// A file could not be put in its place.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", path.display())]
pub struct InstallError {
    /// Which file.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// Links this program into `bin_dir` as `skiff-cni` and writes the network's configuration list into `conf_dir`. Each
/// appears whole or not at all; a runtime that watches the directory sees one finished file.
///
/// # Errors
/// When a directory cannot be made or written.
pub fn install(bin_dir: &Path, conf_dir: &Path, config: &PluginConfig) -> Result<(), InstallError> {
    let program = std::env::current_exe().map_err(at(Path::new("/proc/self/exe")))?;
    fs::create_dir_all(bin_dir).map_err(at(bin_dir))?;
    fs::create_dir_all(conf_dir).map_err(at(conf_dir))?;
    for plugin in [PLUGIN, LOOPBACK] {
        put(&bin_dir.join(plugin), |temporary| std::os::unix::fs::symlink(&program, temporary))?;
    }
    let text = format!("{:#}\n", config_list(config));
    put(&conf_dir.join(CONFIG), |temporary| fs::write(temporary, &text))
}

/// Removes what [`install`] put there.
///
/// # Errors
/// When a file is there and cannot be removed.
pub fn uninstall(bin_dir: &Path, conf_dir: &Path) -> Result<(), InstallError> {
    for path in [conf_dir.join(CONFIG), bin_dir.join(PLUGIN), bin_dir.join(LOOPBACK)] {
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(InstallError { path, source }),
            _ => {}
        }
    }
    Ok(())
}

/// The configuration that [`install`] wrote into `conf_dir`, where it is there and can be read.
pub fn installed(conf_dir: &Path) -> Option<PluginConfig> {
    let text = fs::read(conf_dir.join(CONFIG)).ok()?;
    let mut list: Value = serde_json::from_slice(&text).ok()?;
    serde_json::from_value(list.pointer_mut("/plugins/0")?.take()).ok()
}

fn config_list(config: &PluginConfig) -> Value {
    // Serialization of a plain struct with string keys cannot fail.
    let mut plugin = serde_json::to_value(config).unwrap_or_default();
    if let Some(fields) = plugin.as_object_mut() {
        fields.remove("cniVersion");
        fields.remove("name");
        fields.insert("type".to_owned(), json!(PLUGIN));
        fields.insert("capabilities".to_owned(), json!({"portMappings": true, "bandwidth": true}));
    }
    json!({"cniVersion": VERSIONS[0], "name": config.name, "plugins": [plugin]})
}

/// Makes a file under another name and moves it into place.
fn put(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), InstallError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.new"));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&temporary)(error)),
        _ => {}
    }
    make(&temporary).map_err(at(&temporary))?;
    fs::rename(&temporary, path).map_err(at(path))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_path_buf();
    move |source| InstallError { path, source }
}
