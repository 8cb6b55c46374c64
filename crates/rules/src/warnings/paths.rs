//! Files of one volume that lie in one another's way.

use serde_json::Map;

use super::Warnings;
use crate::at::At;

/// A file, and what puts it there.
struct File<'v> {
    path: &'v str,
    source: String,
}

impl File<'_> {
    fn shown(&self) -> String {
        if self.source.is_empty() { format!("{:?}", self.path) } else { format!("{:?} ({})", self.path, self.source) }
    }
    /// Whether one is the other, or lies below it.
    fn is_in_the_way_of(&self, other: &Self) -> bool {
        let below = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        !self.path.is_empty()
            && !other.path.is_empty()
            && (below(self.path, other.path) || below(other.path, self.path))
    }
}

/// Warns of files of `volume` that lie in one another's way.
pub(super) fn overlaps(volume: &At<'_>, out: &mut Warnings) {
    let name = volume.text("name");
    for (field, source) in [
        ("configMap", format!("ConfigMap {:?}", volume.get("configMap").text("name"))),
        ("secret", format!("Secret {:?}", volume.get("secret").text("secretName"))),
        ("downwardAPI", "DownwardAPI".to_owned()),
    ] {
        compare(name, &source, items(&volume.get(field), ""), &mut Vec::new(), out);
    }
    let mut seen = Vec::new();
    for source in volume.get("projected").items("sources") {
        if source.value.as_object().is_none_or(Map::is_empty) {
            out.push(format!("volume {name:?} (Projected) has no sources provided"));
        } else {
            compare(name, "Projected", projected(&source), &mut seen, out);
        }
    }
}

/// Adds `files` to those seen, and warns of those in the way.
fn compare<'v>(name: &str, source: &str, files: Vec<File<'v>>, seen: &mut Vec<File<'v>>, out: &mut Warnings) {
    for file in files {
        for other in seen.iter().filter(|other| file.is_in_the_way_of(other)) {
            let (file, other) = (file.shown(), other.shown());
            out.push(format!("volume {name:?} ({source}): overlapping paths: {file} with {other}"));
        }
        seen.push(file);
    }
}

fn file(path: &str, source: String) -> File<'_> {
    File { path: path.trim_end_matches('/'), source }
}

fn items<'v>(holder: &At<'v>, source: &str) -> Vec<File<'v>> {
    holder.items("items").map(|item| file(item.text("path"), source.to_owned())).collect()
}

fn projected<'v>(source: &At<'v>) -> Vec<File<'v>> {
    let named = |field: &str| source.get(field);
    if named("configMap").has("items") {
        items(&named("configMap"), &format!("ConfigMap {:?}", named("configMap").text("name")))
    } else if named("secret").has("items") {
        items(&named("secret"), &format!("Secret {:?}", named("secret").text("name")))
    } else if named("downwardAPI").has("items") {
        items(&named("downwardAPI"), "DownwardAPI")
    } else if source.has("serviceAccountToken") {
        vec![file(named("serviceAccountToken").text("path"), "ServiceAccountToken".to_owned())]
    } else if source.has("clusterTrustBundle") {
        let bundle = named("clusterTrustBundle");
        let name = if bundle.has("name") { bundle.text("name") } else { bundle.text("signerName") };
        vec![file(bundle.text("path"), format!("ClusterTrustBundle {name:?}"))]
    } else {
        let certificate = named("podCertificate");
        let parts = [
            ("certificateChainPath", "PodCertificate chain"),
            ("keyPath", "PodCertificate key"),
            ("credentialBundlePath", "PodCertificate credential bundle"),
        ];
        let there = parts.iter().filter(|(field, _)| !certificate.text(field).is_empty());
        there.map(|(field, shown)| file(certificate.text(field), (*shown).to_owned())).collect()
    }
}
