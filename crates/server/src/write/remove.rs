//! Removing an object: at once, gracefully, or when its finalizers have done their work
//! (upstream: `k8s.io/apiserver/pkg/registry/rest/delete.go` and `.../generic/registry/store.go`).

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use skiff_meta::field::{FieldError, FieldPath};
use skiff_meta::{GroupKind, GroupResource, Object, Status};

use super::admit::Admitted;
use super::{ATTEMPTS, Change, Committed, services};
use crate::call::Call;
use crate::chain::Operation;
use crate::metadata::system;
use crate::resource::habits::Dependents;
use crate::tree;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Holds a CustomResourceDefinition until its objects are gone.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// `DeleteOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    /// How long the object may take to stop; `None`: its own default.
    pub(crate) grace: Option<i64>,
    /// The object must have this UID.
    pub(crate) uid: Option<String>,
    /// The object must have this resourceVersion.
    pub(crate) version: Option<String>,
    /// The old way to say `Orphan` (true) or `Background` (false).
    pub(crate) orphan: Option<bool>,
    /// `Orphan`, `Background`, `Foreground`.
    pub(crate) propagation: Option<String>,
    /// Do everything but write.
    pub(crate) dry_run: bool,
    /// As they were sent, for admission.
    pub(crate) tree: Value,
}

/// What a delete does to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Plan {
    /// It goes now; how it last looks.
    Remove(Value),
    /// It changes and goes later.
    Update(Value),
    /// It is going already.
    Nothing,
}

/// How a delete ended.
pub(crate) struct Removed {
    /// The object as it last was, or as it is now.
    pub(crate) object: Gone,
    /// Whether it is gone.
    pub(crate) gone: bool,
    /// Whether that was written just now, rather than found in the cache.
    written: bool,
}

/// The object of a delete.
pub(crate) enum Gone {
    /// From the store.
    Stored(Arc<Object>),
    /// As it would be.
    Dry(Value),
}

/// Deletes the object called `name`.
pub(crate) async fn remove(call: &mut Call, name: &str, options: &DeleteOptions) -> Result<Removed, Status> {
    let mut fresh = false;
    for _ in 0..ATTEMPTS {
        let Some(stored) = call.cached(name)? else {
            if fresh {
                return Err(call.not_found(name));
            }
            call.catch_up().await?;
            fresh = true;
            continue;
        };
        match attempt(call, name, &stored, options).await {
            Ok(Some(removed)) if fresh || removed.written => return Ok(removed),
            Ok(Some(_)) => {
                call.catch_up().await?;
                fresh = true;
            }
            Ok(None) => fresh = true,
            // The cache may be behind what the client knows.
            Err(_) if !fresh => {
                call.catch_up().await?;
                fresh = true;
            }
            Err(status) => return Err(status),
        }
    }
    Err(call.too_busy(name))
}

/// `None`: look again.
async fn attempt(
    call: &mut Call,
    name: &str,
    stored: &Arc<Object>,
    options: &DeleteOptions,
) -> Result<Option<Removed>, Status> {
    let old = call.show(stored).await?;
    let id = call.served.id().clone();
    check_preconditions(&call.served.resource.stored_kind(), name, stored, options)?;
    let kind = call.served.version.gvk.clone();
    let admitted = Admitted {
        operation: Operation::Delete,
        kind: &kind,
        name,
        old: Some(&old),
        dry_run: options.dry_run,
        options: &options.tree,
    };
    let mut extra = admitted.validate(call, None).await?;
    let dependents = call.served.resource.habits.dependents;
    let (new, gone) = match plan(&id, &old, options, dependents, call.api.world.now()) {
        Plan::Nothing => {
            return Ok(Some(Removed { object: Gone::Stored(stored.clone()), gone: false, written: false }));
        }
        Plan::Remove(last) => (last, true),
        Plan::Update(new) => (new, false),
    };
    if options.dry_run {
        return Ok(Some(Removed { object: Gone::Dry(new), gone, written: false }));
    }
    if gone {
        let own = services::reserve(call, Some(&old), None).await?;
        extra.append(own);
    }
    let mut bare = new;
    tree::metadata(&mut bare).remove("resourceVersion");
    let bytes = call.stored_bytes(&bare).await?;
    if !gone && bytes == stored.canonical() {
        return Ok(Some(Removed { object: Gone::Stored(stored.clone()), gone, written: false }));
    }
    let value = (!gone).then(|| bytes.clone());
    let change = Change { key: call.store_key(name)?, expected: stored.revision(), value, lease: 0 };
    match call.commit(&change, extra).await? {
        Committed::At(revision) => {
            Ok(Some(Removed { object: Gone::Stored(call.written(bytes, revision)?), gone, written: true }))
        }
        Committed::Raced { exists: false } => Err(call.not_found(name)),
        Committed::Raced { .. } | Committed::Elsewhere => Ok(None),
    }
}

