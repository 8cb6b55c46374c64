//! `explain`: what a kind and its fields mean, as the server's OpenAPI document tells it.

use clap::Args;
use serde_json::{Map, Value};
use skiff_meta::GroupVersion;

use crate::error::CliError;
use crate::kinds::{Kind, Kinds};
use crate::session::Session;

/// Get documentation for a resource.
#[derive(Args)]
pub struct Explain {
    /// TYPE or TYPE.FIELD.FIELD...
    what: String,
    /// Only names and types, but of all fields below
    #[arg(short = 'R', long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    recursive: String,
    /// plaintext; plaintext-openapiv2 is the same
    #[arg(short = 'o', long = "output", default_value = "plaintext", value_parser = ["plaintext", "plaintext-openapiv2"])]
    _output: String,
    /// Group and version, such as autoscaling/v1
    #[arg(long)]
    api_version: Option<String>,
}

impl Explain {
    /// Runs the verb.
    pub async fn run(&self, session: &mut Session) -> Result<(), CliError> {
        let kinds = session.kinds().await?;
        let (kind, path) = split(&self.what, &kinds)?;
        let kind = match &self.api_version {
            None => kind,
            Some(text) => {
                let (group, version) = text.split_once('/').unwrap_or(("", text));
                let wanted = GroupVersion::new(group, version);
                let same = |k: &&Kind| k.plural == kind.plural && k.group_version == wanted;
                let missing = || CliError::usage(format!("couldn't find resource for \"{text}, {}\"", kind.plural));
                kinds.0.iter().find(same).ok_or_else(missing)?
            }
        };
        let root = if kind.group_version.group.is_empty() { "api" } else { "apis" };
        let document = session.wire.get(&format!("/openapi/v3/{root}/{}", kind.group_version)).await?;
        let text = explain(&document, kind, &path, self.recursive != "false")?;
        session.print(&text)
    }
}

/// The kind that the longest beginning of the words names, and the fields after it.
fn split<'a, 'k>(what: &'a str, kinds: &'k Kinds) -> Result<(&'k Kind, Vec<&'a str>), CliError> {
    let what = what.trim_end_matches('.');
    let ends = what.match_indices('.').map(|(at, _)| at).chain([what.len()]).collect::<Vec<_>>();
    for end in ends.iter().rev() {
        if let Ok(kind) = kinds.find(&what[..*end]) {
            let path = what[*end..].split('.').filter(|field| !field.is_empty());
            return Ok((kind, path.collect()));
        }
    }
    kinds.find(what.split('.').next().unwrap_or_default()).map(|kind| (kind, Vec::new()))
}

fn explain(document: &Value, kind: &Kind, path: &[&str], recursive: bool) -> Result<String, CliError> {
    let GroupVersion { group, version } = &kind.group_version;
    let document = Document(document["components"]["schemas"].as_object());
    let is_it = |schema: &&Value| {
        let gvks = schema["x-kubernetes-group-version-kind"].as_array().into_iter().flatten();
        gvks.into_iter().any(|gvk| gvk["group"] == **group && gvk["version"] == **version && gvk["kind"] == *kind.kind)
    };
    let schema = document.0.and_then(|all| all.values().find(is_it)).ok_or_else(|| {
        CliError::usage(format!("GVR ({}/{}) not found in OpenAPI schema", kind.group_version, kind.plural))
    })?;
    let mut out = String::new();
    if !group.is_empty() {
        out.push_str(&format!("GROUP:      {group}\n"));
    }
    out.push_str(&format!("KIND:       {}\nVERSION:    {version}\n\n", kind.kind));
    let at = match path.split_last() {
        None => schema,
        Some((last, before)) => {
            let missing = || CliError::usage(format!("field \"{last}\" does not exist"));
            let parent = before.iter().try_fold(schema, |schema, field| document.member(schema, field));
            let field = parent.and_then(|parent| document.member(parent, last)).ok_or_else(missing)?;
            let values = enumeration(field).map(|values| format!("ENUM:\n    {}", values.join("\n    ")));
            out.push_str(&format!("FIELD: {last} <{}>\n{}\n\n", document.type_of(field), values.unwrap_or_default()));
            field
        }
    };
    let words = document.words(at);
    let words = if words.is_empty() { "<empty>".to_owned() } else { words };
    out.push_str(&format!("DESCRIPTION:\n{}\n", indent(&wrap(&words, 76), 4)));
    let mut fields = String::new();
    document.fields(at, 1, recursive, &mut Vec::new(), &mut fields);
    if !fields.is_empty() {
        out.push_str(&format!("FIELDS:\n{fields}"));
    }
    out.push('\n');
    Ok(out)
}

