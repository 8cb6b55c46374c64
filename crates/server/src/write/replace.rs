//! Changing an object: whatever the request, new = edit(old), then the same steps.

use std::sync::Arc;

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldPath};
use skiff_meta::{GroupKind, GroupVersionKind, Object, Status};
use skiff_rules::{Part, metadata};

use super::admit::Admitted;
use super::{ATTEMPTS, Change, Committed, Done, Intent, Written, fields, insert, services};
use crate::call::Call;
use crate::chain::Operation;
use crate::metadata::system;
use crate::request::go_words;
use crate::tree;

/// How a request changes an object.
pub(crate) trait Edit: Send + Sync {
    /// The object as it shall be, fitting its kind, defaulted, its managed fields noted; `None` for `old` when there is
    /// none, which is only asked when [`Edit::creates`].
    fn edit(&self, call: &mut Call, old: Option<&Value>) -> Result<Value, Status>;
    /// Whether an object that is missing is made.
    fn creates(&self, call: &Call) -> bool;
    /// Whether the object is put rather than patched: its UID then says which object is meant, where a patch would
    /// change it.
    fn is_put(&self) -> bool {
        false
    }
    /// As what admission sees the object, where a subresource shows it as another kind.
    fn face(&self) -> Option<&dyn Face> {
        None
    }
}

/// An object as another kind.
pub(crate) trait Face: Sync {
    /// That kind.
    fn kind(&self) -> GroupVersionKind;
    /// The object as such.
    fn of(&self, object: &Value) -> Value;
    /// Takes over what was changed of it.
    fn take(&self, object: &mut Value, shown: &Value);
}

enum Step {
    /// Written.
    Done(Written),
    /// Nothing to write, if the object still is what the cache has.
    Same(Written),
    /// Look again: the object, or something the write depends on, has changed.
    Again,
}

/// Changes the object called `name`.
///
/// The cache may be a moment behind. Writes do not mind, since they are conditional; but before a request is refused,
/// or found to change nothing, the cache is brought up to date and the answer is thought over.
pub(crate) async fn replace(call: &mut Call, name: &str, intent: &Intent, edit: &dyn Edit) -> Result<Written, Status> {
    let mut fresh = false;
    for _ in 0..ATTEMPTS {
        let Some(old) = call.cached(name)? else {
            if !fresh {
                call.catch_up().await?;
                fresh = true;
                continue;
            }
            match create(call, name, intent, edit).await? {
                Some(written) => return Ok(written),
                None => continue,
            }
        };
        let warned = call.warnings.len();
        let step = change(call, name, &old, intent, edit).await;
        if matches!(step, Ok(Step::Same(_)) | Err(_)) && !fresh {
            call.catch_up().await?;
            fresh = true;
            if call.cached(name)?.is_none_or(|now| now.revision() != old.revision()) {
                call.warnings.truncate(warned);
                continue;
            }
        }
        match step? {
            Step::Done(written) | Step::Same(written) => return Ok(written),
            // A refused commit has brought the cache up to date already.
            Step::Again => {
                call.warnings.truncate(warned);
                fresh = true;
            }
        }
    }
    Err(call.too_busy(name))
}

/// Makes an object that is missing; `None`: somebody made it in between.
async fn create(call: &mut Call, name: &str, intent: &Intent, edit: &dyn Edit) -> Result<Option<Written>, Status> {
    if !edit.creates(call) {
        return Err(call.not_found(name));
    }
    let object = edit.edit(call, None)?;
    match insert::insert(call, object, intent).await {
        Err(status) if status.is("AlreadyExists") && !intent.dry_run => Ok(None),
        other => other.map(Some),
    }
}

