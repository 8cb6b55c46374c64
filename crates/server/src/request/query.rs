//! The query string, and the options it carries.

use percent_encoding::percent_decode_str;
use skiff_meta::field::{FieldError, FieldPath};
use skiff_meta::selector::{FieldSelector, LabelSelector};
use skiff_meta::{GroupKind, Status};

use super::go_words;

/// Names and values of a query string, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// From the text after the question mark.
    pub(crate) fn parse(text: &str) -> Self {
        let decode = |s: &str| percent_decode_str(&s.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = text.split('&').filter(|p| !p.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(pairs.collect())
    }

    /// The first value of `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All values of `name`.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The first value of `name`, empty when missing.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// A flag: there, and neither `false` nor `0`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).is_some_and(|v| !matches!(v.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    /// A whole number.
    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse().map(Some).map_err(|why| Status::bad_request(go_words::no_number("ParseInt", text, &why)))
    }
}

/// `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    /// As of exactly this version.
    Exact,
    /// As of this version or a newer one.
    NotOlderThan,
}

/// Options of list, watch and deletecollection.
#[derive(Clone, Debug)]
pub(crate) struct ListOptions {
    /// Which labels.
    pub(crate) labels: LabelSelector,
    /// Which fields.
    pub(crate) fields: FieldSelector,
    /// `None`: not said, the newest.
    pub(crate) version: Option<u64>,
    /// How the version is meant.
    pub(crate) version_match: Option<VersionMatch>,
    /// 0: all.
    pub(crate) limit: usize,
    /// Opaque, from an earlier answer.
    pub(crate) continue_token: String,
    /// How long a watch may last, in seconds.
    pub(crate) timeout_seconds: Option<u64>,
    /// The watcher understands bookmarks.
    pub(crate) bookmarks: bool,
    /// Whether a watch begins with what is there and a bookmark after it.
    pub(crate) initial_events: Option<bool>,
}

/// A resourceVersion as clients send it; the fault in words where it is none.
fn version(text: &str) -> Result<Option<u64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|why| {
        let why = go_words::no_number("ParseUint", text, &why);
        FieldError::invalid(&FieldPath::new("resourceVersion"), text, &why).to_string()
    })
}

/// The resourceVersion of a GET or a watch, of which upstream thinks that it must be good.
pub(crate) fn parse_version(text: &str) -> Result<Option<u64>, Status> {
    version(text).map_err(|fault| Status::failure(500, "", fault))
}

/// The resourceVersion of a list, and of a GET of what upstream does not cache.
pub(crate) fn parse_given_version(text: &str) -> Result<Option<u64>, Status> {
    version(text).map_err(|fault| Status::bad_request(format!("invalid resource version: {fault}")))
}

