//! kubectl's JSONPath templates: `{.items[*].metadata.name}`, `{range .items[*]}...{end}`, filters, indices, unions.
//!
//! The dialect is Kubernetes' own (<https://kubernetes.io/docs/reference/kubectl/jsonpath/>), which no common JSONPath
//! library speaks: text around the braces, `range`, and missing fields that print as nothing.

use serde_json::Value;

use crate::error::CliError;

/// A parsed template.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath(Vec<Node>);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Text(String),
    Path(Vec<Step>),
    Range(Vec<Step>, Vec<Node>),
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    Recursive(String),
    All,
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    Union(Vec<Step>),
    Filter(Vec<Step>, Option<(String, Value)>),
}

impl JsonPath {
    /// Parses a template.
    ///
    /// # Errors
    /// A usage error that shows the part that makes no sense.
    pub fn parse(text: &str) -> Result<Self, CliError> {
        let wrapped = if text.contains('{') { text.to_owned() } else { format!("{{{text}}}") };
        let mut rest = &wrapped[..];
        let nodes = nodes(&mut rest, false)?;
        Ok(Self(nodes))
    }

    /// The template filled from `value`; missing fields are empty.
    pub fn render(&self, value: &Value) -> String {
        let mut out = String::new();
        render(&self.0, value, value, &mut out);
        out
    }

    /// The values that the template's paths select.
    pub fn select<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        self.0
            .iter()
            .flat_map(|n| if let Node::Path(steps) = n { walk(steps, value, value) } else { Vec::new() })
            .collect()
    }
}

fn wrong(what: &str) -> CliError {
    CliError::usage(format!("error parsing jsonpath: {what}"))
}

fn nodes(rest: &mut &str, in_range: bool) -> Result<Vec<Node>, CliError> {
    let mut nodes = Vec::new();
    while !rest.is_empty() {
        let Some(open) = rest.find('{') else {
            nodes.push(Node::Text((*rest).to_owned()));
            *rest = "";
            break;
        };
        if open > 0 {
            nodes.push(Node::Text(rest[..open].to_owned()));
        }
        let close = closing(&rest[open..]).ok_or_else(|| wrong("unclosed action"))? + open;
        let inside = rest[open + 1..close].trim();
        *rest = &rest[close + 1..];
        if inside == "end" {
            return if in_range { Ok(nodes) } else { Err(wrong("not in range")) };
        }
        if let Some(path) = inside.strip_prefix("range ") {
            nodes.push(Node::Range(steps(path.trim())?, self::nodes(rest, true)?));
        } else if inside.starts_with(['"', '\'']) {
            nodes.push(Node::Text(unquote(inside)));
        } else {
            nodes.push(Node::Path(steps(inside)?));
        }
    }
    if in_range { Err(wrong("unclosed range")) } else { Ok(nodes) }
}

/// The index of the brace that closes the one at 0; braces in quotes do not count.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (None, '}') => return Some(i),
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), _) if q == c => quote = None,
            _ => {}
        }
    }
    None
}

fn unquote(text: &str) -> String {
    let inner = text.get(1..text.len().saturating_sub(1)).unwrap_or_default();
    inner.replace("\\n", "\n").replace("\\t", "\t").replace("\\\"", "\"").replace("\\'", "'")
}

fn steps(text: &str) -> Result<Vec<Step>, CliError> {
    let mut steps = Vec::new();
    let mut rest = text.trim_start_matches(['$', '@']);
    if !rest.is_empty() && !rest.starts_with(['.', '[']) {
        return Err(wrong(&format!("unrecognized identifier {text}")));
    }
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            let (name, left) = field(after);
            steps.push(Step::Recursive(name));
            rest = left;
        } else if let Some(after) = rest.strip_prefix('.') {
            if after.is_empty() || after.starts_with('[') {
                rest = after;
                continue;
            }
            let (name, left) = field(after);
            steps.push(if name == "*" { Step::All } else { Step::Field(name) });
            rest = left;
        } else if rest.starts_with('[') {
            let end = bracket_end(rest).ok_or_else(|| wrong("unterminated array"))?;
            steps.push(bracket(&rest[1..end])?);
            rest = &rest[end + 1..];
        } else {
            return Err(wrong(&format!("unexpected {rest}")));
        }
    }
    Ok(steps)
}

/// A field name, in which a backslash keeps the dot that follows it.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (name, &text[i..]),
            c => name.push(c),
        }
    }
    (name, "")
}

fn bracket_end(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some(i);
                }
            }
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), _) if q == c => quote = None,
            _ => {}
        }
    }
    None
}

fn bracket(inside: &str) -> Result<Step, CliError> {
    let inside = inside.trim();
    if let Some(filter) = inside.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        return filter_step(filter);
    }
    if inside == "*" || inside.is_empty() {
        return Ok(Step::All);
    }
    let parts: Vec<&str> = inside.split(',').map(str::trim).collect();
    if parts.len() > 1 {
        return parts.into_iter().map(bracket).collect::<Result<_, _>>().map(Step::Union);
    }
    if inside.starts_with(['"', '\'']) {
        return Ok(Step::Field(unquote(inside)));
    }
    let number = |text: &str| text.trim().parse::<i64>().map_err(|_| wrong(&format!("invalid array index {inside}")));
    if let Some((from, to)) = inside.split_once(':') {
        let end = |text: &str| if text.trim().is_empty() { Ok(None) } else { number(text).map(Some) };
        return Ok(Step::Slice(end(from)?, end(to)?));
    }
    Ok(Step::Index(number(inside)?))
}

