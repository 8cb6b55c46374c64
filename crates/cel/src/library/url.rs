//! URLs, as far as Go's `net/url` takes them apart for Kubernetes.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::Function;
use crate::error::Error;
use crate::value::{Key, Map, Special, Value};

/// A URL in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    host: String,
    path: String,
    query: String,
    fragment: String,
}

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "url" => |args| match args {
            [Value::String(text)] => Url::parse(text).map(|url| Special::Url(url).into()).map_err(|why| {
                Error::new(format!("URL parse error during conversion from string: parse {:?}: {why}", &**text))
            }),
            _ => Err(Error::no_overload()),
        },
        "isURL" => |args| match args {
            [Value::String(text)] => Ok(Value::Bool(Url::parse(text).is_ok())),
            _ => Err(Error::no_overload()),
        },
        "getScheme" => |args| Ok(of(args)?.scheme.clone().into()),
        "getHost" => |args| Ok(of(args)?.host.clone().into()),
        "getHostname" => |args| Ok(split_port(&of(args)?.host).0.to_owned().into()),
        "getPort" => |args| Ok(split_port(&of(args)?.host).1.to_owned().into()),
        "getEscapedPath" => |args| Ok(of(args)?.path.clone().into()),
        "getQuery" => |args| {
            let mut found: BTreeMap<String, Vec<Value<'_>>> = BTreeMap::new();
            for pair in of(args)?.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                if let (Some(name), Some(value)) = (unescaped(name, true), unescaped(value, true)) {
                    found.entry(name).or_default().push(value.into());
                }
            }
            let entry = |(name, values): (String, Vec<_>)| {
                let name: Value<'_> = name.into();
                Key::of(&name).map(|key| (key, (name, values.into())))
            };
            Ok(Value::Map(Map::Owned(Rc::new(found.into_iter().filter_map(entry).collect()))))
        },
        _ => return None,
    })
}

fn of<'x>(args: &'x [Value<'_>]) -> Result<&'x Url, Error> {
    match args.first() {
        Some(Value::Library(special)) => match &**special {
            Special::Url(url) => Ok(url),
            _ => Err(Error::no_overload()),
        },
        _ => Err(Error::no_overload()),
    }
}

impl Url {
    /// Reads an absolute URL or an absolute path; the error is Go's reason.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("empty url".to_owned());
        }
        if text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (scheme, rest) = scheme(rest)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut url = Self {
            scheme: scheme.to_ascii_lowercase(),
            host: String::new(),
            path: String::new(),
            query: query.to_owned(),
            fragment: fragment.to_owned(),
        };
        let Some(after) = rest.strip_prefix("//").filter(|_| !(scheme.is_empty() && rest.starts_with("///"))) else {
            if !rest.starts_with('/') && scheme.is_empty() {
                return Err("invalid URI for request".to_owned());
            }
            if !rest.starts_with('/') {
                // An opaque URL, such as `mailto:someone`.
                return Ok(url);
            }
            url.path = escaped_path(rest)?;
            return Ok(url);
        };
        let (authority, path) = after.find('/').map_or((after, ""), |at| after.split_at(at));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        url.host = checked_host(host)?;
        url.path = escaped_path(path)?;
        Ok(url)
    }
}

/// The scheme and what follows its colon.
fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (i, c) in text.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if i > 0 => {}
            ':' if i == 0 => return Err("missing protocol scheme".to_owned()),
            ':' => return Ok((&text[..i], &text[i + 1..])),
            _ => break,
        }
    }
    let first = text.split('/').next().unwrap_or_default();
    if !text.starts_with('/') && first.contains(':') {
        return Err("first path segment in URL cannot contain colon".to_owned());
    }
    Ok(("", text))
}

fn checked_host(host: &str) -> Result<String, String> {
    let port_ok =
        |port: &str| port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    if host.starts_with('[') {
        let close = host.rfind(']').ok_or("missing ']' in host")?;
        let port = &host[close + 1..];
        return if port_ok(port) { Ok(host.to_owned()) } else { Err(format!("invalid port {port:?} after host")) };
    }
    if let Some(at) = host.rfind(':')
        && !port_ok(&host[at..])
    {
        return Err(format!("invalid port {:?} after host", &host[at..]));
    }
    if let Some(wrong) = host.chars().find(|c| matches!(c, ' ' | '\\' | '^' | '{' | '}' | '|' | '`')) {
        return Err(format!("invalid character {:?} in host name", wrong.to_string()));
    }
    unescaped(host, false).ok_or_else(|| "invalid URL escape in host".to_owned())
}

fn split_port(host: &str) -> (&str, &str) {
    if let Some(rest) = host.strip_prefix('[') {
        return match rest.split_once(']') {
            Some((name, port)) => (name, port.trim_start_matches(':')),
            None => (host, ""),
        };
    }
    host.rsplit_once(':').unwrap_or((host, ""))
}

/// The path as it was given, where it is validly escaped; escaped where characters need it.
fn escaped_path(path: &str) -> Result<String, String> {
    unescaped(path, false).ok_or_else(|| "invalid URL escape".to_owned())?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*%[]".contains(&b);
    Ok(path.bytes().fold(String::new(), |mut out, b| {
        if plain(b) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
        out
    }))
}

fn unescaped(text: &str, plus: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                let digits = std::str::from_utf8(&digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
                out.push(u8::from_str_radix(digits, 16).ok()?);
            }
            b'+' if plus => out.push(b' '),
            b => out.push(b),
        }
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}