async fn change(
    call: &mut Call,
    name: &str,
    stored: &Arc<Object>,
    intent: &Intent,
    edit: &dyn Edit,
) -> Result<Step, Status> {
    let version = call.served.version.clone();
    let old = call.show(stored).await?;
    let mut new = edit.edit(call, Some(&old))?;
    check_name(call, &mut new, name)?;
    check_version(call, &new, stored, name, edit.is_put())?;
    call.warnings.extend(system::drop_repeated_owners(&mut new));

    let face = edit.face();
    let kind = face.map_or_else(|| version.gvk.clone(), Face::kind);
    let shown = face.map(|face| face.of(&old));
    let (dry_run, options) = (intent.dry_run, &intent.options);
    let before = Some(shown.as_ref().unwrap_or(&old));
    let admitted = Admitted { operation: Operation::Update, kind: &kind, name, old: before, dry_run, options };
    match face {
        None if admitted.mutate(call, &mut new).await? => version.rules().default(&mut new),
        None => {}
        Some(face) => {
            let mut shown = face.of(&new);
            admitted.mutate(call, &mut shown).await?;
            face.take(&mut new, &shown);
        }
    }
    prepare(call, &mut new, &old, intent.part);
    super::note_times(call, &mut new, Some(&old));
    let own = match intent.part {
        Part::Main => services::reserve(call, Some(&old), Some(&mut new)).await?,
        _ => Default::default(),
    };
    check(call, &new, &old, name, intent.part)?;
    if fields::same_but_for_times(&new, &old) {
        new = old.clone();
        tree::metadata(&mut new).remove("resourceVersion");
    }
    let shown = face.map(|face| face.of(&new));
    let mut extra = admitted.validate(call, Some(shown.as_ref().unwrap_or(&new))).await?;
    extra.append(own);

    let removes = is_finished(&new, &old);
    let bytes = call.stored_bytes(&new).await?;
    let same = bytes == stored.canonical() && !call.cache()?.is_outdated(&call.key(name));
    if !removes && same {
        return Ok(Step::Same(Written::Updated(Done::Stored(stored.clone()))));
    }
    if intent.dry_run {
        let shown = tree::at(&old, &["metadata", "resourceVersion"]).cloned();
        tree::put(tree::metadata(&mut new), "resourceVersion", shown);
        return Ok(Step::Same(Written::Updated(Done::Dry(new))));
    }
    let value = (!removes).then(|| bytes.clone());
    let lease = if removes { 0 } else { insert::lease(call).await? };
    let change = Change { key: call.store_key(name)?, expected: stored.revision(), value, lease };
    Ok(match call.commit(&change, extra).await? {
        Committed::At(revision) => Step::Done(Written::Updated(Done::Stored(call.written(bytes, revision)?))),
        Committed::Raced { .. } | Committed::Elsewhere => Step::Again,
    })
}

/// The body's name and namespace are those of the path.
fn check_name(call: &Call, new: &mut Value, name: &str) -> Result<(), Status> {
    system::match_namespace(new, call.namespace(), call.served.resource.namespaced)?;
    let given = tree::text(new, &["metadata", "name"]);
    if given.is_empty() {
        return Err(call.nameless());
    }
    if given != name {
        let why = format!("the name of the object ({given}) does not match the name on the URL ({name})");
        return Err(Status::bad_request(why));
    }
    Ok(())
}

/// What is put somewhere says of which object, or nothing of that.
pub(crate) fn check_uid(call: &Call, new: &Value, stored: &str, name: &str) -> Result<(), Status> {
    let uid = tree::text(new, &["metadata", "uid"]);
    if uid.is_empty() || uid == stored {
        return Ok(());
    }
    let key = call.store_key(name)?;
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: \
         UID in precondition: {uid}, UID in object meta: {stored}",
        String::from_utf8_lossy(&key)
    );
    Err(Status::conflict(call.served.id(), name, &why))
}

/// What the client thinks the object is must be what it is.
fn check_version(call: &Call, new: &Value, stored: &Object, name: &str, is_put: bool) -> Result<(), Status> {
    let id = call.served.id();
    if is_put {
        check_uid(call, new, &stored.meta().uid, name)?;
    }
    let version = tree::text(new, &["metadata", "resourceVersion"]);
    let path = FieldPath::new("metadata.resourceVersion");
    if version.is_empty() || version == "0" {
        if !call.served.resource.habits.unconditional_update {
            let fault = FieldError::invalid(&path, 0, "must be specified for an update");
            return Err(Status::invalid(&GroupKind::new(&*id.group, &*id.resource), name, &[fault]));
        }
        return Ok(());
    }
    match version.parse::<u64>() {
        Ok(version) if version == stored.revision() => Ok(()),
        Ok(_) => Err(Status::stale(id, name)),
        Err(why) => Err(Status::failure(500, "", go_words::no_number("ParseUint", version, &why))),
    }
}

/// Carries over what this part may not change.
fn prepare(call: &Call, new: &mut Value, old: &Value, part: Part) {
    system::keep_generation(new, old);
    tree::metadata(new).remove("resourceVersion");
    call.served.version.rules().prepare_update(new, old, part);
    tree::metadata(new).remove("resourceVersion");
    system::keep_system_fields(new, old);
    system::tidy(new);
}

/// All faults of the finished change.
fn check(call: &mut Call, new: &Value, old: &Value, name: &str, part: Part) -> Result<(), Status> {
    let version = call.served.version.clone();
    let rules = version.rules();
    let mut faults = metadata::validate_update(new, old, rules, part);
    faults.extend(rules.validate_update(new, old, part));
    if !faults.is_empty() {
        return Err(Status::invalid(&call.served.resource.stored_kind(), name, &faults));
    }
    call.warnings.extend(super::warnings(call, new, Some(old), part));
    Ok(())
}

/// Whether the change takes the last reason away why a deleted object is still there.
fn is_finished(new: &Value, old: &Value) -> bool {
    let deleted = tree::at(old, &["metadata", "deletionTimestamp"]).is_some();
    let waits = tree::number(old, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0) > 0;
    let held = !tree::texts(new, &["metadata", "finalizers"]).is_empty();
    deleted && !waits && !held && !super::remove::namespace_is_held(new)
}