/// Conflicts of preconditions name the kind where others name the resource.
pub(crate) fn check_preconditions(
    kind: &GroupKind,
    name: &str,
    stored: &Object,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let meta = stored.meta();
    let revision = stored.revision().to_string();
    // Two kinds look at them themselves.
    let own = match (&*kind.group, &*kind.kind) {
        ("", "Namespace") => Some("namespaces"),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => Some("customresourcedefinitions"),
        _ => None,
    };
    if let Some(own) = own {
        let id = GroupResource::new(&*kind.group, own);
        let wanted = [("UID", &options.uid, &meta.uid), ("ResourceVersion", &options.version, &revision)];
        return match wanted.into_iter().find(|(_, wanted, found)| wanted.as_ref().is_some_and(|w| w != *found)) {
            Some((what, wanted, found)) => {
                let wanted = wanted.as_deref().unwrap_or_default();
                let why =
                    format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
                Err(Status::conflict(&id, name, &why))
            }
            None => Ok(()),
        };
    }
    let id = GroupResource::new(&*kind.group, &*kind.kind);
    if let Some(uid) = options.uid.as_ref().filter(|u| **u != meta.uid) {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been \
             deleted and then recreated",
            meta.uid
        );
        return Err(Status::conflict(&id, name, &why));
    }
    if let Some(version) = options.version.as_ref().filter(|v| **v != revision) {
        let why = format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record \
             ({revision}). The object might have been modified"
        );
        return Err(Status::conflict(&id, name, &why));
    }
    Ok(())
}

/// What a delete does, as a plain value.
fn plan(id: &GroupResource, old: &Value, options: &DeleteOptions, dependents: Dependents, now: Timestamp) -> Plan {
    let core = |resource: &str| id.group.is_empty() && id.resource == resource;
    if core("namespaces") {
        return plan_namespace(old, options, dependents, now);
    }
    if id.group == "apiextensions.k8s.io" && id.resource == "customresourcedefinitions" {
        return plan_definition(old, options, dependents, now);
    }
    let mut new = old.clone();
    let grace = if core("pods") { pod_grace(&mut new, options, now) } else { Grace::None };
    let graceful = match grace {
        Grace::Pending => return Plan::Nothing,
        Grace::None => None,
        Grace::Set(seconds) => Some(seconds),
    };
    let held = set_finalizers(&mut new, options, dependents);
    match graceful {
        None if held => {
            system::mark_deleting(&mut new, now);
            Plan::Update(new)
        }
        Some(seconds) if held || seconds > 0 => Plan::Update(new),
        _ => Plan::Remove(new),
    }
}

/// A namespace is marked first; what is in it goes, and then the namespace controller takes its finalizer away.
fn plan_namespace(old: &Value, options: &DeleteOptions, dependents: Dependents, now: Timestamp) -> Plan {
    let mut new = old.clone();
    if tree::at(old, &["metadata", "deletionTimestamp"]).is_some() {
        let held = namespace_is_held(old) || !tree::texts(old, &["metadata", "finalizers"]).is_empty();
        return if held { Plan::Nothing } else { Plan::Remove(new) };
    }
    let held = set_finalizers(&mut new, options, dependents) || namespace_is_held(old);
    if !held {
        return Plan::Remove(new);
    }
    note_time(&mut new, now);
    tree::child(&mut new, "status").insert("phase".to_owned(), json!("Terminating"));
    Plan::Update(new)
}

