//! What a verb is about: `pods`, `pod/a deployment/b`, `pods a b`, `-l app=x`, `-f file`.

use std::io::Read;
use std::path::Path;

use clap::Args;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::error::CliError;
use crate::kinds::Kind;
use crate::output::{items, yaml};
use crate::session::Session;

/// Arguments of verbs that act on existing objects.
#[derive(Args, Clone, Debug, Default)]
pub struct Targets {
    /// TYPE [NAME ...] or TYPE/NAME ...
    pub words: Vec<String>,
    /// Manifests that name the objects
    #[command(flatten)]
    pub files: Files,
    /// Selector (label query) to filter on
    #[arg(short = 'l', long)]
    pub selector: Option<String>,
    /// All objects of the type in the namespace
    #[arg(long)]
    pub all: bool,
}

/// Manifests.
#[derive(Args, Clone, Debug, Default)]
pub struct Files {
    /// Files, directories, or - for standard input
    #[arg(short = 'f', long = "filename")]
    pub filename: Vec<String>,
    /// Also directories within directories
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// One thing to act on.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty when cluster-scoped.
    pub namespace: String,
    /// Its name; `None`: the whole collection.
    pub name: Option<String>,
}

impl Target {
    /// The path of the object, or of the collection.
    pub fn path(&self) -> String {
        match &self.name {
            Some(name) => self.kind.object_path(&self.namespace, name),
            None => self.kind.path(&self.namespace),
        }
    }
    /// `deployment.apps/web`.
    pub fn shown(&self) -> String {
        format!("{}/{}", self.kind.named(), self.name.as_deref().unwrap_or_default())
    }
}

impl Targets {
    /// The targets as said, collections included.
    pub async fn resolve(&self, session: &mut Session) -> Result<Vec<Target>, CliError> {
        let kinds = session.kinds().await?;
        let namespace = session.list_namespace().to_owned();
        let at = |kind: &Kind, name: Option<&str>| Target {
            namespace: if kind.namespaced { namespace.clone() } else { String::new() },
            kind: kind.clone(),
            name: name.map(str::to_owned),
        };
        let mut targets = Vec::new();
        for object in self.files.read()? {
            let kind = kinds.of_object(&object)?;
            targets.push(target_of(&object, kind, session));
        }
        if self.words.iter().any(|w| w.contains('/')) {
            for word in &self.words {
                let (kind, name) = word.split_once('/').ok_or_else(|| {
                    CliError::usage("there is no need to specify a resource type as a separate argument when passing arguments in resource/name form")
                })?;
                targets.push(at(kinds.find(kind)?, Some(name)));
            }
        } else if let Some((types, names)) = self.words.split_first() {
            for word in types.split(',') {
                for kind in kinds.expand(word)? {
                    if names.is_empty() {
                        targets.push(at(kind, None));
                    }
                    targets.extend(names.iter().map(|name| at(kind, Some(name))));
                }
            }
        }
        if targets.is_empty() {
            return Err(CliError::usage("You must specify the type of resource, such as `pods`, or a file with -f"));
        }
        Ok(targets)
    }

    /// The objects themselves: named ones fetched, collections listed.
    pub async fn fetch(&self, session: &mut Session) -> Result<Vec<(Target, Value)>, CliError> {
        let mut found = Vec::new();
        for target in self.resolve(session).await? {
            if target.name.is_some() {
                let object = session.wire.get(&target.path()).await?;
                found.push((target, object));
                continue;
            }
            if self.selector.is_none() && !self.all {
                return Err(CliError::usage(
                    "resource(s) were provided, but no name was specified; name them, or use -l or --all",
                ));
            }
            let list = session
                .wire
                .get(&with_query(&target.path(), &[("labelSelector", self.selector.as_deref().unwrap_or(""))]))
                .await?;
            for mut object in items(&list) {
                object["apiVersion"] = target.kind.group_version.to_string().into();
                object["kind"] = target.kind.kind.clone().into();
                let one = target_of(&object, &target.kind, session);
                found.push((one, object));
            }
        }
        Ok(found)
    }
}

/// The target that a manifest or an object is.
pub fn target_of(object: &Value, kind: &Kind, session: &Session) -> Target {
    let metadata = &object["metadata"];
    let namespace = match metadata["namespace"].as_str() {
        _ if !kind.namespaced => String::new(),
        Some(namespace) if !namespace.is_empty() => namespace.to_owned(),
        _ => session.namespace.clone(),
    };
    Target { kind: kind.clone(), namespace, name: metadata["name"].as_str().map(str::to_owned) }
}

impl Files {
    /// All manifests, lists taken apart.
    pub fn read(&self) -> Result<Vec<Value>, CliError> {
        Ok(self.read_named()?.into_iter().map(|(_, object)| object).collect())
    }

    /// All manifests, each with the name of its file.
    pub fn read_named(&self) -> Result<Vec<(String, Value)>, CliError> {
        let mut objects = Vec::new();
        for name in &self.filename {
            if name == "-" {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).map_err(|e| CliError::Io("-".to_owned(), e))?;
                parse(&text, "STDIN", &mut objects)?;
            } else {
                self.read_path(Path::new(name), true, &mut objects)?;
            }
        }
        Ok(objects)
    }

    fn read_path(&self, path: &Path, top: bool, objects: &mut Vec<(String, Value)>) -> Result<(), CliError> {
        let failed = |e| CliError::Io(path.display().to_string(), e);
        if path.is_dir() {
            if !top && !self.recursive {
                return Ok(());
            }
            let mut paths: Vec<_> = std::fs::read_dir(path)
                .and_then(|d| d.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>())
                .map_err(failed)?;
            paths.sort();
            return paths.iter().try_for_each(|p| self.read_path(p, false, objects));
        }
        let known = path.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|k| e == *k));
        if top || known {
            let text = std::fs::read_to_string(path).map_err(failed)?;
            parse(&text, &path.display().to_string(), objects)?;
        }
        Ok(())
    }
}

fn parse(text: &str, name: &str, objects: &mut Vec<(String, Value)>) -> Result<(), CliError> {
    let documents = yaml::parse_all(text).map_err(|e| CliError::usage(format!("error parsing {name}: {e}")))?;
    for document in documents {
        let is_list = document["kind"].as_str().is_some_and(|k| k.ends_with("List")) && document["items"].is_array();
        let found = if is_list { items(&document) } else { vec![document] };
        objects.extend(found.into_iter().map(|object| (name.to_owned(), object)));
    }
    Ok(())
}

/// A path with the parameters that are not empty.
pub fn with_query(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut out = path.to_owned();
    for (name, value) in parameters.iter().filter(|(_, v)| !v.is_empty()) {
        out.push(if out.contains('?') { '&' } else { '?' });
        out.push_str(&format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_escaped() {
        assert_eq!(with_query("/x", &[("a", ""), ("b", "app=x,y"), ("c", "1")]), "/x?b=app%3Dx%2Cy&c=1");
    }

    #[test]
    fn lists_are_taken_apart() {
        let mut objects = Vec::new();
        parse("kind: List\nitems: [{kind: A}, {kind: B}]\n---\nkind: C\n", "x", &mut objects).unwrap();
        assert_eq!(objects.len(), 3);
    }
}
