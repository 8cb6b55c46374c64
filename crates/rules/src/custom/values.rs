//! Values against a schema, in the words of upstream's validator (`k8s.io/kube-openapi/pkg/validation`).
//!
//! On updates, what did not change is not judged again: an object that an older schema let in can still be written as
//! long as its faulty parts are left alone.

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors, FieldPath};

use super::formats;
use super::lists::keys_of;
use super::node::{Additional, Node};

/// What one schema says about one value.
#[derive(Default)]
struct Verdict {
    faults: FieldErrors,
    /// How many checks passed: of several schemas that do not fit, the one that fits best explains the faults.
    passed: u32,
}

impl Verdict {
    fn is_valid(&self) -> bool {
        self.faults.is_empty()
    }
    fn add(&mut self, other: Verdict) {
        self.faults.extend(other.faults);
        self.passed += other.passed;
    }
    fn check(&mut self, fault: Option<FieldError>) {
        match fault {
            Some(fault) => self.faults.push(fault),
            None => self.passed += 1,
        }
    }
}

/// All faults of a value. `old` is what it was before an update; `base` is where it lies, put before every path.
pub(super) fn validate(value: &Value, old: Option<&Value>, node: &Node, base: &FieldPath) -> FieldErrors {
    Validator { base }.value(value, old, node, "").faults
}

struct Validator<'a> {
    base: &'a FieldPath,
}

/// `path in body words`.
fn told(path: &str, words: &str) -> String {
    format!("{path} in body {words}")
}

/// The type of a value in JSON schema.
fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

