//! `skiff image`: the images of the nodes whose data lie on this machine, one node's or a whole local cluster's.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use skiff_cri::Runtime;
use skiff_cri::containerd;
use skiff_meta::WorldRef;

use crate::error::StartError;
use crate::flags::Image;

/// Carries out one of the verbs.
pub(crate) async fn run(verb: &Image, world: WorldRef) -> Result<(), StartError> {
    let data = match verb {
        Image::Load { data_dir, .. } | Image::List { data_dir } | Image::Rm { data_dir, .. } => data_dir,
    };
    let nodes = nodes(data);
    if nodes.is_empty() {
        return Err(StartError::NoNode(data.display().to_string()));
    }
    let mut lines = BTreeSet::new();
    for node in &nodes {
        let runtime = containerd::client(&node.join("containerd"), world.clone())?;
        match verb {
            Image::Load { files, .. } => {
                for file in files {
                    lines.extend(runtime.import_images(file).await?);
                }
            }
            Image::List { .. } => lines.extend(list(&runtime).await?),
            Image::Rm { names, .. } => {
                for name in names {
                    if runtime.image_status(name).await?.is_some() {
                        runtime.remove_image(name).await?;
                        lines.insert(name.clone());
                    }
                }
            }
        }
    }
    if let Image::Rm { names, .. } = verb
        && let Some(missing) = names.iter().find(|name| !lines.contains(*name))
    {
        return Err(StartError::NoImage(missing.clone()));
    }
    let text: String = lines.into_iter().map(|line| line + "\n").collect();
    // Whoever reads may have read enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

/// The data directories of nodes: this one, or those of the local cluster in it.
fn nodes(data: &Path) -> Vec<PathBuf> {
    let is_node = |path: &Path| path.join("containerd").is_dir();
    if is_node(data) {
        return vec![data.to_owned()];
    }
    let entries = std::fs::read_dir(data).into_iter().flatten().flatten();
    let mut nodes: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| is_node(path)).collect();
    nodes.sort();
    nodes
}

/// A line for each name: name, id, size.
async fn list(runtime: &impl Runtime) -> Result<Vec<String>, StartError> {
    let mut lines = Vec::new();
    for image in runtime.list_images().await? {
        let id: String = image.id.trim_start_matches("sha256:").chars().take(12).collect();
        let mib = image.size as f64 / f64::from(1 << 20);
        let names = if image.repo_tags.is_empty() { image.repo_digests } else { image.repo_tags };
        lines.extend(names.into_iter().map(|name| format!("{name}  {id}  {mib:.1} MiB")));
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_or_those_of_a_local_cluster() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(nodes(dir.path()).is_empty());
        for name in ["node-2", "node-1", "images"] {
            std::fs::create_dir_all(dir.path().join(name)).expect("made");
        }
        for name in ["node-2/containerd", "node-1/containerd"] {
            std::fs::create_dir_all(dir.path().join(name)).expect("made");
        }
        assert_eq!(nodes(dir.path()), [dir.path().join("node-1"), dir.path().join("node-2")]);
        std::fs::create_dir_all(dir.path().join("containerd")).expect("made");
        assert_eq!(nodes(dir.path()), [dir.path()]);
    }
}
