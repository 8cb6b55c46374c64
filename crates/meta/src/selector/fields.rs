//! Field selectors: equality of a few fields that a kind allows.

use std::fmt;

use super::SelectorError;

/// One condition on one field.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldTerm {
    /// The field's path, as the kind names it.
    pub field: String,
    /// Whether the field must differ from the value rather than equal it.
    pub negated: bool,
    /// The value, unescaped.
    pub value: String,
}

/// All of its terms must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

impl FieldSelector {
    /// From a query string's form.
    ///
    /// # Errors
    /// In upstream's words when the text is no selector.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parts = split_terms(text);
        parts.sort_unstable();
        let mut terms = Vec::new();
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            let unclear = || SelectorError::Term { selector: text.to_owned(), term: part.to_owned() };
            let (field, negated, value) = split_term(part).ok_or_else(unclear)?;
            terms.push(FieldTerm { field: field.to_owned(), negated, value: unescape(value)? });
        }
        Ok(Self { terms })
    }
    /// The terms.
    pub fn terms(&self) -> &[FieldTerm] {
        &self.terms
    }
    /// Whether it lets everything through.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }
    /// Whether an object is selected whose fields `lookup` finds; absent ones are empty.
    pub fn matches_with<'a>(&self, lookup: impl Fn(&str) -> &'a str) -> bool {
        self.terms.iter().all(|t| (lookup(&t.field) == t.value) != t.negated)
    }
    /// The one value that `field` must have, where the selector says so.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.field == field && !t.negated).map(|t| t.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, term) in self.terms.iter().enumerate() {
            let (comma, operator) = (if i == 0 { "" } else { "," }, if term.negated { "!=" } else { "=" });
            write!(f, "{comma}{}{operator}{}", term.field, escape(&term.value))?;
        }
        Ok(())
    }
}

/// At commas without a backslash before them.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

/// Field, whether negated, value.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in term.char_indices() {
        let rest = &term[i..];
        for (operator, negated) in [("!=", true), ("==", false), ("=", false)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..i], negated, value));
            }
        }
    }
    None
}

/// Makes any text fit to be a value of a field selector.
pub fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(other) => return Err(SelectorError::Escape(format!("\\{other}"))),
                None => return Err(SelectorError::Escape("\\".to_owned())),
            },
            ',' | '=' => return Err(SelectorError::Unescaped(c.into())),
            _ => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matching() {
        let lookup = |field: &str| match field {
            "spec.nodeName" => "n1",
            "odd" => "a,b=c\\",
            _ => "",
        };
        for (text, expected) in [
            ("", true),
            ("spec.nodeName=n1", true),
            ("spec.nodeName==n1,status.phase!=Failed", true),
            ("spec.nodeName!=n1", false),
            ("spec.nodeName=", false),
            ("other=", true),
            (r"odd=a\,b\=c\\", true),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap().matches_with(lookup), expected, "{text}");
        }
    }

    #[test]
    fn errors_and_round_trip() {
        for (text, message) in [
            ("a", "invalid selector: 'a'; can't understand 'a'"),
            ("a=b=c", "invalid field selector: unescaped character in value: 61"),
            (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
        ] {
            assert_eq!(FieldSelector::parse(text).expect_err(text).to_string(), message);
        }
        let text = r"a=x\,y,b!=z";
        assert_eq!(FieldSelector::parse(text).unwrap().to_string(), text);
        assert_eq!(FieldSelector::parse(text).unwrap().exact("a"), Some("x,y"));
    }
}
