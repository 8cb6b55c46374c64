//! `cargo xtask image NAME`: OCI archives from Debian's packages, without a registry and without root.
//!
//! Packages are downloaded and unpacked (no scripts run), unneeded parts dropped, and what is left becomes one layer.
//! The archive is the same for the same packages: names sorted, times zero.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Failure;
use crate::run::{cargo, command, root, run, target};

/// One image: what goes in and how it starts.
struct Recipe {
    name: &'static str,
    /// References it is known by; each gets a layer of its own with `/usr/share/nginx/html/version` naming the tag, so
    /// that a rollout from one tag to the next is a real change.
    tags: &'static [&'static str],
    packages: &'static [&'static str],
    files: &'static [(&'static str, &'static str)],
    links: &'static [(&'static str, &'static str)],
    /// Programs of this workspace, which are built for it and lie in `bin/`.
    programs: &'static [&'static str],
    command: &'static [&'static str],
    /// The signal that asks for a graceful end.
    stop_signal: &'static str,
}

const USERS: (&str, &str) = (
    "etc/passwd",
    "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
);
const GROUPS: (&str, &str) = ("etc/group", "root:x:0:\nadm:x:4:\nwww-data:x:33:\nnogroup:x:65534:\n");

const NGINX_CONF: &str = "daemon off;\nuser www-data;\nworker_processes 1;\npid /run/nginx.pid;\nerror_log stderr;\n\
events { worker_connections 512; }\nhttp {\n  access_log off;\n  default_type text/plain;\n  server {\n    listen 80;\n    \
root /usr/share/nginx/html;\n    index index.html;\n    location / { add_header Content-Type text/html; }\n  }\n}\n";

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "busybox",
        tags: &["docker.io/library/busybox:1.35", "docker.io/library/busybox:latest"],
        packages: &["busybox-static"],
        files: &[USERS, GROUPS],
        links: APPLETS,
        programs: &[],
        command: &["/bin/sh"],
        stop_signal: "SIGTERM",
    },
    Recipe {
        name: "nginx",
        tags: &["docker.io/library/nginx:1.22", "docker.io/library/nginx:1.22-next"],
        packages: &[
            "nginx",
            "nginx-common",
            "libc6",
            "libgcc-s1",
            "zlib1g",
            "libpcre2-8-0",
            "libssl3",
            "libcrypt1",
            "busybox-static",
        ],
        files: &[
            USERS,
            GROUPS,
            ("etc/nginx/nginx.conf", NGINX_CONF),
            (
                "usr/share/nginx/html/index.html",
                "<!doctype html><title>skiff</title><h1>A declaration became a running pod</h1>\n",
            ),
            ("var/log/nginx/.keep", ""),
            ("var/lib/nginx/.keep", ""),
            ("run/.keep", ""),
        ],
        links: APPLETS,
        programs: &[],
        command: &["/usr/sbin/nginx"],
        stop_signal: "SIGQUIT",
    },
    Recipe {
        name: "probe",
        tags: &["docker.io/library/probe:1"],
        packages: &["libc6", "libgcc-s1", "busybox-static"],
        files: &[USERS, GROUPS],
        links: APPLETS,
        programs: &["probe"],
        command: &["/bin/probe", "serve"],
        stop_signal: "SIGTERM",
    },
    Recipe {
        name: "python",
        tags: &["docker.io/library/python:3.11"],
        packages: &[
            "python3.11-minimal",
            "libpython3.11-minimal",
            "libpython3.11-stdlib",
            "libc6",
            "libexpat1",
            "libssl3",
            "zlib1g",
        ],
        files: &[USERS, GROUPS],
        links: &[("usr/bin/python3", "python3.11")],
        programs: &[],
        command: &["/usr/bin/python3"],
        stop_signal: "SIGTERM",
    },
    Recipe {
        name: "cni-plugins",
        tags: &["docker.io/library/cni-plugins:1.1"],
        packages: &["containernetworking-plugins", "busybox-static"],
        files: &[USERS, GROUPS],
        links: APPLETS,
        programs: &[],
        command: &["/bin/sh"],
        stop_signal: "SIGTERM",
    },
];