/// A definition waits until its objects are gone, which the server sees to.
fn plan_definition(old: &Value, options: &DeleteOptions, dependents: Dependents, now: Timestamp) -> Plan {
    let mut new = old.clone();
    let first = tree::at(old, &["metadata", "deletionTimestamp"]).is_none();
    if !first {
        let held = set_finalizers(&mut new, options, dependents);
        return if held { Plan::Update(new) } else { Plan::Remove(new) };
    }
    let metadata = tree::metadata(&mut new);
    match metadata.get_mut("finalizers").and_then(Value::as_array_mut) {
        Some(list) if list.iter().any(|f| f == CLEANUP) => {}
        Some(list) => list.push(json!(CLEANUP)),
        None => {
            metadata.insert("finalizers".to_owned(), json!([CLEANUP]));
        }
    }
    note_time(&mut new, now);
    Plan::Update(new)
}

/// Two kinds note no more of their end than its time.
fn note_time(object: &mut Value, now: Timestamp) {
    tree::metadata(object).insert("deletionTimestamp".to_owned(), json!(tree::timestamp(now)));
}

/// Whether this is a namespace that its own (spec) finalizers hold.
pub(crate) fn namespace_is_held(object: &Value) -> bool {
    tree::text(object, &["kind"]) == "Namespace"
        && tree::text(object, &["apiVersion"]) == "v1"
        && !tree::texts(object, &["spec", "finalizers"]).is_empty()
}

enum Grace {
    /// Not asked for, or over.
    None,
    /// Going already, and no shorter time was asked for.
    Pending,
    /// The object now says so; seconds.
    Set(i64),
}

