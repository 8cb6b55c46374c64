//! What may be a name: labels and subdomains of DNS, qualified names, label values, keys, ports.
//!
//! Each check returns what is wrong, in upstream's words (`k8s.io/apimachinery/pkg/util/validation` and
//! `.../api/validate/content`); an empty list means the text is fine. Checks walk bytes once; the regular expressions
//! in the messages are for people.

/// Longest DNS label.
pub const LABEL_MAX: usize = 63;
/// Longest DNS subdomain.
pub const SUBDOMAIN_MAX: usize = 253;

const LABEL_RE: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_RE: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const SUBDOMAIN_UNDERSCORE_RE: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
const KEY_RE: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// A message about text that does not fit the regular expression `re`.
pub fn regex_fault(message: &str, re: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{re}')");
    }
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{re}')", examples.join(" or "))
}

/// A message about a number outside its range.
pub fn range_fault(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

fn max_characters(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn max_bytes(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn lower_or_digit(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// Non-empty, of `inner` bytes, and with `edge` bytes at both ends.
fn framed(text: &str, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(&first), Some(&last)) if edge(first) && edge(last))
        && bytes.iter().all(|&b| inner(b))
}

fn fits_label(text: &str) -> bool {
    framed(text, lower_or_digit, |b| lower_or_digit(b) || b == b'-')
}

fn fits_subdomain(text: &str) -> bool {
    text.split('.').all(fits_label)
}

fn fits_key(text: &str) -> bool {
    framed(text, |b| b.is_ascii_alphanumeric(), |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A DNS label as RFC 1123 has it: names of pods' containers, of namespaces, ...
pub fn dns1123_label(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > LABEL_MAX {
        faults.push(max_characters(LABEL_MAX));
    }
    if !fits_label(value) {
        faults.push(if fits_subdomain(value) {
            "must not contain dots".to_owned()
        } else {
            let message = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
                           must start and end with an alphanumeric character";
            regex_fault(message, LABEL_RE, &["my-name", "123-abc"])
        });
    }
    faults
}

/// A DNS subdomain as RFC 1123 has it: names of most objects.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        faults.push(max_characters(SUBDOMAIN_MAX));
    }
    if !fits_subdomain(value) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
                       and must start and end with an alphanumeric character";
        faults.push(regex_fault(message, SUBDOMAIN_RE, &["example.com"]));
    }
    faults
}

/// A DNS subdomain that may have underscores: search domains of a pod.
pub fn dns1123_subdomain_with_underscore(value: &str) -> Vec<String> {
    let fits = |label: &str| {
        let body = label.strip_prefix('_').unwrap_or(label);
        framed(body, lower_or_digit, |b| lower_or_digit(b) || matches!(b, b'-' | b'_'))
    };
    let mut faults = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        faults.push(max_characters(SUBDOMAIN_MAX));
    }
    if !value.split('.').all(fits) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or \
                       '.', and must start and end with an alphanumeric character";
        faults.push(regex_fault(message, SUBDOMAIN_UNDERSCORE_RE, &["example.com"]));
    }
    faults
}

