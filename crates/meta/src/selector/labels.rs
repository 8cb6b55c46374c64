//! Requirements on labels, and matching.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::SelectorError;
use crate::field::{FieldError, FieldPath};
use crate::names;

/// How a requirement relates a label to its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `key in (a,b)`.
    In,
    /// `key notin (a,b)`, true without the label too.
    NotIn,
    /// `key=a`.
    Equals,
    /// `key==a`.
    DoubleEquals,
    /// `key!=a`, true without the label too.
    NotEquals,
    /// `key`.
    Exists,
    /// `!key`.
    DoesNotExist,
    /// `key>1`.
    GreaterThan,
    /// `key<1`.
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// The relation.
    pub operator: Operator,
    /// The values, as many as the operator takes.
    pub values: Vec<String>,
}

impl Requirement {
    /// A requirement, checked.
    ///
    /// # Errors
    /// [`SelectorError::Invalid`] for a bad key, bad values, or the wrong number of them.
    pub fn new(key: &str, operator: Operator, values: Vec<String>) -> Result<Self, SelectorError> {
        let mut errors = key_error(key, &FieldPath::new("key")).into_iter().collect::<Vec<_>>();
        let path = FieldPath::new("values");
        let count_fault = match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                Some("for 'in', 'notin' operators, values set can't be empty")
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if values.len() != 1 => {
                Some("exact-match compatibility requires one single value")
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                Some("values set must be empty for exists and does not exist")
            }
            Operator::GreaterThan | Operator::LessThan if values.len() != 1 => {
                Some("for 'Gt', 'Lt' operators, exactly one value is required")
            }
            _ => None,
        };
        errors.extend(count_fault.map(|detail| FieldError::invalid(&path, values.clone(), detail)));
        for (i, value) in values.iter().enumerate() {
            let at = path.index(i);
            let ordered = matches!(operator, Operator::GreaterThan | Operator::LessThan);
            if ordered && value.parse::<i64>().is_err() {
                let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(FieldError::invalid(&at, value.as_str(), detail));
            }
            let faults = names::label_value(value);
            if !faults.is_empty() {
                errors.push(FieldError::invalid(&at.key(key), value.as_str(), &faults.join("; ")));
            }
        }
        if errors.is_empty() {
            Ok(Self { key: key.to_owned(), operator, values })
        } else {
            Err(SelectorError::Invalid(errors))
        }
    }

    /// Whether labels that have `value` under this key (or nothing) satisfy it.
    pub fn matches_value(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|v| v == value);
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => value.is_some_and(listed),
            Operator::NotIn | Operator::NotEquals => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.compare(value, |have, want| have > want),
            Operator::LessThan => self.compare(value, |have, want| have < want),
        }
    }

    fn compare(&self, value: Option<&str>, relation: impl Fn(i64, i64) -> bool) -> bool {
        let want = self.values.first().and_then(|v| v.parse().ok());
        matches!((value.and_then(|v| v.parse().ok()), want), (Some(have), Some(want)) if relation(have, want))
    }
}

pub(super) fn key_error(key: &str, path: &FieldPath) -> Option<FieldError> {
    let faults = names::qualified_name(key);
    (!faults.is_empty()).then(|| FieldError::invalid(path, key, &faults.join("; ")))
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut values: Vec<&str> = self.values.iter().map(String::as_str).collect();
        values.sort_unstable();
        let (key, values) = (&self.key, values.join(","));
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

/// All of its requirements must hold; or nothing matches at all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LabelSelector {
    /// `None`: matches nothing.
    requirements: Option<Vec<Requirement>>,
}

impl Default for LabelSelector {
    fn default() -> Self {
        Self::everything()
    }
}