impl Validator<'_> {
    fn at(&self, path: &str) -> FieldPath {
        match path.trim_start_matches('.') {
            "" => self.base.clone(),
            path => self.base.child(path),
        }
    }

    fn invalid(&self, path: &str, value: impl Into<Value>, words: &str) -> FieldError {
        FieldError::invalid(&self.at(path), value, &told(path, words))
    }

    /// A fault of the whole, which upstream tells without a path.
    fn whole(&self, message: &str) -> FieldError {
        FieldError::invalid(self.base, "", message)
    }

    fn value(&self, value: &Value, old: Option<&Value>, node: &Node, path: &str) -> Verdict {
        let mut verdict = Verdict::default();
        if old == Some(value) {
            verdict.passed += 1;
            return verdict;
        }
        verdict.check(self.type_fault(value, node, path));
        if !value.is_null() {
            self.combined(value, old, node, path, &mut verdict);
        }
        match value {
            Value::String(text) => self.text(text, node, path, &mut verdict),
            Value::Number(_) => self.number(value, node, path, &mut verdict),
            Value::Array(items) => self.list(items, old, node, path, &mut verdict),
            _ => {}
        }
        if !node.choices.is_empty() {
            let found = node.choices.iter().any(|choice| same(choice, value));
            verdict.check((!found).then(|| self.not_supported(value, node, path)));
        }
        if let Value::Object(members) = value {
            self.object(members, old, node, path, &mut verdict);
        }
        verdict
    }

    fn not_supported(&self, value: &Value, node: &Node, path: &str) -> FieldError {
        let shown = |choice: &Value| choice.as_str().map_or_else(|| choice.to_string(), str::to_owned);
        let choices: Vec<String> = node.choices.iter().map(shown).collect();
        let choices: Vec<&str> = choices.iter().map(String::as_str).collect();
        FieldError::not_supported(&self.at(path), value.clone(), &choices)
    }

    fn type_fault(&self, value: &Value, node: &Node, path: &str) -> Option<FieldError> {
        let (types, format, found) = (node.types(), node.format(), type_of(value));
        let wrong = |expected: &str, found: &str| {
            let detail = told(path, &format!("must be of type {expected}: {found:?}"));
            Some(FieldError::type_invalid(&self.at(path), found, &detail))
        };
        if value.is_null() {
            return if types.is_empty() || node.nullable { None } else { wrong(&types.join(","), "null") };
        }
        let whole = value.as_f64().is_some_and(|n| n.fract() == 0.0);
        let fits = types.contains(&found)
            || (types.contains(&"integer") && found == "number" && whole)
            || (types.contains(&"number") && found == "integer");
        let is_text = matches!(found, "string" | "array");
        let found_format = match found {
            "integer" => "int64",
            "number" => "double",
            _ => "",
        };
        if !is_text && !format.is_empty() && !fits && found_format != format {
            return wrong(format, found_format);
        }
        let numeric = types.iter().any(|t| matches!(*t, "number" | "integer"));
        if types.is_empty() || fits || (!numeric && !format.is_empty() && is_text) {
            return None;
        }
        wrong(&types.join(","), found)
    }

    fn text(&self, text: &str, node: &Node, path: &str, verdict: &mut Verdict) {
        let (bounds, length) = (&node.bounds, text.chars().count() as i64);
        if let Some(max) = bounds.max_length {
            let fault = || FieldError::too_long(&self.at(path), usize::try_from(max).unwrap_or(0));
            verdict.check((length > max).then(fault));
        }
        if let Some(min) = bounds.min_length {
            let words = format!("should be at least {min} chars long");
            verdict.check((length < min).then(|| self.invalid(path, text, &words)));
        }
        if let Some(pattern) = &node.pattern {
            let fits = pattern.regex.as_ref().is_none_or(|regex| regex.is_match(text));
            let words = format!("should match '{}'", pattern.text);
            verdict.check((!fits).then(|| self.invalid(path, text, &words)));
        }
        let format = node.format();
        if !format.is_empty() && node.types() != ["integer"] && node.types() != ["number"] {
            let detail = told(path, &format!("must be of type {format}: {text:?}"));
            let fault = || FieldError::type_invalid(&self.at(path), text, &detail);
            verdict.check((!formats::fits(format, text)).then(fault));
        }
    }

    fn number(&self, value: &Value, node: &Node, path: &str, verdict: &mut Verdict) {
        let (bounds, number) = (&node.bounds, value.as_f64().unwrap_or_default());
        if node.format() == "int32" && (number < f64::from(i32::MIN) || number > f64::from(i32::MAX)) {
            let message = format!("Checked value must be of type integer with format int32 in {path}");
            verdict.check(Some(self.whole(&message)));
        }
        if let Some(factor) = bounds.multiple_of {
            let quotient = number / factor;
            let fits = (quotient - quotient.round()).abs() < 1e-9 * quotient.abs().max(1.0);
            let words = format!("should be a multiple of {factor}");
            verdict.check((!fits).then(|| self.invalid(path, value.clone(), &words)));
        }
        if let Some(max) = bounds.maximum {
            let (fits, relation) = if bounds.exclusive_maximum {
                (number < max, "less than")
            } else {
                (number <= max, "less than or equal to")
            };
            let words = format!("should be {relation} {max}");
            verdict.check((!fits).then(|| self.invalid(path, value.clone(), &words)));
        }
        if let Some(min) = bounds.minimum {
            let (fits, relation) = if bounds.exclusive_minimum {
                (number > min, "greater than")
            } else {
                (number >= min, "greater than or equal to")
            };
            let words = format!("should be {relation} {min}");
            verdict.check((!fits).then(|| self.invalid(path, value.clone(), &words)));
        }
    }

    fn list(&self, items: &[Value], old: Option<&Value>, node: &Node, path: &str, verdict: &mut Verdict) {
        let size = items.len();
        if let Some(item_node) = &node.items {
            for (i, item) in items.iter().enumerate() {
                verdict.add(self.value(item, old_item(item, old, node), item_node, &format!("{path}[{i}]")));
            }
        }
        if let Some(min) = node.bounds.min_items {
            let words = format!("should have at least {min} items");
            verdict.check(((size as i64) < min).then(|| self.invalid(path, size, &words)));
        }
        if let Some(max) = node.bounds.max_items {
            verdict.check((size as i64 > max).then(|| self.too_many(path, size, max)));
        }
        if node.unique_items {
            let twice = items.iter().enumerate().any(|(i, item)| items[..i].contains(item));
            verdict.check(twice.then(|| self.invalid(path, "", "shouldn't contain duplicates")));
        }
    }

    fn too_many(&self, path: &str, size: usize, max: i64) -> FieldError {
        FieldError::too_many(&self.at(path), size, usize::try_from(max).unwrap_or(0))
    }

    fn object(
        &self,
        members: &serde_json::Map<String, Value>,
        old: Option<&Value>,
        node: &Node,
        path: &str,
        verdict: &mut Verdict,
    ) {
        let size = members.len();
        if let Some(min) = node.bounds.min_properties {
            let words = format!("should have at least {min} properties");
            verdict.check(((size as i64) < min).then(|| self.invalid(path, size, &words)));
        }
        if let Some(max) = node.bounds.max_properties {
            verdict.check((size as i64 > max).then(|| self.too_many(path, size, max)));
        }
        for (name, member) in members {
            let old = old.and_then(|old| old.get(name));
            let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match (node.properties.get(name), &node.additional_properties) {
                (Some(node), _) => verdict.add(self.value(member, old, node, &below)),
                (None, Additional::Schema(node)) => {
                    verdict.add(self.value(member, old, node, &format!("{path}.{name}")));
                }
                (None, Additional::Forbidden) => {
                    let message = format!("{path}.{name} in body is a forbidden property");
                    verdict.check(Some(FieldError::invalid(&self.at(path), name.as_str(), &message)));
                }
                (None, Additional::Unsaid | Additional::Allowed) => {}
            }
        }
        for name in &node.required {
            let fault = || FieldError::required(&self.at(&format!("{path}.{name}")), "");
            verdict.check((!members.contains_key(name)).then(fault));
        }
    }

    /// `anyOf`, `oneOf`, `allOf`, `not`.
    fn combined(&self, value: &Value, old: Option<&Value>, node: &Node, path: &str, verdict: &mut Verdict) {
        let judge =
            |nodes: &[Node]| -> Vec<Verdict> { nodes.iter().map(|node| self.value(value, old, node, path)).collect() };
        if !node.any_of.is_empty() {
            let verdicts = judge(&node.any_of);
            if !verdicts.iter().any(Verdict::is_valid) {
                verdict.check(Some(self.whole(&format!("{path:?} must validate at least one schema (anyOf)"))));
            }
            verdict.add(best(verdicts));
        }
        if !node.one_of.is_empty() {
            let verdicts = judge(&node.one_of);
            let valid = verdicts.iter().filter(|v| v.is_valid()).count();
            let why = match valid {
                0 => "Found none valid".to_owned(),
                many => format!("Found {many} valid alternatives"),
            };
            if valid != 1 {
                let message = format!("{path:?} must validate one and only one schema (oneOf). {why}");
                verdict.check(Some(self.whole(&message)));
            }
            if valid < 2 {
                verdict.add(best(verdicts));
            }
        }
        if !node.all_of.is_empty() {
            let verdicts = judge(&node.all_of);
            let valid = verdicts.iter().filter(|v| v.is_valid()).count();
            let all = valid == verdicts.len();
            verdicts.into_iter().for_each(|v| verdict.add(v));
            let why = if valid == 0 { ". None validated" } else { "" };
            let message = format!("{path:?} must validate all the schemas (allOf){why}");
            verdict.check((!all).then(|| self.whole(&message)));
        }
        if let Some(not) = &node.not {
            let valid = self.value(value, old, not, path).is_valid();
            let message = format!("{path:?} must not validate the schema (not)");
            verdict.check(valid.then(|| self.whole(&message)));
        }
    }
}

