//! Regular expressions as Go reads them (RE2), on an engine that runs in linear time too.
//!
//! The engine differs in a few words of the language; [`compile`] translates those: `\d`, `\w`, `\s` and `\b` are ASCII,
//! and a bracket within a class is itself.

use std::fmt::Write as _;

use regex::Regex;

/// How large one compiled pattern may get, in bytes.
const SIZE_LIMIT: usize = 1 << 20;

/// Compiles a pattern; the error is the reason, in one line.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    if let Some(operator) = nested_repetition(pattern) {
        return Err(format!("error parsing regexp: invalid nested repetition operator: `{operator}`"));
    }
    let translated = translate(pattern);
    let built = regex::RegexBuilder::new(&translated).size_limit(SIZE_LIMIT).dfa_size_limit(SIZE_LIMIT).build();
    built.map_err(|error| {
        let text = error.to_string();
        let reason = match text.lines().last().unwrap_or_default().trim_start_matches("error: ") {
            "unopened group" => "unexpected )",
            "unclosed group" => "missing closing )",
            "unclosed character class" => "missing closing ]",
            "repetition operator missing expression" => "missing argument to repetition operator",
            reason => reason,
        };
        format!("error parsing regexp: {reason}: `{pattern}`")
    })
}

/// A repetition of a repetition (`a++`), which Go refuses.
fn nested_repetition(pattern: &str) -> Option<String> {
    let (mut escaped, mut class, mut repeated) = (false, false, String::new());
    for c in pattern.chars() {
        let operator = !escaped && !class && matches!(c, '*' | '+' | '?');
        match repeated.len() {
            1 | 2 if operator && !(c == '?' && repeated.len() == 1) => return Some(format!("{repeated}{c}")),
            _ if operator => repeated.push(c),
            _ => repeated.clear(),
        }
        match c {
            '\\' => escaped = !escaped,
            '[' if !escaped => class = true,
            ']' if !escaped => class = false,
            _ => {}
        }
        if c != '\\' {
            escaped = false;
        }
    }
    None
}

fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut chars = pattern.chars().peekable();
    // Within a class: how many characters of it were seen, since a bracket that opens it is itself.
    let mut class: Option<usize> = None;
    while let Some(c) = chars.next() {
        if c == '\\' {
            let escaped = chars.next();
            let inside = class.is_some();
            let replaced = match escaped {
                Some('d') if inside => "0-9",
                Some('d') => "[0-9]",
                Some('D') => "[^0-9]",
                Some('w') if inside => "0-9A-Za-z_",
                Some('w') => "[0-9A-Za-z_]",
                Some('W') => "[^0-9A-Za-z_]",
                Some('s') if inside => r"\t\n\x0c\r ",
                Some('s') => r"[\t\n\x0c\r ]",
                Some('S') => r"[^\t\n\x0c\r ]",
                Some('b') => r"(?-u:\b)",
                Some('B') => r"(?-u:\B)",
                Some('Q') if !inside => {
                    let rest: String = chars.by_ref().collect();
                    let (quoted, rest) = rest.split_once("\\E").unwrap_or((&rest, ""));
                    out.push_str(&regex::escape(quoted));
                    out.push_str(&translate(rest));
                    return out;
                }
                Some(other) => {
                    let _ = write!(out, "\\{other}");
                    ""
                }
                None => "\\",
            };
            out.push_str(replaced);
            class = class.map(|n| n + 1);
            continue;
        }
        match (c, class) {
            ('[', None) => {
                class = Some(0);
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
            }
            (']', Some(0)) => {
                out.push_str("\\]");
                class = Some(1);
            }
            (']', Some(_)) => {
                out.push(']');
                class = None;
            }
            ('[', Some(n)) if chars.peek() == Some(&':') => {
                let name: String = std::iter::from_fn(|| chars.next_if(|c| *c != ']')).collect();
                let _ = write!(out, "[{name}");
                if let Some(close) = chars.next() {
                    out.push(close);
                }
                class = Some(n + 1);
            }
            ('[' | '&' | '~', Some(n)) => {
                let _ = write!(out, "\\{c}");
                class = Some(n + 1);
            }
            (c, _) => {
                out.push(c);
                class = class.map(|n| n + 1);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::compile;

    #[test]
    fn patterns_mean_what_go_means() {
        let table = [
            (r"^\d+$", "٣", false),
            (r"^\d+$", "123", true),
            (r"^[\w.-]+$", "a_b.c-1", true),
            (r"^[^\s]+$", "a b", false),
            (r"^[[]x$", "[x", true),
            (r"^[]x]+$", "]x", true),
            (r"^[[:alpha:]]+$", "abc", true),
            (r"^[a&&b]+$", "a&b", true),
            (r"^\Qa.b\E+$", "a.bb", true),
            (r"a\b", "a b", true),
        ];
        for (pattern, text, fits) in table {
            assert_eq!(compile(pattern).unwrap().is_match(text), fits, "{pattern} {text}");
        }
        assert!(compile("(a").is_err());
        assert!(compile(&"(a{1000}){1000}".repeat(3)).is_err(), "bounded");
    }
}