/// Programs that people and tests call in a container, each a link to busybox.
const APPLETS: &[(&str, &str)] = &[
    ("bin/sh", "busybox"),
    ("bin/cat", "busybox"),
    ("bin/cp", "busybox"),
    ("bin/mv", "busybox"),
    ("bin/printf", "busybox"),
    ("bin/ls", "busybox"),
    ("bin/echo", "busybox"),
    ("bin/sleep", "busybox"),
    ("bin/wget", "busybox"),
    ("bin/nslookup", "busybox"),
    ("bin/ps", "busybox"),
    ("bin/kill", "busybox"),
    ("bin/id", "busybox"),
    ("bin/mount", "busybox"),
    ("bin/hostname", "busybox"),
    ("bin/ip", "busybox"),
    ("bin/nc", "busybox"),
    ("bin/env", "busybox"),
    ("bin/head", "busybox"),
    ("bin/tail", "busybox"),
    ("bin/tar", "busybox"),
    ("bin/grep", "busybox"),
    ("bin/stat", "busybox"),
    ("bin/date", "busybox"),
    ("bin/true", "busybox"),
    ("bin/false", "busybox"),
    ("bin/touch", "busybox"),
    ("bin/rm", "busybox"),
    ("bin/httpd", "busybox"),
    ("bin/seq", "busybox"),
    ("bin/test", "busybox"),
    ("bin/tr", "busybox"),
    ("bin/wc", "busybox"),
    ("bin/yes", "busybox"),
    ("bin/dd", "busybox"),
    ("bin/df", "busybox"),
    ("bin/mkdir", "busybox"),
    ("bin/ping", "busybox"),
    ("bin/vi", "busybox"),
];

/// Parts of packages that no container needs.
const DROPPED: &[&str] = &[
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/share/initramfs-tools",
    "usr/lib/locale",
    "etc/default",
    "etc/init.d",
    "etc/systemd",
    "lib/systemd",
    "usr/share/gcc",
];

/// Builds the image `name` (or all) into `out/NAME.tar` and prints where it is; an archive that is there already stays.
pub(crate) fn build(name: &str, out: &Path) -> Result<(), Failure> {
    let out = if out.is_absolute() { out.to_path_buf() } else { root().join(out) };
    let wanted: Vec<&Recipe> = RECIPES.iter().filter(|r| name == "all" || r.name == name).collect();
    if wanted.is_empty() {
        let known: Vec<&str> = RECIPES.iter().map(|r| r.name).collect();
        return Err(format!("no image {name}; there are: {}, all", known.join(", ")));
    }
    for recipe in wanted {
        let archive = out.join(format!("{}.tar", recipe.name));
        let programs = programs(recipe)?;
        // The recipe is part of this program.
        let recipe_of = std::env::current_exe().map_err(|e| e.to_string())?;
        if !is_newer(&archive, &[&programs[..], &[recipe_of]].concat()) {
            let work = out.join(format!(".{}", recipe.name));
            let made = make(recipe, &programs, &work, &archive);
            let _ = fs::remove_dir_all(&work);
            made?;
        }
        println!("{}", archive.display());
    }
    Ok(())
}

/// Builds the programs of an image; where they are.
fn programs(recipe: &Recipe) -> Result<Vec<PathBuf>, Failure> {
    let build = |name: &&str| {
        // As the tests build everything, so that nothing is built twice.
        run(&mut cargo(["build", "--locked", "--quiet", "--workspace", "--bin", name]))?;
        Ok(target().join("debug").join(name))
    };
    recipe.programs.iter().map(build).collect()
}

/// Whether an archive is there and none of the programs in it has changed since.
fn is_newer(archive: &Path, programs: &[PathBuf]) -> bool {
    let made = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
    made(archive).is_some_and(|at| programs.iter().all(|program| made(program).is_some_and(|built| built <= at)))
}

fn make(recipe: &Recipe, programs: &[PathBuf], work: &Path, archive: &Path) -> Result<(), Failure> {
    let _ = fs::remove_dir_all(work);
    let (debs, tree) = (work.join("debs"), work.join("tree"));
    for dir in [&debs, &tree] {
        fs::create_dir_all(dir).map_err(at(dir))?;
    }
    let mut download = vec!["download", "-qq"];
    download.extend(recipe.packages);
    run(command("apt-get", download).current_dir(&debs))?;
    for deb in list(&debs)? {
        run(&mut command("dpkg-deb", [Path::new("-x"), &deb, &tree]))?;
    }
    for dropped in DROPPED {
        let _ = fs::remove_dir_all(tree.join(dropped));
    }
    for (path, text) in recipe.files {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&tree)).map_err(at(&path))?;
        let _ = fs::remove_file(&path);
        fs::write(&path, text).map_err(at(&path))?;
    }
    for program in programs {
        let inside = tree.join("bin").join(program.file_name().unwrap_or_default());
        run(command("strip", ["-o"]).arg(&inside).arg(program))?;
    }
    fs::create_dir_all(tree.join("tmp")).map_err(at(&tree))?;
    fs::set_permissions(tree.join("tmp"), fs::Permissions::from_mode(0o1777)).map_err(at(&tree))?;
    for (link, to) in recipe.links {
        let link = tree.join(link);
        if link.symlink_metadata().is_err() {
            symlink(to, &link).map_err(at(&link))?;
        }
    }
    let base = Layer::of(&tree)?;
    let mut oci = Oci::default();
    for tag in recipe.tags {
        oci.add(recipe, tag, &base)?;
    }
    let partial = archive.with_extension("partial");
    fs::write(&partial, oci.finish()?).map_err(at(&partial))?;
    fs::rename(&partial, archive).map_err(at(archive))
}