/// A DNS label as RFC 1035 has it, beginning with a letter: names of Services.
pub fn dns1035_label(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > LABEL_MAX {
        faults.push(max_characters(LABEL_MAX));
    }
    if !fits_label(value) || !value.starts_with(|c: char| c.is_ascii_lowercase()) {
        let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                       alphabetic character, and end with an alphanumeric character";
        faults.push(regex_fault(message, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    faults
}

/// `*.` and a subdomain: hosts of an Ingress.
pub fn wildcard_subdomain(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        faults.push(max_characters(SUBDOMAIN_MAX));
    }
    if !value.strip_prefix("*.").is_some_and(fits_subdomain) {
        let message = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which \
                       must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric \
                       character";
        faults.push(regex_fault(message, &format!("\\*\\.{SUBDOMAIN_RE}"), &["*.example.com"]));
    }
    faults
}

/// `[prefix/]name`: keys of labels and annotations, names of resources, taints, finalizers.
pub fn qualified_name(value: &str) -> Vec<String> {
    const MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                           alphanumeric character";
    let form = || regex_fault(MESSAGE, KEY_RE, &["MyName", "my.name", "123-abc"]);
    let mut faults = Vec::new();
    let mut parts = value.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".to_owned());
            } else if let Some(long) = (prefix.len() > SUBDOMAIN_MAX).then(|| max_bytes(SUBDOMAIN_MAX)) {
                faults.push(format!("prefix part {long}"));
                faults.extend((!fits_subdomain(prefix)).then(|| subdomain_form("prefix part ")));
            } else if !fits_subdomain(prefix) {
                faults.push(subdomain_form("prefix part "));
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                form()
            )];
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        faults.push(format!("name part {}", max_bytes(LABEL_MAX)));
    }
    if !fits_key(name) {
        faults.push(format!("name part {}", form()));
    }
    faults
}

fn subdomain_form(prefix: &str) -> String {
    dns1123_subdomain("").pop().map_or_else(String::new, |form| format!("{prefix}{form}"))
}

/// A label's value, possibly empty.
pub fn label_value(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > LABEL_MAX {
        faults.push(max_bytes(LABEL_MAX));
    }
    if !value.is_empty() && !fits_key(value) {
        let message = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                       and must start and end with an alphanumeric character";
        faults.push(regex_fault(message, &format!("({KEY_RE})?"), &["MyValue", "my_value", "12345"]));
    }
    faults
}

