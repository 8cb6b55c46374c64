//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply.

use serde_json::Value;
use skiff_meta::codec;
use skiff_meta::field::{FieldError, FieldPath};
use skiff_meta::patch::{apply_json_patch, merge_patch, strategic_merge};
use skiff_meta::{GroupKind, GroupVersionKind, Status, apply, check};
use skiff_rules::Part;

use super::create::options_tree;
use super::sub::scale;
use crate::call::{Answer, Call, Payload};
use crate::request::WriteOptions;
use crate::request::decode::{self, Expected, Unfit};
use crate::request::go_words;
use crate::request::query::FieldValidation;
use crate::write::replace::{Edit, replace};
use crate::write::{Intent, fields};

const APPLY: &str = "application/apply-patch+yaml";

/// The ways to say a change.
pub(crate) enum Patch {
    /// RFC 6902.
    Json(Vec<u8>),
    /// RFC 7386.
    Merge(Value),
    /// Merge that knows lists by their keys.
    Strategic(Value),
    /// Server-side apply.
    Apply(Value),
}

/// Changes an object.
pub(crate) async fn patch(call: &mut Call, payload: Payload) -> Result<Answer, Status> {
    let options = WriteOptions::parse(&call.query, "PatchOptions")?;
    let (patch, repeated) = match read(call, &payload, options.validation) {
        Ok(read) => read,
        // Whether there is something to change is looked at first, save by an apply, which may create it.
        Err(unreadable) if unreadable.code == 400 && payload.media != APPLY => {
            let found = call.current(&call.target.name).await?;
            return Err(found.map_or_else(|| call.not_found(&call.target.name), |_| unreadable));
        }
        Err(refused) => return Err(refused),
    };
    check_options(&patch, &options)?;
    if call.target.subresource == "scale" {
        return scale::patch(call, patch, &options).await;
    }
    let part = super::part(&call.target.subresource).ok_or_else(Status::no_such_path)?;
    let intent = Intent { dry_run: options.dry_run, part, options: options_tree("PatchOptions", &options) };
    let name = call.target.name.clone();
    let edit = Patched { patch, repeated, options, part };
    Ok(replace(call, &name, &intent, &edit).await?.into_answer())
}

/// The patch, and what it says twice, where that is told.
fn read(call: &Call, payload: &Payload, validation: FieldValidation) -> Result<(Patch, Vec<String>), Status> {
    if payload.media == APPLY {
        let decoded = codec::yaml::decode(&payload.bytes);
        let decoded = decoded.map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?;
        if let Some(found) = check::json_kind(&decoded.value).filter(|found| *found != "object") {
            return Err(Status::bad_request(format!(
                "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into \
                 Go value of type map[string]interface {{}}"
            )));
        }
        return Ok((Patch::Apply(decoded.value), decoded.duplicates));
    }
    read_plain(call, payload, validation).map(|patch| (patch, Vec::new()))
}

fn read_plain(call: &Call, payload: &Payload, validation: FieldValidation) -> Result<Patch, Status> {
    let json = || {
        codec::json::decode(&payload.bytes)
            .map(|d| d.value)
            .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))
    };
    let strategic =
        || codec::json::decode(&payload.bytes).map(|d| d.value).map_err(|e| Status::bad_request(e.to_string()));
    match payload.media.as_str() {
        "application/json-patch+json" => Ok(Patch::Json(payload.bytes.to_vec())),
        "application/merge-patch+json" if validation == FieldValidation::Ignore => {
            json().map(Patch::Merge).map_err(|_| Status::bad_request("Invalid JSON Patch"))
        }
        "application/merge-patch+json" => json().map(Patch::Merge),
        "application/strategic-merge-patch+json" if !call.served.resource.custom => strategic().map(Patch::Strategic),
        _ if call.served.resource.custom => Err(Status::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
        )),
        // Routes of built-in kinds say it themselves.
        _ => {
            let mut status = Status::unsupported_media_type("415: Unsupported Media Type");
            status.details = Some(Box::default());
            Err(status)
        }
    }
}

