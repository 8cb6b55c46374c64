//! What documents say in words: what each type and each member is.
//!
//! One text file per API group (`words/GROUP.txt`) has a line per type, `NAMES<tab>WORDS`, and below it a line per
//! member, `<tab>NAME<tab>WORDS`. Types of one name in several versions share their words, and so do types that stand
//! in one line with commas between. What holds for every object, list or condition is said once, here or at
//! `Condition`, and not in the files. Nothing is read before somebody asks for a document.

use std::collections::HashMap;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

/// Packages as OpenAPI names them, with the words of their types.
static FILES: &[(&str, &str)] = &[
    ("io.k8s.api.admissionregistration", include_str!("words/admissionregistration.txt")),
    ("io.k8s.api.apps", include_str!("words/apps.txt")),
    ("io.k8s.api.authentication", include_str!("words/authentication.txt")),
    ("io.k8s.api.authorization", include_str!("words/authorization.txt")),
    ("io.k8s.api.autoscaling", include_str!("words/autoscaling.txt")),
    ("io.k8s.api.batch", include_str!("words/batch.txt")),
    ("io.k8s.api.certificates", include_str!("words/certificates.txt")),
    ("io.k8s.api.coordination", include_str!("words/coordination.txt")),
    ("io.k8s.api.core", include_str!("words/core.txt")),
    ("io.k8s.api.discovery", include_str!("words/discovery.txt")),
    ("io.k8s.api.events", include_str!("words/events.txt")),
    ("io.k8s.api.flowcontrol", include_str!("words/flowcontrol.txt")),
    ("io.k8s.api.networking", include_str!("words/networking.txt")),
    ("io.k8s.api.node", include_str!("words/node.txt")),
    ("io.k8s.api.policy", include_str!("words/policy.txt")),
    ("io.k8s.api.rbac", include_str!("words/rbac.txt")),
    ("io.k8s.api.resource", include_str!("words/resource.txt")),
    ("io.k8s.api.scheduling", include_str!("words/scheduling.txt")),
    ("io.k8s.api.storage", include_str!("words/storage.txt")),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions", include_str!("words/apiextensions.txt")),
    (META, include_str!("words/meta.txt")),
    ("io.k8s.kube-aggregator.pkg.apis.apiregistration", include_str!("words/apiregistration.txt")),
];
const META: &str = "io.k8s.apimachinery.pkg.apis.meta";

const LIST: &str = "Objects of one kind, as a list of them is answered.";
const ITEMS: &str = "The objects, ordered by namespace and name.";

/// Types that are no structs, by their names without package.
const SHAPELESS: &[(&str, &str)] = &[
    ("FieldsV1", "A set of fields as a tree of JSON."),
    ("IntOrString", "A whole number, or a text such as a percentage or the name of a port."),
    ("JSON", "Any value of JSON."),
    ("JSONSchemaPropsOrArray", "One schema for all items, or a list with one for each."),
    ("JSONSchemaPropsOrBool", "A schema, or whether any value is allowed."),
    ("JSONSchemaPropsOrStringArray", "A schema, or a list of names."),
    ("MicroTime", "A time in UTC to the microsecond, such as `2026-01-31T12:00:00.000000Z`."),
    ("Patch", "A change in one of the forms of patches; the media type tells which."),
    ("Quantity", "An amount with an optional suffix: `100m` is a tenth, `2k` 2000, `1Mi` 1048576, `1.5e3` 1500."),
    ("RawExtension", "An object of any kind."),
    ("Time", "A time to the second, such as `2026-01-31T12:00:00Z`."),
];

/// What is said of one type.
struct Entry {
    about: &'static str,
    /// The lines of its members.
    members: &'static str,
}

/// The words of those packages that have been asked about.
#[derive(Default)]
pub(super) struct Words(HashMap<&'static str, HashMap<&'static str, Entry>>);

/// Changes whenever the words do.
pub(super) fn digest() -> &'static [u8; 32] {
    static DIGEST: OnceLock<[u8; 32]> = OnceLock::new();
    let all = || FILES.iter().fold(Sha256::new(), |sha, (_, text)| sha.chain_update(text)).finalize().into();
    DIGEST.get_or_init(all)
}

/// Of a member that every object or list has.
pub(super) fn of_any_object(member: &str, is_list: bool) -> Option<&'static str> {
    match member {
        "apiVersion" => Some("APIVersion defines the group and version in which the object is written."),
        "kind" => Some("Kind is the name of the type of the object. It cannot be changed."),
        "metadata" if is_list => Some("Standard list's metadata."),
        "metadata" => Some("Standard object's metadata."),
        "items" if is_list => Some(ITEMS),
        _ => None,
    }
}