impl ListOptions {
    /// From the query of a list or watch.
    pub(crate) fn parse(query: &Query) -> Result<Self, Status> {
        let timeout_seconds = query.number("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
        let limit = usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(0);
        let labels =
            LabelSelector::parse(query.text("labelSelector")).map_err(|e| Status::bad_request(e.to_string()))?;
        let fields =
            FieldSelector::parse(query.text("fieldSelector")).map_err(|e| Status::bad_request(e.to_string()))?;
        let watch = query.flag("watch");
        let continue_token = query.text("continue").to_owned();
        let initial_events = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
        let version_match = version_match(query, watch)?;
        let text = query.text("resourceVersion");
        let version = if watch { parse_version(text)? } else { parse_given_version(text)? };
        let bookmarks = query.flag("allowWatchBookmarks");
        Ok(Self {
            labels,
            fields,
            version,
            version_match,
            limit,
            continue_token,
            timeout_seconds,
            bookmarks,
            initial_events,
        })
    }
}

/// How the version is meant, and whether that fits what else is asked for.
fn version_match(query: &Query, watch: bool) -> Result<Option<VersionMatch>, Status> {
    let path = FieldPath::new("resourceVersionMatch");
    let mut faults = Vec::new();
    let text = query.text("resourceVersionMatch");
    let (version, more) = (query.text("resourceVersion"), !query.text("continue").is_empty());
    let events = query.get("sendInitialEvents").is_some();
    let mut forbid = |wrong: bool, path: &FieldPath, why: &str| {
        if wrong {
            faults.push(FieldError::forbidden(path, why));
        }
    };
    let found = match text {
        "Exact" if !watch => Some(VersionMatch::Exact),
        "NotOlderThan" => Some(VersionMatch::NotOlderThan),
        _ => None,
    };
    let (said, strange) = (!text.is_empty(), !text.is_empty() && found.is_none());
    if watch {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        forbid(events && text != "NotOlderThan", &path, why);
        let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        forbid(said && !events, &path, why);
    } else {
        let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
        forbid(said && version.is_empty(), &path, why);
        forbid(said && more, &path, "resourceVersionMatch is forbidden when continue is provided");
        let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
        forbid(text == "Exact" && version == "0", &path, why);
        forbid(events, &FieldPath::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
    }
    if strange {
        let supported: &[&str] = if watch { &["NotOlderThan"] } else { &["Exact", "NotOlderThan", ""] };
        faults.push(FieldError::not_supported_as_listed(&path, text, supported));
    }
    // A watch that begins with the state is one with the events of a list, said or not.
    let begins = query.get("sendInitialEvents").is_none() && matches!(version, "" | "0");
    if watch && more && (said || begins) {
        faults.push(FieldError::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
    }
    if faults.is_empty() {
        return Ok(found);
    }
    Err(Status::invalid(&GroupKind::new("meta.k8s.io", "ListOptions"), "", &faults))
}

/// `fieldValidation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Unknown and repeated fields are dropped silently.
    Ignore,
    /// They are dropped, with a warning.
    #[default]
    Warn,
    /// They are refused.
    Strict,
}

/// Options of create, update and patch.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteOptions {
    /// Do everything but write.
    pub(crate) dry_run: bool,
    /// What to do about unknown fields.
    pub(crate) validation: FieldValidation,
    /// Who owns the fields that are set.
    pub(crate) manager: String,
    /// Apply: take over what others own.
    pub(crate) force: bool,
    /// Whether `force` was said at all.
    pub(crate) force_given: bool,
}

impl WriteOptions {
    /// From the query; `kind` is that of the options, for errors.
    pub(crate) fn parse(query: &Query, kind: &str) -> Result<Self, Status> {
        let mut faults = Vec::new();
        let dry_run = dry_run(query.all("dryRun"), &mut faults);
        let validation = match query.text("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                let path = skiff_meta::field::FieldPath::new("fieldValidation");
                let names = ["", "Ignore", "Strict", "Warn"];
                faults.push(skiff_meta::field::FieldError::not_supported(&path, other, &names));
                FieldValidation::Strict
            }
        };
        let manager = query.text("fieldManager").to_owned();
        let path = skiff_meta::field::FieldPath::new("fieldManager");
        if manager.chars().count() > 128 {
            faults.push(skiff_meta::field::FieldError::too_long(&path, 128));
        }
        if let Some(bad) = manager.chars().find(|c| c.is_control()) {
            let why = format!("should only contain printable characters, found {bad:?}");
            faults.push(skiff_meta::field::FieldError::invalid(&path, manager.as_str(), &why));
        }
        if !faults.is_empty() {
            return Err(Status::invalid(&skiff_meta::GroupKind::new("meta.k8s.io", kind), "", &faults));
        }
        let force_given = query.get("force").is_some();
        Ok(Self { dry_run, validation, manager, force: query.flag("force"), force_given })
    }
}

/// Reads `dryRun`, of which `All` is the only value there is.
pub(crate) fn dry_run<'a>(values: impl Iterator<Item = &'a str>, faults: &mut skiff_meta::field::FieldErrors) -> bool {
    let values: Vec<&str> = values.filter(|v| !v.is_empty()).collect();
    if values.iter().any(|value| *value != "All") {
        faults.push(FieldError::not_supported(&FieldPath::new("dryRun"), values.as_slice(), &["All"]));
    }
    !values.is_empty()
}