fn check_options(patch: &Patch, options: &WriteOptions) -> Result<(), Status> {
    let mut faults = Vec::new();
    if matches!(patch, Patch::Apply(_)) {
        if options.manager.is_empty() {
            faults.push(FieldError::required(&FieldPath::new("fieldManager"), "is required for apply patch"));
        }
    } else if options.force_given {
        faults.push(FieldError::forbidden(&FieldPath::new("force"), "may not be specified for non-apply patch"));
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&GroupKind::new("meta.k8s.io", "PatchOptions"), "", &faults))
}

struct Patched {
    patch: Patch,
    /// What an applied document says twice.
    repeated: Vec<String>,
    options: WriteOptions,
    part: Part,
}

impl Edit for Patched {
    fn edit(&self, call: &mut Call, old: Option<&Value>) -> Result<Value, Status> {
        let version = call.served.version.clone();
        if let Patch::Apply(applied) = &self.patch {
            return self.apply(call, applied, old);
        }
        let old = old.ok_or_else(|| call.not_found(&call.target.name))?;
        let mut new = changed(call, &self.patch, old, &version.gvk, version.root(), &self.options)?;
        version.rules().default(&mut new);
        fields::note(call, Some(old), &mut new, &self.options.manager, self.part);
        Ok(new)
    }
    fn creates(&self, _call: &Call) -> bool {
        matches!(self.patch, Patch::Apply(_)) && self.part == Part::Main
    }
}

/// The object after a patch that is no apply, fitting its kind.
pub(crate) fn changed(
    call: &mut Call,
    patch: &Patch,
    old: &Value,
    gvk: &GroupVersionKind,
    root: skiff_meta::schema::TypeRef<'_>,
    options: &WriteOptions,
) -> Result<Value, Status> {
    let value = match patch {
        Patch::Json(patch) => apply_json_patch(old, patch).map_err(|e| e.to_status())?,
        Patch::Merge(patch) | Patch::Apply(patch) => merge_patch(old, patch),
        Patch::Strategic(patch) => strategic_merge(old, patch, root).map_err(|e| e.to_status())?,
    };
    if !matches!(patch, Patch::Strategic(_)) && !call.served.resource.custom {
        still_itself(call, &value, gvk, options.validation)?;
    }
    let patched = value.clone();
    let decoded = codec::Decoded { value, duplicates: Vec::new() };
    let expected = Expected { gvk, root, protobuf: false };
    let words = |why| unfit(patch, &patched, why);
    decode::fit_or(decoded, expected, options.validation, &mut call.warnings, b"", &words)
}

/// A patched tree must still say what it is (upstream decodes it like a body, but with other words).
fn still_itself(
    call: &mut Call,
    patched: &Value,
    gvk: &GroupVersionKind,
    validation: FieldValidation,
) -> Result<(), Status> {
    let refused = |why: String| {
        let fault = FieldError::invalid(&FieldPath::new("patch"), patched.to_string(), &why);
        Err(Status::invalid(&GroupKind::default(), "", &[fault]))
    };
    if let Some(why) = decode::no_type(patched) {
        return refused(why);
    }
    let Some(members) = patched.as_object() else {
        let message = "the server rejected our request due to an error in our request";
        let mut status = Status::failure(422, "Invalid", message);
        status.details = Some(Box::default());
        return Err(status);
    };
    let text = |name: &str| members.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version.is_empty() && !kind.is_empty() && kind != gvk.kind {
        return refused(format!(
            "no kind {kind:?} is registered for the internal version of group {:?} in scheme {:?}",
            gvk.group,
            go_words::scheme(&gvk.group)
        ));
    }
    if version.is_empty() {
        // Without it Go reads the object as one of no version, where nothing is called as here.
        let unknown = members.keys().filter(|name| !matches!(name.as_str(), "apiVersion" | "kind"));
        let mut unknown: Vec<String> = unknown.map(|name| format!("unknown field {name:?}")).collect();
        unknown.sort();
        match validation {
            FieldValidation::Strict if !unknown.is_empty() => return refused(check::strict_message(&unknown)),
            FieldValidation::Warn => call.warnings.append(&mut unknown),
            _ => {}
        }
        return Err(call.nameless());
    }
    let kind = if kind.is_empty() { &gvk.kind } else { kind };
    if version != gvk.api_version() || kind != gvk.kind {
        return refused(go_words::no_kind(kind, version, &gvk.group));
    }
    Ok(())
}