impl Words {
    /// Of a type, by its full name such as `io.k8s.api.core.v1.Pod`.
    pub(super) fn of_type(&mut self, full_name: &str) -> Option<&'static str> {
        let name = full_name.rsplit('.').next().unwrap_or_default();
        let shapeless = || SHAPELESS.iter().find(|(known, _)| *known == name).map(|(_, words)| *words);
        let own = self.entry(full_name).map(|entry| entry.about).or_else(shapeless);
        own.or_else(|| name.ends_with("List").then_some(LIST))
    }

    /// Of a member of a type.
    pub(super) fn of_member(&mut self, full_name: &str, member: &str) -> Option<&'static str> {
        if let Some(own) = self.own(full_name, member) {
            return Some(own);
        }
        let of_condition = || format!("{META}.v1.Condition");
        match of_any_object(member, full_name.ends_with("List")) {
            None if full_name.ends_with("Condition") => self.own(&of_condition(), member),
            words => words,
        }
    }

    fn own(&mut self, full_name: &str, member: &str) -> Option<&'static str> {
        members(self.entry(full_name)?.members).find(|(name, _)| *name == member).map(|(_, words)| words)
    }

    fn entry(&mut self, full_name: &str) -> Option<&Entry> {
        let (version, name) = full_name.rsplit_once('.')?;
        let (package, _) = version.rsplit_once('.')?;
        let (package, text) = FILES.iter().find(|(known, _)| *known == package)?;
        self.0.entry(package).or_insert_with(|| entries(text).collect()).get(name)
    }
}

/// The types of a file; those in one line one after another.
fn entries(text: &'static str) -> impl Iterator<Item = (&'static str, Entry)> {
    let mut rest = text;
    let blocks = std::iter::from_fn(move || {
        let (first, after) = rest.split_once('\n')?;
        // Members end where a line begins without a tab.
        let end = after.match_indices('\n').map(|(at, _)| at + 1).find(|at| !after[*at..].starts_with('\t'));
        let end = if after.starts_with('\t') { end.unwrap_or(after.len()) } else { 0 };
        let (members, after) = after.split_at(end);
        rest = after;
        Some((first.split_once('\t')?, members))
    });
    blocks.flat_map(|((names, about), members)| names.split(", ").map(move |name| (name, Entry { about, members })))
}

fn members(lines: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    lines.lines().filter_map(|line| line.trim_start_matches('\t').split_once('\t'))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use skiff_api::facts::facts;
    use skiff_meta::schema::Type;

    use super::*;

    /// The members of each type by `PACKAGE NAME`, whether each is one that every object has.
    fn members_of_types() -> BTreeMap<String, BTreeMap<String, bool>> {
        let mut all = BTreeMap::<_, BTreeMap<_, _>>::new();
        for (full_name, id) in facts().names() {
            let Type::Struct(s) = facts().graph().get(id) else { continue };
            let (version, name) = full_name.rsplit_once('.').unwrap();
            let (package, _) = version.rsplit_once('.').unwrap();
            let of_any = |f: &str| matches!(f, "apiVersion" | "kind" | "metadata") && !facts().gvks(id).is_empty();
            let members = s.fields.iter().map(|f| (f.name.clone(), of_any(&f.name)));
            all.entry(format!("{package} {name}")).or_default().extend(members);
        }
        all
    }

    #[test]
    fn every_type_and_member_has_words() {
        let mut words = Words::default();
        let mut missing = Vec::new();
        for (of, members) in members_of_types() {
            let full_name = of.replace(' ', ".v1.");
            if words.of_type(&full_name).is_none() {
                missing.push(of.clone());
            }
            for (member, of_any) in members {
                // What is said of any object is not enough for a member that happens to be called so.
                let is_common = of_any || member == "items" || words.own(&full_name, &member).is_some();
                let is_common = is_common || of.ends_with("Condition");
                if words.of_member(&full_name, &member).is_none() || !is_common {
                    missing.push(format!("{of} {member}"));
                }
            }
        }
        assert!(missing.is_empty(), "without words: {missing:#?}");
    }

    #[test]
    fn all_words_are_of_something_and_well_formed() {
        let types = members_of_types();
        let mut wrong = Vec::new();
        let mut seen = BTreeSet::new();
        let mut check = |what: String, is_known: bool, words: &str| {
            let is_fine = words.len() >= 15 && words.chars().count() <= 160 && words.ends_with(['.', '`']);
            if !is_known || !is_fine || words.contains(['\t', '\r']) || !seen.insert(what.clone()) {
                wrong.push(format!("{what}: {words}"));
            }
        };
        for (package, text) in FILES {
            assert!(text.lines().all(|line| line.trim_start_matches('\t').contains('\t')), "{package}");
            // A member need be of one of the types that stand in its line.
            let mut of_lines = BTreeMap::<_, (Vec<String>, Entry)>::new();
            for (name, entry) in entries(text) {
                let of_line = of_lines.entry(entry.about.as_ptr()).or_insert((Vec::new(), entry));
                of_line.0.push(format!("{package} {name}"));
            }
            for (names, entry) in of_lines.into_values() {
                names.iter().for_each(|name| check(name.clone(), types.contains_key(name), entry.about));
                for (member, words) in members(entry.members) {
                    let is_of = |name: &String| types.get(name).is_some_and(|all| all.contains_key(member));
                    check(format!("{} {member}", names[0]), names.iter().any(is_of), words);
                }
            }
        }
        assert!(wrong.is_empty(), "of nothing, twice, or badly formed: {wrong:#?}");
    }
}
