//! The small part of JSONPath that definitions of columns and selectable fields use: `.spec.replicas`,
//! `.metadata.labels.app\.kubernetes\.io/name`, `.spec.containers[0].name`, `.status.conditions[?(@.type=="Ready")].status`.

use serde_json::Value;

/// A path, read once.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Member(String),
    /// Negative: from the end.
    Index(i64),
    All,
    /// Items whose value at a path compares like this with a literal.
    Filter {
        left: JsonPath,
        equal: bool,
        right: Value,
    },
}

impl JsonPath {
    /// Reads a path; `None` for what is none, or not of the small part.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
        let mut rest = text;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            rest = match rest.strip_prefix('[') {
                Some(bracket) => {
                    let end = bracket_end(bracket)?;
                    steps.push(bracketed(&bracket[..end])?);
                    &bracket[end + 1..]
                }
                None => {
                    let (name, after) = member(rest.strip_prefix('.')?);
                    match &*name {
                        "" => {}
                        "*" => steps.push(Step::All),
                        _ => steps.push(Step::Member(name)),
                    }
                    after
                }
            };
        }
        Some(Self(steps))
    }

    /// All values that the path leads to, in order.
    pub(super) fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| step.take(value)).collect();
        }
        found
    }

    /// The first of them.
    pub(super) fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.find(value).into_iter().next()
    }
}

impl Step {
    fn take<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let items = || value.as_array().map(Vec::as_slice).unwrap_or_default();
        match self {
            Self::Member(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let from_end = i64::try_from(items().len()).unwrap_or(0) + index;
                let at = usize::try_from(if *index < 0 { from_end } else { *index }).ok();
                at.and_then(|at| items().get(at)).into_iter().collect()
            }
            Self::All => match value {
                Value::Object(members) => members.values().collect(),
                _ => items().iter().collect(),
            },
            Self::Filter { left, equal, right } => {
                let fits = |item: &&Value| left.first(item).is_some_and(|found| (found == right) == *equal);
                items().iter().filter(fits).collect()
            }
        }
    }
}

/// A member's name, with `\.` for a dot, and what comes after it.
fn member(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '.' | '[' => return (name, &text[at..]),
            '\\' => name.extend(letters.next().map(|(_, escaped)| escaped)),
            _ => name.push(letter),
        }
    }
    (name, "")
}

/// Where the bracket ends that was opened before `text`; brackets in quotes and nested ones do not count.
fn bracket_end(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (None, '\'' | '"') => quote = Some(letter),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(at),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracketed(text: &str) -> Option<Step> {
    if let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        let (left, equal, right) = match (filter.split_once("=="), filter.split_once("!=")) {
            (Some((left, right)), _) => (left, true, right),
            (None, Some((left, right))) => (left, false, right),
            (None, None) => return None,
        };
        let left = JsonPath::parse(left.trim().strip_prefix('@')?)?;
        return Some(Step::Filter { left, equal, right: literal(right.trim())? });
    }
    match text.trim() {
        "*" => Some(Step::All),
        quoted if quoted.starts_with(['\'', '"']) => match literal(quoted)? {
            Value::String(name) => Some(Step::Member(name)),
            _ => None,
        },
        index => index.parse().ok().map(Step::Index),
    }
}

fn literal(text: &str) -> Option<Value> {
    match text.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')) {
        Some(inner) => Some(inner.into()),
        None => serde_json::from_str(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths() {
        let object = json!({
            "spec": {"replicas": 3, "list": [{"n": "a"}, {"n": "b"}], "odd key": 1},
            "metadata": {"labels": {"app.kubernetes.io/name": "web"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Else", "status": "False"}]},
        });
        for (path, expected) in [
            (".spec.replicas", json!([3])),
            ("{.spec.replicas}", json!([3])),
            (".spec.missing", json!([])),
            (".spec.list[0].n", json!(["a"])),
            (".spec.list[-1].n", json!(["b"])),
            (".spec.list[9].n", json!([])),
            (".spec.list[*].n", json!(["a", "b"])),
            (r".metadata.labels.app\.kubernetes\.io/name", json!(["web"])),
            (".metadata.labels['app.kubernetes.io/name']", json!(["web"])),
            (".spec['odd key']", json!([1])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type!='Ready')].status", json!(["False"])),
            (".status.conditions[?(@.type == 'None')].status", json!([])),
        ] {
            let parsed = JsonPath::parse(path).unwrap_or_else(|| panic!("{path}"));
            let found: Vec<Value> = parsed.find(&object).into_iter().cloned().collect();
            assert_eq!(json!(found), expected, "{path}");
        }
        for bad in ["spec", ".a[", ".a[x]", ".a[?(b)]", ".a[?(@.b==)]"] {
            assert_eq!(JsonPath::parse(bad), None, "{bad}");
        }
    }
}
