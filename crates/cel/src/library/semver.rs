//! Semantic versions.

use std::cmp::Ordering;

use super::Function;
use crate::error::Error;
use crate::value::{Special, Value};

/// `1.2.3-alpha.1`; what comes after a plus does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Semver {
    major: u64,
    minor: u64,
    patch: u64,
    pre: Vec<String>,
}

pub(super) fn function(name: &str) -> Option<Function> {
    Some(match name {
        "semver" => |args| read(args)?.map(|version| Special::Semver(version).into()).map_err(Error::new),
        "isSemver" => |args| Ok(Value::Bool(read(args)?.is_ok())),
        "major" => |args| Ok(Value::Int(of(args)?.major as i64)),
        "minor" => |args| Ok(Value::Int(of(args)?.minor as i64)),
        "patch" => |args| Ok(Value::Int(of(args)?.patch as i64)),
        _ => return None,
    })
}

fn of<'x>(args: &'x [Value<'_>]) -> Result<&'x Semver, Error> {
    match args.first() {
        Some(Value::Library(special)) => match &**special {
            Special::Semver(version) => Ok(version),
            _ => Err(Error::no_overload()),
        },
        _ => Err(Error::no_overload()),
    }
}

/// The version that a call is about; `true` as its second argument forgives a `v`, leading zeros and missing parts.
fn read(args: &[Value<'_>]) -> Result<Result<Semver, String>, Error> {
    match args {
        [Value::String(text)] | [Value::String(text), Value::Bool(false)] => Ok(Semver::parse(text)),
        [Value::String(text), Value::Bool(true)] => Ok(Semver::parse(&normalized(text))),
        _ => Err(Error::no_overload()),
    }
}

fn normalized(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let (core, rest) = text.find(['-', '+']).map_or((text, ""), |at| text.split_at(at));
    let mut parts: Vec<&str> = core
        .splitn(3, '.')
        .map(|part| match part.trim_start_matches('0') {
            "" if !part.is_empty() => "0",
            trimmed => trimmed,
        })
        .collect();
    if rest.is_empty() {
        parts.resize(3.max(parts.len()), "0");
    }
    format!("{}{rest}", parts.join("."))
}

impl Semver {
    /// Reads a version; the error is the reason.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("Version string empty".to_owned());
        }
        let (core, build) = text.split_once('+').map_or((text, None), |(core, build)| (core, Some(build)));
        let (core, pre) = core.split_once('-').map_or((core, None), |(core, pre)| (core, Some(pre)));
        let parts: Vec<&str> = core.split('.').collect();
        let [major, minor, patch] = parts[..] else { return Err("No Major.Minor.Patch elements found".to_owned()) };
        let word = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let pre: Vec<&str> = pre.map(|pre| pre.split('.').collect()).unwrap_or_default();
        if let Some(wrong) = pre.iter().find(|part| !word(part)) {
            return Err(match wrong.is_empty() {
                true => "Prerelease is empty".to_owned(),
                false => format!("Invalid character(s) found in prerelease {wrong:?}"),
            });
        }
        if let Some(wrong) = pre.iter().find(|part| numeric(part).is_some() && part.len() > 1 && part.starts_with('0'))
        {
            return Err(format!("Numeric PreRelease version must not contain leading zeroes {wrong:?}"));
        }
        if build.is_some_and(|build| !build.split('.').all(|part| word(&part))) {
            return Err(format!("Invalid character(s) found in build meta data {:?}", build.unwrap_or_default()));
        }
        Ok(Self {
            major: number(major, "major")?,
            minor: number(minor, "minor")?,
            patch: number(patch, "patch")?,
            pre: pre.into_iter().map(str::to_owned).collect(),
        })
    }
}

fn numeric(part: &str) -> Option<u64> {
    part.parse().ok().filter(|_| part.bytes().all(|b| b.is_ascii_digit()))
}

fn number(text: &str, which: &str) -> Result<u64, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in {which} number {text:?}"));
    }
    let title = format!("{}{}", which[..1].to_ascii_uppercase(), &which[1..]);
    if text.len() > 1 && text.starts_with('0') {
        return Err(format!("{title} number must not contain leading zeroes {text:?}"));
    }
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {text:?}: value out of range"))
}

impl PartialOrd for Semver {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Semver {
    fn cmp(&self, other: &Self) -> Ordering {
        let core = (self.major, self.minor, self.patch).cmp(&(other.major, other.minor, other.patch));
        let pre = || match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => {
                let parts = self.pre.iter().zip(&other.pre).map(|(a, b)| match (numeric(a), numeric(b)) {
                    (Some(a), Some(b)) => a.cmp(&b),
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (None, None) => a.cmp(b),
                });
                parts.fold(Ordering::Equal, Ordering::then).then(self.pre.len().cmp(&other.pre.len()))
            }
        };
        core.then_with(pre)
    }
}