impl LabelSelector {
    /// Matches everything.
    pub fn everything() -> Self {
        Self { requirements: Some(Vec::new()) }
    }
    /// Matches nothing: what an absent selector means in most specs.
    pub fn nothing() -> Self {
        Self { requirements: None }
    }
    /// All of these, sorted by key.
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements: Some(requirements) }
    }
    /// From a query string's form.
    ///
    /// # Errors
    /// In upstream's words when the text is no selector.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Ok(Self::new(super::parse::requirements(text)?))
    }
    /// Exactly these labels, unchecked: selectors of Services and ReplicationControllers. Empty matches everything.
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        let equals = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: vec![value.clone()],
        };
        Self { requirements: Some(labels.iter().map(equals).collect()) }
    }
    /// From `matchLabels` and `matchExpressions` in JSON; null matches nothing, `{}` everything.
    ///
    /// # Errors
    /// When a requirement is against the rules.
    pub fn from_json(selector: &Value) -> Result<Self, SelectorError> {
        let bad = || SelectorError::NotASelector(selector.to_string());
        let text = |v: &Value| v.as_str().map(str::to_owned).ok_or_else(bad);
        if selector.is_null() {
            return Ok(Self::nothing());
        }
        let selector_map = selector.as_object().ok_or_else(bad)?;
        let mut all = Vec::new();
        for (key, value) in selector_map.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            all.push(Requirement::new(key, Operator::Equals, vec![text(value)?])?);
        }
        for expression in selector_map.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let operator = match expression["operator"].as_str().unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(SelectorError::Operator(other.to_owned())),
            };
            let values = expression["values"].as_array().into_iter().flatten().map(text).collect::<Result<_, _>>()?;
            all.push(Requirement::new(expression["key"].as_str().unwrap_or_default(), operator, values)?);
        }
        Ok(Self::new(all))
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }
    /// Whether an object is selected whose labels `lookup` finds.
    pub fn matches_with<'a>(&self, lookup: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.as_ref().is_some_and(|all| all.iter().all(|r| r.matches_value(lookup(&r.key))))
    }
    /// Whether it lets everything through.
    pub fn is_everything(&self) -> bool {
        self.requirements.as_ref().is_some_and(Vec::is_empty)
    }
    /// Whether it lets nothing through, whatever the labels.
    pub fn is_nothing(&self) -> bool {
        self.requirements.is_none()
    }
    /// The requirements, sorted by key; empty also for [`LabelSelector::nothing`].
    pub fn requirements(&self) -> &[Requirement] {
        self.requirements.as_deref().unwrap_or_default()
    }
    /// The one value that label `key` must have, where the selector says so: a way into an index.
    pub fn exact(&self, key: &str) -> Option<&str> {
        self.requirements().iter().find(|r| r.key == key).and_then(|r| match (r.operator, r.values.as_slice()) {
            (Operator::In | Operator::Equals | Operator::DoubleEquals, [one]) => Some(one.as_str()),
            _ => None,
        })
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements().iter().enumerate() {
            write!(f, "{}{requirement}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn matching() {
        let have = labels(&[("app", "web"), ("tier", "front"), ("n", "5")]);
        for (selector, expected) in [
            ("", true),
            ("app", true),
            ("!app", false),
            ("!other", true),
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("other!=x", true),
            ("app in (a, web)", true),
            ("app notin (a,web)", false),
            ("other notin (a)", true),
            ("n>4,n<6", true),
            ("n>5", false),
            ("app>1", false),
            ("app=", false),
        ] {
            assert_eq!(LabelSelector::parse(selector).unwrap().matches(&have), expected, "{selector}");
        }
        assert!(!LabelSelector::nothing().matches(&have));
    }

    #[test]
    fn from_json() {
        let selector = json!({"matchLabels": {"b": "1"},
            "matchExpressions": [{"key": "a", "operator": "In", "values": ["y", "x"]}, {"key": "c", "operator": "Exists"}]});
        let parsed = LabelSelector::from_json(&selector).unwrap();
        assert_eq!(parsed.to_string(), "a in (x,y),b=1,c");
        assert!(LabelSelector::from_json(&json!({})).unwrap().is_everything());
        assert!(LabelSelector::from_json(&Value::Null).unwrap().is_nothing());
        let bad = json!({"matchExpressions": [{"key": "a", "operator": "Near"}]});
        let error = LabelSelector::from_json(&bad).unwrap_err();
        assert_eq!(error.to_string(), "\"Near\" is not a valid label selector operator");
    }

    #[test]
    fn exact_values() {
        let selector = LabelSelector::parse("a=1,b in (2),c in (3,4),d!=5").unwrap();
        let found: Vec<_> = ["a", "b", "c", "d", "e"].into_iter().map(|k| selector.exact(k)).collect();
        assert_eq!(found, [Some("1"), Some("2"), None, None, None]);
    }
}