/// 422 of a patch whose result does not fit its kind (upstream: `applyPatchToCurrentObject` of both patchers).
fn unfit(patch: &Patch, patched: &Value, why: Unfit) -> Status {
    let (shown, why) = match (patch, why) {
        (Patch::Strategic(patch), Unfit::Misfit(misfit)) => (check::plus_v(patch), go_words::unconvertible(&misfit)),
        (Patch::Strategic(patch), why) => (check::plus_v(patch), why.to_string()),
        (_, why) => (patched.to_string(), why.to_string()),
    };
    let fault = FieldError::invalid(&FieldPath::new("patch"), shown, &why);
    Status::invalid(&GroupKind::default(), "", &[fault])
}

impl Patched {
    fn apply(&self, call: &mut Call, applied: &Value, old: Option<&Value>) -> Result<Value, Status> {
        let version = call.served.version.clone();
        self.check_applied(call, applied)?;
        let manager = call.manager(&self.options.manager);
        let reset = fields::reset(call, self.part);
        let writer = fields::writer(call, &manager, &reset);
        let merged = apply::apply(old, applied, version.root(), &writer, self.options.force);
        let merged = merged.map_err(|e| e.to_status())?;
        self.check_repeated(call)?;
        // What Go always writes belongs to nobody, but stands in what is applied as in what is posted: controllers
        // compare the two.
        let decoded = codec::Decoded { value: merged, duplicates: Vec::new() };
        let expected = Expected { gvk: &version.gvk, root: version.root(), protobuf: false };
        let unfit = |why: Unfit| {
            let why = match why {
                Unfit::Misfit(misfit) => go_words::unconvertible(&misfit),
                Unfit::Strict(message) => message,
            };
            let text = |name: &str| crate::tree::text(applied, &["metadata", name]);
            let gvk = format!("{}, Kind={}", go_words::group_version(&version.gvk), version.gvk.kind);
            Status::failure(
                500,
                "",
                format!(
                    "failed to convert new object ({}/{}; {gvk}) to proper version: unable to convert unstructured object \
                 to {gvk}: {why}",
                    text("namespace"),
                    text("name")
                ),
            )
        };
        let mut new = decode::fit_or(decoded, expected, FieldValidation::Ignore, &mut Vec::new(), b"", &unfit)?;
        if crate::tree::text(&new, &["metadata", "name"]).is_empty() {
            return Err(call.nameless());
        }
        version.rules().default(&mut new);
        Ok(new)
    }

    fn check_repeated(&self, call: &mut Call) -> Result<(), Status> {
        match self.options.validation {
            FieldValidation::Strict if !self.repeated.is_empty() => {
                let why = check::yaml_message(&self.repeated);
                Err(Status::bad_request(format!("error strict decoding YAML: error converting YAML to JSON: {why}")))
            }
            FieldValidation::Warn => {
                call.warnings.extend(self.repeated.iter().cloned());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The body must be the object of the path.
    fn check_applied(&self, call: &Call, applied: &Value) -> Result<(), Status> {
        let name = crate::tree::text(applied, &["metadata", "name"]);
        if !name.is_empty() && name != call.target.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                call.target.name
            )));
        }
        let gvk = &call.served.version.gvk;
        let (version, kind) = (crate::tree::text(applied, &["apiVersion"]), crate::tree::text(applied, &["kind"]));
        if version == gvk.api_version() && kind == gvk.kind {
            return Ok(());
        }
        let (group, version, kind) = match version.split_once('/') {
            // What is no version at all is read as nothing.
            Some((_, version)) if version.contains('/') => ("", "", ""),
            Some((group, version)) => (group, version, kind),
            None => ("", version, kind),
        };
        Err(Status::bad_request(format!("invalid object type: {group}/{version}, Kind={kind}")))
    }
}