/// The first that is valid, else the one that passed most checks.
fn best(verdicts: Vec<Verdict>) -> Verdict {
    let mut best: Option<Verdict> = None;
    for verdict in verdicts {
        if verdict.is_valid() {
            return verdict;
        }
        if best.as_ref().is_none_or(|b| verdict.passed > b.passed) {
            best = Some(verdict);
        }
    }
    best.unwrap_or_default()
}

/// Equal, and numbers by their value.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        _ => a == b,
    }
}

/// What an item was before: known where lists have keys.
fn old_item<'a>(item: &Value, old: Option<&'a Value>, node: &Node) -> Option<&'a Value> {
    if node.list_type != "map" {
        return None;
    }
    let keys = keys_of(item, &node.list_map_keys);
    old?.as_array()?.iter().find(|old| keys_of(old, &node.list_map_keys) == keys)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(schema: Value, value: Value) -> Vec<String> {
        let wrapped = json!({"type": "object", "properties": {"f": schema}});
        update(&wrapped, &json!({ "f": value }), None)
    }

    fn update(schema: &Value, value: &Value, old: Option<&Value>) -> Vec<String> {
        let found = validate(value, old, &Node::read(Some(schema)), &FieldPath::root());
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn words_of_single_faults() {
        for (schema, value, expected) in [
            (
                json!({"type": "integer"}),
                json!("x"),
                r#"f: Invalid value: "string": f in body must be of type integer: "string""#,
            ),
            (
                json!({"type": "string"}),
                json!(null),
                r#"f: Invalid value: "null": f in body must be of type string: "null""#,
            ),
            (
                json!({"type": "integer", "format": "int32"}),
                json!(1.5),
                r#"f: Invalid value: "double": f in body must be of type int32: "double""#,
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                r#"f: Invalid value: "boolean": f in body must be of type integer,string: "boolean""#,
            ),
            (
                json!({"type": "string", "format": "ipv4"}),
                json!("x"),
                r#"f: Invalid value: "x": f in body must be of type ipv4: "x""#,
            ),
            (
                json!({"type": "string", "enum": ["b", "a"]}),
                json!("c"),
                r#"f: Unsupported value: "c": supported values: "a", "b""#,
            ),
            (
                json!({"type": "string", "pattern": "^a$"}),
                json!("b"),
                r#"f: Invalid value: "b": f in body should match '^a$'"#,
            ),
            (
                json!({"type": "string", "minLength": 2}),
                json!("ä"),
                r#"f: Invalid value: "ä": f in body should be at least 2 chars long"#,
            ),
            (json!({"type": "string", "maxLength": 1}), json!("ab"), "f: Too long: may not be more than 1 byte"),
            (
                json!({"type": "integer", "maximum": 3}),
                json!(4),
                "f: Invalid value: 4: f in body should be less than or equal to 3",
            ),
            (
                json!({"type": "integer", "maximum": 3, "exclusiveMaximum": true}),
                json!(3),
                "f: Invalid value: 3: f in body should be less than 3",
            ),
            (
                json!({"type": "number", "minimum": 1.5}),
                json!(1),
                "f: Invalid value: 1: f in body should be greater than or equal to 1.5",
            ),
            (
                json!({"type": "number", "multipleOf": 0.1}),
                json!(0.25),
                "f: Invalid value: 0.25: f in body should be a multiple of 0.1",
            ),
            (json!({"type": "array", "maxItems": 1}), json!([1, 2]), "f: Too many: 2: must have at most 1 item"),
            (
                json!({"type": "array", "minItems": 1}),
                json!([]),
                "f: Invalid value: 0: f in body should have at least 1 items",
            ),
            (
                json!({"type": "object", "minProperties": 1}),
                json!({}),
                "f: Invalid value: 0: f in body should have at least 1 properties",
            ),
            (json!({"type": "object", "required": ["a"]}), json!({}), "f.a: Required value"),
            (
                json!({"type": "array", "items": {"type": "string"}}),
                json!(["a", 1]),
                r#"f[1]: Invalid value: "integer": f[1] in body must be of type string: "integer""#,
            ),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                json!({"k": 1}),
                r#"f.k: Invalid value: "integer": f.k in body must be of type string: "integer""#,
            ),
            (
                json!({"type": "integer", "format": "int32"}),
                json!(3_000_000_000u64),
                r#"<nil>: Invalid value: "": Checked value must be of type integer with format int32 in f"#,
            ),
            (
                json!({"not": {"enum": ["a"]}}),
                json!("a"),
                r#"<nil>: Invalid value: "": "f" must not validate the schema (not)"#,
            ),
        ] {
            assert_eq!(faults(schema.clone(), value), [expected], "{schema}");
        }
    }

    #[test]
    fn what_fits() {
        for (schema, value) in [
            (json!({"type": "number"}), json!(1)),
            (json!({"type": "integer"}), json!(1.0)),
            (json!({"type": "string", "nullable": true}), json!(null)),
            (json!({"x-kubernetes-int-or-string": true}), json!("50%")),
            (json!({"type": "string", "format": "made-up"}), json!("x")),
            (json!({"type": "number", "multipleOf": 0.1}), json!(0.3)),
            (json!({"enum": [1.0]}), json!(1)),
            (json!({"anyOf": [{"type": "integer"}, {"type": "string"}]}), json!("x")),
            (json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}), json!({"b": 1})),
        ] {
            assert_eq!(faults(schema.clone(), value), [""; 0], "{schema}");
        }
    }

    #[test]
    fn several_schemas() {
        let one_of = json!({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
        let none = [
            r#"<nil>: Invalid value: "": "f" must validate one and only one schema (oneOf). Found none valid"#,
            "f.a: Required value",
        ];
        assert_eq!(faults(one_of.clone(), json!({})), none);
        let both = r#"<nil>: Invalid value: "": "f" must validate one and only one schema (oneOf). Found 2 valid alternatives"#;
        assert_eq!(faults(one_of, json!({"a": 1, "b": 1})), [both]);
        let any_of = json!({"anyOf": [{"minimum": 5}, {"maximum": 1}]});
        let none = [
            r#"<nil>: Invalid value: "": "f" must validate at least one schema (anyOf)"#,
            "f: Invalid value: 3: f in body should be greater than or equal to 5",
        ];
        assert_eq!(faults(any_of, json!(3)), none);
        let all_of = json!({"allOf": [{"minimum": 5}, {"maximum": 9}]});
        let one = [
            "f: Invalid value: 3: f in body should be greater than or equal to 5",
            r#"<nil>: Invalid value: "": "f" must validate all the schemas (allOf)"#,
        ];
        assert_eq!(faults(all_of, json!(3)), one);
    }

    #[test]
    fn what_did_not_change_is_not_judged_again() {
        let schema = json!({"type": "object", "properties": {
            "old": {"type": "integer"}, "new": {"type": "integer"},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}}}});
        let old = json!({"old": "x", "new": "x", "list": [{"k": "a", "v": "bad"}]});
        let new = json!({"old": "x", "new": "y", "list": [{"k": "b", "v": "bad"}, {"k": "a", "v": "bad"}]});
        let found = update(&schema, &new, Some(&old));
        let paths: Vec<&str> = found.iter().map(|f| f.split(':').next().unwrap()).collect();
        assert_eq!(paths, ["list[0].v", "new"]);
    }
}