fn filter_step(text: &str) -> Result<Step, CliError> {
    for operator in ["==", "!=", ">=", "<=", ">", "<"] {
        if let Some((left, right)) = text.split_once(operator) {
            let right = right.trim();
            let value = if right.starts_with(['"', '\'']) {
                Value::String(unquote(right))
            } else {
                serde_json::from_str(right).map_err(|_| wrong(right))?
            };
            return Ok(Step::Filter(steps(left.trim())?, Some((operator.to_owned(), value))));
        }
    }
    Ok(Step::Filter(steps(text.trim())?, None))
}

fn render(nodes: &[Node], root: &Value, at: &Value, out: &mut String) {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(steps) => {
                let texts: Vec<String> = walk(steps, root, at).into_iter().map(text).collect();
                out.push_str(&texts.join(" "));
            }
            Node::Range(steps, inner) => {
                walk(steps, root, at).into_iter().for_each(|item| render(inner, root, item, out))
            }
        }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn walk<'a>(steps: &[Step], root: &'a Value, at: &'a Value) -> Vec<&'a Value> {
    steps.iter().fold(vec![at], |here, step| here.into_iter().flat_map(|v| take(step, root, v)).collect())
}

fn take<'a>(step: &Step, root: &'a Value, at: &'a Value) -> Vec<&'a Value> {
    let list = || at.as_array().map(Vec::as_slice).unwrap_or_default();
    match step {
        Step::Field(name) => at.get(name).into_iter().collect(),
        Step::All => members(at),
        Step::Index(i) => {
            let i = if *i < 0 { *i + list().len() as i64 } else { *i };
            usize::try_from(i).ok().and_then(|i| list().get(i)).into_iter().collect()
        }
        Step::Slice(from, to) => {
            let len = list().len() as i64;
            let clamp = |i: i64| (if i < 0 { i + len } else { i }).clamp(0, len) as usize;
            let (from, to) = (clamp(from.unwrap_or(0)), clamp(to.unwrap_or(len)));
            list().get(from..to.max(from)).unwrap_or_default().iter().collect()
        }
        Step::Union(steps) => steps.iter().flat_map(|s| take(s, root, at)).collect(),
        Step::Recursive(name) => {
            let mut found: Vec<&Value> =
                if name.is_empty() || name == "*" { vec![at] } else { at.get(name).into_iter().collect() };
            found.extend(members(at).into_iter().flat_map(|v| take(step, root, v)));
            found
        }
        Step::Filter(path, test) => members(at)
            .into_iter()
            .filter(|item| {
                let found = walk(path, root, item);
                match test {
                    None => !found.is_empty(),
                    Some((operator, wanted)) => found.iter().any(|v| compare(v, operator, wanted)),
                }
            })
            .collect(),
    }
}

fn members(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

fn compare(left: &Value, operator: &str, right: &Value) -> bool {
    let order = match (left, right) {
        (Value::String(a), Value::String(b)) => a.partial_cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.partial_cmp(b),
        _ => left.as_f64().zip(right.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
    };
    match operator {
        "==" => order.is_some_and(std::cmp::Ordering::is_eq),
        "!=" => !order.is_some_and(std::cmp::Ordering::is_eq),
        ">=" => order.is_some_and(std::cmp::Ordering::is_ge),
        "<=" => order.is_some_and(std::cmp::Ordering::is_le),
        ">" => order.is_some_and(std::cmp::Ordering::is_gt),
        _ => order.is_some_and(std::cmp::Ordering::is_lt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates() {
        let value = json!({"items": [
            {"metadata": {"name": "a", "labels": {"x.y/z": "1"}}, "n": 1, "status": {"conditions": [{"type": "Ready", "status": "True"}]}},
            {"metadata": {"name": "b"}, "n": 2, "status": {"conditions": [{"type": "Ready", "status": "False"}]}}]});
        for (template, expected) in [
            ("{.items[*].metadata.name}", "a b"),
            (".items[0].metadata.name", "a"),
            ("{.items[-1:].metadata.name}", "b"),
            ("{range .items[*]}{.metadata.name}={.n}{\"\\n\"}{end}", "a=1\nb=2\n"),
            (r"{.items[0].metadata.labels.x\.y/z}", "1"),
            ("{.items[0].metadata.labels['x.y/z']}", "1"),
            ("{.items[?(@.n>1)].metadata.name}", "b"),
            ("{.items[*].status.conditions[?(@.type==\"Ready\")].status}", "True False"),
            ("{..name}", "a b"),
            ("{.items[0,1].n}", "1 2"),
            ("x{.missing.field}y", "xy"),
            ("{.items[0].metadata.labels}", "{\"x.y/z\":\"1\"}"),
            ("{$.items[0].n}", "1"),
        ] {
            assert_eq!(JsonPath::parse(template).unwrap().render(&value), expected, "{template}");
        }
        for bad in ["{.a", "{.a[}", "{range .a[*]}x", "{end}", "{foo}", "{.a[x]}"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