/// Pods stop in their own time; a second delete can only shorten it.
fn pod_grace(pod: &mut Value, options: &DeleteOptions, now: Timestamp) -> Grace {
    let asked = options.grace.map(|s| if s < 0 { 1 } else { s });
    let set = |pod: &mut Value, at: Timestamp, seconds: i64| {
        let metadata = tree::metadata(pod);
        metadata.insert("deletionTimestamp".to_owned(), Value::from(tree::timestamp(at)));
        metadata.insert("deletionGracePeriodSeconds".to_owned(), Value::from(seconds));
    };
    let later = |from: Timestamp, seconds: i64| from.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(from);
    if let Ok(deleted) = tree::text(pod, &["metadata", "deletionTimestamp"]).parse::<Timestamp>() {
        let present = tree::number(pod, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
        return match asked {
            _ if present == 0 => Grace::None,
            Some(shorter) if shorter < present => {
                let mut at = later(deleted, shorter - present);
                let mut seconds = shorter;
                if at < now {
                    at = now;
                    // The whole time is over, but stopping gracefully was asked for: the shortest time there is.
                    seconds = i64::from(shorter != 0);
                }
                set(pod, at, seconds);
                Grace::Set(seconds)
            }
            _ => Grace::Pending,
        };
    }
    let own = || tree::number(pod, &["spec", "terminationGracePeriodSeconds"]).unwrap_or(0);
    let unscheduled = tree::text(pod, &["spec", "nodeName"]).is_empty();
    let over = matches!(tree::text(pod, &["status", "phase"]), "Failed" | "Succeeded");
    let mut seconds = asked.unwrap_or_else(own);
    if unscheduled || over {
        seconds = 0;
    }
    if seconds < 0 {
        seconds = 1;
    }
    set(pod, later(now, seconds), seconds);
    let generation = tree::number(pod, &["metadata", "generation"]).unwrap_or(0);
    if generation > 0 {
        tree::metadata(pod).insert("generation".to_owned(), Value::from(generation.wrapping_add(1)));
    }
    Grace::Set(seconds)
}

/// Sets the garbage collector's finalizers as asked; says whether any finalizer holds the object.
fn set_finalizers(object: &mut Value, options: &DeleteOptions, dependents: Dependents) -> bool {
    let mut finalizers: Vec<String> =
        tree::texts(object, &["metadata", "finalizers"]).into_iter().map(str::to_owned).collect();
    let before = finalizers.clone();
    let (orphan, foreground) = cascade(&before, options, dependents);
    finalizers.retain(|f| f != ORPHAN && f != FOREGROUND);
    finalizers.extend(orphan.then(|| ORPHAN.to_owned()));
    finalizers.extend(foreground.then(|| FOREGROUND.to_owned()));
    let held = !finalizers.is_empty();
    let (mut a, mut b) = (before, finalizers.clone());
    a.sort();
    b.sort();
    if a != b {
        let value = held.then(|| Value::from(finalizers));
        tree::put(tree::metadata(object), "finalizers", value);
    }
    held
}

/// Whether dependents are orphaned, and whether they are deleted first: options, then finalizers that are there, then
/// the kind's default.
fn cascade(finalizers: &[String], options: &DeleteOptions, dependents: Dependents) -> (bool, bool) {
    if dependents == Dependents::Unsupported {
        return (false, false);
    }
    if let Some(orphan) = options.orphan {
        return (orphan, false);
    }
    match options.propagation.as_deref() {
        Some("Orphan") => return (true, false),
        Some("Foreground") => return (false, true),
        Some(_) => return (false, false),
        None => {}
    }
    match finalizers.iter().find(|f| *f == ORPHAN || *f == FOREGROUND) {
        Some(f) if f == ORPHAN => (true, false),
        Some(_) => (false, true),
        None => (dependents == Dependents::Orphan, false),
    }
}

impl DeleteOptions {
    /// From their JSON form.
    pub(crate) fn from_tree(tree: Value) -> Result<Self, Status> {
        let options = Self::unchecked(tree);
        options.check()?;
        Ok(options)
    }

    /// Refuses what makes no sense.
    pub(crate) fn check(&self) -> Result<(), Status> {
        let mut faults = Vec::new();
        crate::request::query::dry_run(tree::texts(&self.tree, &["dryRun"]).into_iter(), &mut faults);
        let path = FieldPath::new("propagationPolicy");
        match &self.propagation {
            Some(policy) if self.orphan.is_some() => {
                let why = "orphanDependents and deletionPropagation cannot be both set";
                faults.push(FieldError::invalid(&path, policy.as_str(), why));
            }
            Some(policy) if !matches!(policy.as_str(), "Orphan" | "Background" | "Foreground") => {
                faults.push(FieldError::not_supported_as_listed(
                    &path,
                    policy.as_str(),
                    &["Foreground", "Background", "Orphan", "nil"],
                ));
            }
            _ => {}
        }
        if faults.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(&GroupKind::new("meta.k8s.io", "DeleteOptions"), "", &faults))
    }

    /// From their JSON form, whatever they say: those of an eviction are looked at when all else is known.
    pub(crate) fn unchecked(tree: Value) -> Self {
        let text = |path: &[&str]| tree::at(&tree, path).and_then(Value::as_str).map(str::to_owned);
        Self {
            grace: tree::number(&tree, &["gracePeriodSeconds"]),
            uid: text(&["preconditions", "uid"]),
            version: text(&["preconditions", "resourceVersion"]),
            orphan: tree::at(&tree, &["orphanDependents"]).and_then(Value::as_bool),
            propagation: text(&["propagationPolicy"]),
            dry_run: tree::texts(&tree, &["dryRun"]).iter().any(|value| !value.is_empty()),
            tree,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn planned(resource: &str, old: &Value, options: Value) -> Plan {
        let id = GroupResource::new("", resource);
        let dependents = crate::resource::habits::of(&id, false).dependents;
        plan(&id, old, &DeleteOptions::from_tree(options).unwrap(), dependents, now())
    }

    #[test]
    fn plain_objects_go_at_once_unless_held() {
        let plain = json!({"metadata": {"name": "a", "generation": 1}});
        assert!(matches!(planned("configmaps", &plain, json!({})), Plan::Remove(_)));
        let held = json!({"metadata": {"name": "a", "generation": 1, "finalizers": ["x/y"]}});
        let Plan::Update(new) = planned("configmaps", &held, json!({})) else { panic!("held objects stay") };
        let expected = json!({"metadata": {
            "name": "a", "generation": 2, "finalizers": ["x/y"],
            "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0,
        }});
        assert_eq!(new, expected);
    }

    #[test]
    fn propagation_sets_finalizers() {
        let finalizers = |resource: &str, options: Value| {
            let old = json!({"metadata": {"name": "a", "finalizers": ["x/y"]}});
            match planned(resource, &old, options) {
                Plan::Update(new) => tree::texts(&new, &["metadata", "finalizers"]).join(" "),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(finalizers("configmaps", json!({})), "x/y");
        assert_eq!(finalizers("configmaps", json!({"propagationPolicy": "Foreground"})), "x/y foregroundDeletion");
        assert_eq!(finalizers("configmaps", json!({"propagationPolicy": "Orphan"})), "x/y orphan");
        assert_eq!(finalizers("configmaps", json!({"orphanDependents": true})), "x/y orphan");
        assert_eq!(finalizers("replicationcontrollers", json!({})), "x/y orphan");
        assert_eq!(finalizers("replicationcontrollers", json!({"propagationPolicy": "Background"})), "x/y");
        assert_eq!(finalizers("events", json!({"propagationPolicy": "Orphan"})), "x/y");
        assert!(DeleteOptions::from_tree(json!({"propagationPolicy": "X"})).is_err());
        assert!(DeleteOptions::from_tree(json!({"dryRun": ["x"]})).is_err());
    }

    fn running() -> Value {
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30},
            "status": {"phase": "Running"}})
    }

    fn seconds(plan: &Plan) -> Option<i64> {
        match plan {
            Plan::Update(new) => tree::number(new, &["metadata", "deletionGracePeriodSeconds"]),
            _ => None,
        }
    }

    #[test]
    fn pods_stop_in_their_own_time() {
        let pod = running();
        assert_eq!(seconds(&planned("pods", &pod, json!({}))), Some(30));
        assert_eq!(seconds(&planned("pods", &pod, json!({"gracePeriodSeconds": 5}))), Some(5));
        assert_eq!(seconds(&planned("pods", &pod, json!({"gracePeriodSeconds": -1}))), Some(1));
        assert!(matches!(planned("pods", &pod, json!({"gracePeriodSeconds": 0})), Plan::Remove(_)));
        let mut waiting = pod.clone();
        waiting["spec"].as_object_mut().unwrap().remove("nodeName");
        assert!(matches!(planned("pods", &waiting, json!({})), Plan::Remove(_)));
        let mut over = pod;
        over["status"]["phase"] = json!("Succeeded");
        assert!(matches!(planned("pods", &over, json!({})), Plan::Remove(_)));
    }

    #[test]
    fn a_second_delete_can_only_shorten() {
        let mut pod = running();
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:20Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        assert_eq!(planned("pods", &pod, json!({})), Plan::Nothing);
        assert_eq!(planned("pods", &pod, json!({"gracePeriodSeconds": 30})), Plan::Nothing);
        let shorter = planned("pods", &pod, json!({"gracePeriodSeconds": 15}));
        assert_eq!(seconds(&shorter), Some(15));
        let Plan::Update(new) = shorter else { panic!("shortened") };
        assert_eq!(tree::text(&new, &["metadata", "deletionTimestamp"]), "2026-01-01T00:00:05Z");
        let over = planned("pods", &pod, json!({"gracePeriodSeconds": 5}));
        assert_eq!(seconds(&over), Some(1));
        assert!(matches!(planned("pods", &pod, json!({"gracePeriodSeconds": 0})), Plan::Remove(_)));
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        assert!(matches!(planned("pods", &pod, json!({})), Plan::Remove(_)));
    }

    #[test]
    fn namespaces_wait_for_what_is_in_them() {
        let mut old = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        let Plan::Update(new) = planned("namespaces", &old, json!({})) else { panic!("held") };
        assert_eq!(new["status"]["phase"], "Terminating");
        assert_eq!(planned("namespaces", &new, json!({})), Plan::Nothing);
        old["spec"]["finalizers"] = json!([]);
        assert!(matches!(planned("namespaces", &old, json!({})), Plan::Remove(_)));
    }
}