/// The schemas of a document by name.
struct Document<'a>(Option<&'a Map<String, Value>>);

impl<'a> Document<'a> {
    /// What a reference points to; other schemas are themselves.
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let target = schema["$ref"].as_str().and_then(|name| name.rsplit('/').next());
        target.and_then(|name| self.0.and_then(|all| all.get(name))).unwrap_or(schema)
    }

    /// The schemas inside one that are not members: of all alternatives, items, and values of maps.
    fn inner(schema: &'a Value) -> impl Iterator<Item = &'a Value> {
        let all = schema["allOf"].as_array().into_iter().flatten();
        all.chain([&schema["items"], &schema["additionalProperties"]]).filter(|inner| inner.is_object())
    }

    /// The member of this name, also of items and values.
    fn member(&self, schema: &'a Value, name: &str) -> Option<&'a Value> {
        let schema = self.resolve(schema);
        let own = schema["properties"].get(name);
        own.or_else(|| Self::inner(schema).find_map(|inner| self.member(inner, name)))
    }

    /// `string`, `[]Container`, `map[string]Quantity`.
    fn type_of(&self, schema: &'a Value) -> String {
        let own = |schema: &Value| match schema["type"].as_str() {
            None | Some("object") => None,
            Some(ty) => Some(ty.to_owned()),
        };
        let [items, values] = [&schema["items"], &schema["additionalProperties"]];
        if items.is_object() {
            return format!("[]{}", self.type_of(items));
        }
        if values.is_object() {
            return format!("map[string]{}", self.type_of(values));
        }
        if let (Some([only]), None) = (schema["allOf"].as_array().map(Vec::as_slice), schema.get("properties")) {
            return self.type_of(only);
        }
        let named = schema["$ref"].as_str().and_then(|name| name.rsplit(['/', '.']).next()).map(str::to_owned);
        own(self.resolve(schema)).or(named).unwrap_or_else(|| "Object".to_owned())
    }

    /// All that is said of a schema, of the field first and then of its type.
    fn words(&self, schema: &'a Value) -> String {
        let schema = self.resolve(schema);
        let own = schema["description"].as_str().filter(|words| !words.is_empty());
        let own = own.map(|words| format!("{words}\n")).unwrap_or_default();
        Self::inner(schema).fold(own, |words, inner| words + &self.words(inner))
    }

    /// A line per field, with its words unless `recursive`. `above` are the references that led here.
    fn fields(&self, schema: &'a Value, level: usize, recursive: bool, above: &mut Vec<&'a str>, out: &mut String) {
        let reference = schema["$ref"].as_str();
        if reference.is_some_and(|name| above.contains(&name)) {
            return;
        }
        above.extend(reference);
        let schema = self.resolve(schema);
        let required = schema["required"].as_array();
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let must = required.is_some_and(|all| all.iter().any(|r| r == name));
            let must = if must { " -required-" } else { "" };
            out.push_str(&indent(&format!("{name}\t<{}>{must}", self.type_of(field)), 2 * level));
            if let Some(values) = enumeration(field) {
                let more = if values.len() > 4 { ", ...." } else { "" };
                let first = values.iter().take(4).map(String::as_str).collect::<Vec<_>>().join(", ");
                out.push_str(&format!("\n{}{more}", indent(&format!("enum: {first}"), 2 * level)));
            }
            out.push('\n');
            if recursive {
                self.fields(field, level + 1, recursive, above, out);
            } else {
                let words = field["description"].as_str().filter(|words| !words.is_empty());
                let words = wrap(words.unwrap_or("<no description>"), 78 - 2 * level);
                out.push_str(&format!("{}\n\n", indent(&words, 2 * level + 2)));
            }
        }
        Self::inner(schema).for_each(|inner| self.fields(inner, level, recursive, above, out));
        above.truncate(above.len() - usize::from(reference.is_some()));
    }
}

