//! The query of log and stream requests, as the API has it and as kubelets want it.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use skiff_meta::field::{FieldError, FieldPath};
use skiff_meta::{GroupKind, Status};

pub(super) use crate::request::Query;

const KEPT: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Builds a query string.
#[derive(Default)]
struct Params(String);

impl Params {
    fn add(&mut self, name: &str, value: &str) {
        let separator = if self.0.is_empty() { "" } else { "&" };
        self.0.push_str(&format!("{separator}{name}={}", utf8_percent_encode(value, &KEPT)));
    }
    fn flag(&mut self, query: &Query, name: &str, to: &str, value: &str) {
        if query.flag(name) {
            self.add(to, value);
        }
    }
}

/// `PodLogOptions`.
pub(super) fn log(query: &Query, pod: &str) -> Result<String, Status> {
    check_log(query, pod)?;
    let mut params = Params::default();
    for name in ["follow", "previous", "timestamps"] {
        params.flag(query, name, name, "true");
    }
    for name in ["sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"] {
        if let Some(value) = query.get(name) {
            params.add(name, value);
        }
    }
    Ok(params.0)
}

fn check_log(query: &Query, pod: &str) -> Result<(), Status> {
    let mut faults = Vec::new();
    let mut check = |name: &str, least: i64, why: &str| -> Result<bool, Status> {
        let Some(number) = query.number(name)? else { return Ok(false) };
        if number < least {
            faults.push(FieldError::invalid(&FieldPath::new(name), number, why));
        }
        Ok(true)
    };
    let tail = check("tailLines", 0, "must be greater than or equal to 0")?;
    check("limitBytes", 1, "must be greater than 0")?;
    let seconds = check("sinceSeconds", 1, "must be greater than 0")?;
    if seconds && query.get("sinceTime").is_some() {
        let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        faults.push(FieldError::forbidden(&FieldPath::root(), why));
    }
    if let Some(time) = query.get("sinceTime")
        && time.parse::<jiff::Timestamp>().is_err()
    {
        return Err(Status::bad_request(format!("parsing time {time:?}: not an RFC 3339 time")));
    }
    match query.get("stream") {
        None | Some("All") => {}
        Some("Stdout" | "Stderr") if tail => {
            let why = "`tailLines` and specific `stream` are mutually exclusive for now";
            faults.push(FieldError::forbidden(&FieldPath::root(), why));
        }
        Some("Stdout" | "Stderr") => {}
        Some(other) => {
            let supported = ["All", "Stdout", "Stderr"];
            faults.push(FieldError::not_supported(&FieldPath::new("stream"), other, &supported));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(Status::invalid(&GroupKind::new("", "PodLogOptions"), pod, &faults)) }
}

/// `PodExecOptions`.
pub(super) fn exec(query: &Query) -> String {
    let mut params = streams(query);
    for part in query.all("command") {
        params.add("command", part);
    }
    params.0
}

/// `PodAttachOptions`.
pub(super) fn attach(query: &Query) -> String {
    streams(query).0
}

fn streams(query: &Query) -> Params {
    let mut params = Params::default();
    for (name, to) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        params.flag(query, name, to, "1");
    }
    params
}

/// `PodPortForwardOptions`.
pub(super) fn port_forward(query: &Query) -> Result<String, Status> {
    let mut ports = Vec::new();
    for text in query.all("ports").flat_map(|ports| ports.split(',')) {
        let port: u16 = text.parse().map_err(|_| Status::bad_request(format!("invalid port {text:?}")))?;
        ports.push(port.to_string());
    }
    let mut params = Params::default();
    if !ports.is_empty() {
        params.add("port", &ports.join(","));
    }
    Ok(params.0)
}