/// A key of a ConfigMap or Secret.
pub fn config_key(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.len() > SUBDOMAIN_MAX {
        faults.push(max_characters(SUBDOMAIN_MAX));
    }
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !framed(value, fits, fits) {
        let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        faults.push(regex_fault(message, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    faults.extend(parent_directory(value));
    faults
}

fn parent_directory(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if value.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// A name of an environment variable: printable ASCII without `=`.
pub fn env_var_name(value: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if value.is_empty() {
        faults.push("environment variable name must be non-empty".to_owned());
    }
    if !value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=') {
        let message =
            "a valid environment variable name must consist only of printable ASCII characters other than '='";
        faults.push(message.to_owned());
    }
    faults
}

/// An identifier of C: prefixes of environment variables.
pub fn c_identifier(value: &str) -> Vec<String> {
    let fits = value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !value.is_empty() && fits && !value.starts_with(|c: char| c.is_ascii_digit()) {
        return Vec::new();
    }
    let message = "a valid C identifier must start with alphabetic character or '_', followed by a string of \
                   alphanumeric characters or '_'";
    vec![regex_fault(message, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])]
}

/// A port's number.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec![range_fault(1, 65535)] }
}

/// A port's name as IANA has them.
pub fn port_name(port: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if port.len() > 15 {
        faults.push(max_characters(15));
    }
    if port.is_empty() || !port.bytes().all(|b| lower_or_digit(b) || b == b'-') {
        faults.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !port.bytes().any(|b| b.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if port.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if port.starts_with('-') || port.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

/// `NN%`.
pub fn percent(value: &str) -> Vec<String> {
    let fits = value.strip_suffix('%').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    if fits {
        return Vec::new();
    }
    let message = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![regex_fault(message, "[0-9]+%", &["1%", "93%"])]
}

/// A name of an HTTP header.
pub fn http_header_name(value: &str) -> Vec<String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if framed(value, fits, fits) {
        return Vec::new();
    }
    let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![regex_fault(message, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// A name that may stand in a path: RBAC's names, anything without a stricter rule.
pub fn path_segment(value: &str, prefix: bool) -> Vec<String> {
    if !prefix && matches!(value, "." | "..") {
        return vec![format!("may not be '{value}'")];
    }
    ["/", "%"].iter().filter(|bad| value.contains(**bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

/// How an object's name is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameForm {
    /// [`dns1123_subdomain`].
    Subdomain,
    /// [`dns1123_label`].
    Label,
    /// [`dns1035_label`].
    Label1035,
    /// [`path_segment`].
    PathSegment,
    /// An IP address in its usual form.
    Address,
}

impl NameForm {
    /// What is wrong with `name`, which is a `generateName` if `prefix`.
    pub fn faults(self, name: &str, prefix: bool) -> Vec<String> {
        let masked;
        let shown = match name.strip_suffix('-') {
            // A random suffix follows, so the dash will not be the end.
            Some(rest) if prefix && !rest.is_empty() => {
                masked = format!("{}a", rest.char_indices().next_back().map_or("", |(end, _)| &rest[..end]));
                &masked
            }
            _ => name,
        };
        match self {
            Self::Subdomain => dns1123_subdomain(shown),
            Self::Label => dns1123_label(shown),
            Self::Label1035 => dns1035_label(shown),
            Self::PathSegment => path_segment(name, prefix),
            Self::Address => match name.parse::<std::net::IpAddr>() {
                Ok(address) if address.to_string() == name => Vec::new(),
                Ok(address) => vec![format!("must be in canonical form (\"{address}\")")],
                Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names() {
        for label in ["a", "0", "a-1", "a--1", &"a".repeat(63)] {
            assert!(dns1123_label(label).is_empty(), "{label}");
        }
        for name in ["a.b", "1.a-b.c", &format!("{0}.{0}", "a".repeat(63))] {
            assert!(dns1123_subdomain(name).is_empty(), "{name}");
        }
        for name in ["simple", "1.2.3.4/5678", "example.com/My_Name.1", "UPPER"] {
            assert!(qualified_name(name).is_empty(), "{name}");
        }
        for value in ["", "a", "My_value.1-x"] {
            assert!(label_value(value).is_empty(), "{value}");
        }
        assert!(dns1035_label("abc-123").is_empty());
        assert!(wildcard_subdomain("*.foo.bar").is_empty());
        assert!(config_key("a.B_c-1").is_empty());
        assert!(env_var_name("a.b-C D").is_empty());
        assert!(port_name("http-2").is_empty());
        assert!(percent("30%").is_empty());
    }

    #[test]
    fn bad_names_in_upstreams_words() {
        let one = |faults: Vec<String>| {
            assert_eq!(faults.len(), 1, "{faults:?}");
            faults[0].clone()
        };
        assert_eq!(one(dns1123_label("a.b")), "must not contain dots");
        assert_eq!(
            one(dns1123_label("A")),
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
             end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        );
        assert_eq!(one(dns1123_label(&"a".repeat(64))), "must be no more than 63 characters");
        assert_eq!(
            one(dns1123_subdomain("a..b")),
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
        );
        assert!(one(dns1035_label("1a")).starts_with("a DNS-1035 label must consist"));
        assert!(one(qualified_name("a/b/c")).starts_with("a valid label key must consist of"));
        assert_eq!(qualified_name("/b"), ["prefix part must be non-empty"]);
        assert_eq!(qualified_name("a/")[0], "name part must be non-empty");
        assert_eq!(one(qualified_name(&"a".repeat(64))), "name part must be no more than 63 bytes");
        assert!(one(qualified_name("A.b/c")).starts_with("prefix part a lowercase RFC 1123 subdomain"));
        assert_eq!(config_key(".."), ["must not be '..'"]);
        assert_eq!(one(port_name("123")), "must contain at least one letter (a-z)");
        assert_eq!(port_number(0), ["must be between 1 and 65535, inclusive"]);
    }

    #[test]
    fn generated_names_may_end_in_a_dash() {
        assert!(NameForm::Subdomain.faults("web-", true).is_empty());
        assert!(!NameForm::Subdomain.faults("web-", false).is_empty());
        assert!(!NameForm::Label.faults("-", true).is_empty());
        assert_eq!(NameForm::PathSegment.faults("..", false), ["may not be '..'"]);
        assert_eq!(NameForm::PathSegment.faults("a/b%c", false), ["may not contain '/'", "may not contain '%'"]);
    }
}