/// The values that a field may have.
fn enumeration(schema: &Value) -> Option<Vec<String>> {
    let shown = |value: &Value| match value.as_str() {
        Some("") => "\"\"".to_owned(),
        Some(text) => text.to_owned(),
        None => value.to_string(),
    };
    Some(schema["enum"].as_array()?.iter().map(shown).collect())
}

fn indent(text: &str, by: usize) -> String {
    let pad = " ".repeat(by);
    format!("{pad}{}", text.replace('\n', &format!("\n{pad}")))
}

/// Breaks lines at spaces so that they are at most `width` long. Words that are longer stay whole.
fn wrap(text: &str, width: usize) -> String {
    let line = |line: &str| {
        let (mut out, mut used) = (String::new(), 0);
        // A word together with the spaces before it.
        let mut rest = line;
        while !rest.is_empty() {
            let spaces = rest.len() - rest.trim_start_matches(' ').len();
            let word = rest[spaces..].split(' ').next().unwrap_or_default();
            let length = word.chars().count();
            if used > 0 && used + spaces + length > width {
                out.push('\n');
                used = length;
            } else {
                out.push_str(&rest[..spaces]);
                used += spaces + length;
            }
            out.push_str(word);
            rest = &rest[spaces + word.len()..];
        }
        out
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::tests::sample;
    use serde_json::json;

    fn document() -> Value {
        let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
        json!({"components": {"schemas": {
            "v1.Pod": {"type": "object", "description": "Containers together.", "required": ["spec"],
                "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Pod"}],
                "properties": {
                    "kind": {"type": "string", "description": "The kind."},
                    "spec": {"allOf": [reference("v1.Spec")], "description": "What shall run."}}},
            "v1.Spec": {"type": "object", "description": "A spec.", "properties": {
                "containers": {"type": "array", "items": reference("v1.Container")},
                "limits": {"type": "object", "additionalProperties": reference("v1.Quantity")},
                "policy": {"type": "string", "enum": ["", "A", "B", "C", "D"], "description": "word ".repeat(20).trim()}}},
            "v1.Container": {"type": "object", "properties": {"next": reference("v1.Container")}},
            "v1.Quantity": {"type": "string"},
        }}})
    }

    fn told(path: &[&str], recursive: bool) -> String {
        explain(&document(), sample().find("po").unwrap(), path, recursive).unwrap()
    }

    #[test]
    fn kinds_and_fields() {
        assert_eq!(
            told(&[], false),
            "KIND:       Pod\nVERSION:    v1\n\nDESCRIPTION:\n    Containers together.\n    \nFIELDS:\n  kind\t<string>\n    \
             The kind.\n\n  spec\t<Spec> -required-\n    What shall run.\n\n\n"
        );
        let spec = told(&["spec"], false);
        assert!(
            spec.contains("FIELD: spec <Spec>\n\n\nDESCRIPTION:\n    What shall run.\n    A spec.\n    \n"),
            "{spec}"
        );
        assert!(spec.contains("  containers\t<[]Container>\n    <no description>\n"), "{spec}");
        assert!(spec.contains("  limits\t<map[string]string>\n"), "{spec}");
        assert!(spec.contains("  policy\t<string>\n  enum: \"\", A, B, C, ....\n    word"), "{spec}");
        assert!(spec.lines().all(|line| line.len() <= 80), "{spec}");
        let policy = told(&["spec", "policy"], false);
        assert!(policy.contains("FIELD: policy <string>\nENUM:\n    \"\"\n    A\n"), "{policy}");
    }

    #[test]
    fn cycles_end() {
        let spec = told(&["spec"], true);
        assert!(spec.contains("FIELDS:\n  containers\t<[]Container>\n    next\t<Container>\n  limits\t"), "{spec}");
        assert!(told(&["spec", "containers", "next"], false).contains("FIELD: next <Container>"));
    }

    #[test]
    fn what_is_asked_for() {
        let kinds = sample();
        let (kind, path) = split("deploy.v1.apps.spec.template", &kinds).unwrap();
        assert_eq!((&*kind.kind, path), ("Deployment", vec!["spec", "template"]));
        assert!(split("nonsense.spec", &kinds).is_err());
        let missing = explain(&document(), kinds.find("po").unwrap(), &["spec", "nonsense"], false).unwrap_err();
        assert_eq!(missing.to_string(), "error: field \"nonsense\" does not exist");
    }
}