fn at(path: &Path) -> impl Fn(std::io::Error) -> Failure {
    let path = path.display().to_string();
    move |error| format!("{path}: {error}")
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir).map_err(at(dir))?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>().map_err(at(dir))?;
    paths.sort();
    Ok(paths)
}

/// A gzipped tar with the two digests OCI wants.
struct Layer {
    gzip: Vec<u8>,
    diff_id: String,
}

impl Layer {
    fn of(tree: &Path) -> Result<Self, Failure> {
        let mut tar = tar::Builder::new(Vec::new());
        tar.follow_symlinks(false);
        append(&mut tar, tree, Path::new("")).map_err(at(tree))?;
        Self::seal(tar.into_inner().map_err(at(tree))?)
    }

    /// A layer with one small file.
    fn note(path: &str, text: &str) -> Result<Self, Failure> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = plain_header(0o644);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, path, text.as_bytes()).map_err(at(Path::new(path)))?;
        Self::seal(tar.into_inner().map_err(at(Path::new(path)))?)
    }

    fn seal(tar: Vec<u8>) -> Result<Self, Failure> {
        let diff_id = digest(&tar);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(4));
        gzip.write_all(&tar).and_then(|()| gzip.finish()).map(|gzip| Self { gzip, diff_id }).map_err(|e| e.to_string())
    }
}

fn plain_header(mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn append(tar: &mut tar::Builder<Vec<u8>>, dir: &Path, inside: &Path) -> std::io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), inside.join(entry.file_name()));
        let meta = path.symlink_metadata()?;
        let mut header = plain_header(meta.permissions().mode() & 0o7777);
        header.set_size(0);
        if meta.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, &name, fs::read_link(&path)?)?;
        } else if meta.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, &name, std::io::empty())?;
            append(tar, &path, &name)?;
        } else {
            let mut bytes = Vec::new();
            fs::File::open(&path)?.read_to_end(&mut bytes)?;
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, &name, &*bytes)?;
        }
    }
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// An OCI image layout, collected as blobs.
#[derive(Default)]
struct Oci {
    blobs: std::collections::BTreeMap<String, Vec<u8>>,
    manifests: Vec<Value>,
}

impl Oci {
    fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = digest(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.blobs.insert(digest, bytes);
        descriptor
    }

    fn json(&mut self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, value.to_string().into_bytes())
    }

    fn add(&mut self, recipe: &Recipe, tag: &str, base: &Layer) -> Result<(), Failure> {
        let version = tag.rsplit(':').next().unwrap_or(tag);
        let note = Layer::note("usr/share/nginx/html/version", &format!("{version}\n"))?;
        let config = json!({
            "architecture": "amd64", "os": "linux", "created": "1970-01-01T00:00:00Z",
            "config": {
                "Cmd": recipe.command, "WorkingDir": "/", "StopSignal": recipe.stop_signal,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            },
            "rootfs": {"type": "layers", "diff_ids": [base.diff_id, note.diff_id]},
        });
        let config = self.json("application/vnd.oci.image.config.v1+json", &config);
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let layers = [self.blob(layer, base.gzip.clone()), self.blob(layer, note.gzip)];
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": layers,
        });
        let mut descriptor = self.json("application/vnd.oci.image.manifest.v1+json", &manifest);
        descriptor["annotations"] =
            json!({"io.containerd.image.name": tag, "org.opencontainers.image.ref.name": version});
        self.manifests.push(descriptor);
        Ok(())
    }

    fn finish(self) -> Result<Vec<u8>, Failure> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut file = |name: &str, bytes: &[u8]| {
            let mut header = plain_header(0o644);
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, name, bytes).map_err(|e| e.to_string())
        };
        file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": self.manifests,
        });
        file("index.json", index.to_string().as_bytes())?;
        for (digest, bytes) in &self.blobs {
            file(&format!("blobs/{}", digest.replace(':', "/")), bytes)?;
        }
        tar.into_inner().map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_hold_what_their_index_names() {
        let mut oci = Oci::default();
        let base = Layer::note("etc/hello", "hello").unwrap();
        oci.add(&RECIPES[0], "docker.io/library/x:1", &base).unwrap();
        oci.add(&RECIPES[0], "docker.io/library/x:2", &base).unwrap();
        let archive = oci.finish().unwrap();
        let mut names = Vec::new();
        let mut index = Value::Null;
        for entry in tar::Archive::new(&*archive).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            if name == "index.json" {
                index = serde_json::from_reader(&mut entry).unwrap();
            }
            names.push(name);
        }
        let manifests = index["manifests"].as_array().unwrap();
        assert_eq!(manifests.len(), 2);
        assert_ne!(manifests[0]["digest"], manifests[1]["digest"], "tags differ in content");
        for manifest in manifests {
            let blob = manifest["digest"].as_str().unwrap().replace(':', "/");
            assert!(names.contains(&format!("blobs/{blob}")));
        }
    }
}
