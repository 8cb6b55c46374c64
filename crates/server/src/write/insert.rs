//! Creating an object.

use serde_json::{Value, json};
use skiff_meta::Status;
use skiff_meta::world::WorldExt;
use skiff_rules::{Part, metadata};

use super::admit::Admitted;
use super::{Change, Committed, Done, Intent, Written, services};
use crate::call::Call;
use crate::chain::Operation;
use crate::metadata::system;
use crate::tree;

/// How many names are made up before giving up (upstream's figure).
const NAMES: usize = 8;

/// Creates `object`, which fits its kind, is defaulted and has its managed fields noted.
pub(crate) async fn insert(call: &mut Call, mut object: Value, intent: &Intent) -> Result<Written, Status> {
    let version = call.served.version.clone();
    system::wipe(&mut object);
    system::match_namespace(&mut object, call.namespace(), call.served.resource.namespaced)?;
    call.warnings.extend(system::drop_repeated_owners(&mut object));

    let given = tree::text(&object, &["metadata", "name"]).to_owned();
    let kind = version.gvk.clone();
    let (dry_run, options) = (intent.dry_run, &intent.options);
    let admitted = Admitted { operation: Operation::Create, kind: &kind, name: &given, old: None, dry_run, options };
    if admitted.mutate(call, &mut object).await? {
        version.rules().default(&mut object);
    }

    let made_up = system::wants_name(&object);
    let chooses = services::applies(call);
    let mut names_left = NAMES;
    for _ in 0..super::ATTEMPTS {
        // Most creates need one attempt and no copy.
        let mut fresh = if made_up || chooses { object.clone() } else { std::mem::take(&mut object) };
        system::fill(&mut fresh, &*call.api.world);
        if made_up {
            system::generate_name(&mut fresh, &*call.api.world);
        } else if given.is_empty() && call.served.resource.habits.named_by_server {
            let name = call.api.world.uuid();
            tree::metadata(&mut fresh).insert("name".to_owned(), Value::from(name));
        }
        let name = tree::text(&fresh, &["metadata", "name"]).to_owned();
        let own = services::reserve(call, None, Some(&mut fresh)).await?;
        let warnings = super::warnings(call, &fresh, None, Part::Main);
        version.rules().prepare_create(&mut fresh);
        name_requester(call, &mut fresh);
        super::note_times(call, &mut fresh, None);
        system::tidy(&mut fresh);
        check(call, &fresh, &name)?;
        call.warnings.extend(warnings);
        // What is only tried is shown as it came.
        if !intent.dry_run
            && let Some(given) = tree::metadata(&mut fresh).remove("resourceVersion")
        {
            // What is no version counts as none.
            if given.as_str().and_then(|given| given.parse::<u64>().ok()).is_some_and(|given| given > 0) {
                let why = "resourceVersion should not be set on objects to be created";
                return Err(Status::failure(500, "", why));
            }
        }
        let mut extra = Admitted { name: &name, ..admitted }.validate(call, Some(&fresh)).await?;
        extra.append(own);
        if intent.dry_run {
            if call.current(&name).await?.is_some() {
                return Err(taken(call, &name, made_up));
            }
            return Ok(Written::Created(Done::Dry(fresh)));
        }
        let change = change(call, &name, &fresh).await?;
        match call.commit(&change, extra).await? {
            Committed::At(revision) => {
                let bytes = change.value.unwrap_or_default();
                return Ok(Written::Created(Done::Stored(call.written(bytes, revision)?)));
            }
            Committed::Raced { .. } if made_up && names_left > 1 => names_left -= 1,
            Committed::Raced { .. } => return Err(taken(call, &name, made_up)),
            Committed::Elsewhere if object.is_null() => object = fresh,
            Committed::Elsewhere => {}
        }
    }
    Err(call.too_busy(&given))
}

/// Certificate requests say who made them, whatever the maker says.
fn name_requester(call: &Call, object: &mut Value) {
    let gvr = call.served.gvr();
    if (gvr.group.as_str(), gvr.resource.as_str()) != ("certificates.k8s.io", "certificatesigningrequests") {
        return;
    }
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let user = &call.user;
    let fields = [
        ("username", json!(user.name), user.name.is_empty()),
        ("uid", json!(user.uid), user.uid.is_empty()),
        ("groups", json!(user.groups), user.groups.is_empty()),
        ("extra", json!(user.extra), user.extra.is_empty()),
    ];
    for (field, value, empty) in fields {
        spec.remove(field);
        if !empty {
            spec.insert(field.to_owned(), value);
        }
    }
}

async fn change(call: &Call, name: &str, object: &Value) -> Result<Change, Status> {
    let key = call.store_key(name)?;
    let value = Some(call.stored_bytes(object).await?);
    Ok(Change { key, expected: 0, value, lease: lease(call).await? })
}

/// The lease a new or changed object is written under; 0: none.
pub(crate) async fn lease(call: &Call) -> Result<i64, Status> {
    if call.served.resource.storage.kind != "Event" || !call.served.resource.storage.group.is_empty() {
        return Ok(0);
    }
    let api = &call.api;
    api.leases.lease(&*api.store, &*api.world, api.config.event_ttl).await
}

/// All faults of the finished object.
fn check(call: &Call, object: &Value, name: &str) -> Result<(), Status> {
    let (rules, namespaced) = (call.served.version.rules(), call.served.resource.namespaced);
    let mut faults = metadata::validate_create(object, namespaced, rules);
    let own = rules.validate_create(object);
    if !own.is_empty() && metadata::is_looked_at_last(object) {
        faults.clear();
    }
    faults.extend(own);
    if faults.is_empty() { Ok(()) } else { Err(Status::invalid(&call.served.resource.stored_kind(), name, &faults)) }
}

fn taken(call: &Call, name: &str, made_up: bool) -> Status {
    let mut status = Status::already_exists(call.served.id(), name);
    if made_up {
        status.message += ", the server was not able to generate a unique name for the object";
    } else if call.cached(name).ok().flatten().is_some_and(|o| o.meta().deletion_timestamp.is_some()) {
        status.message = format!("object is being deleted: {}", status.message);
    }
    status
}

/// What a create of the whole object means to do.
pub(crate) fn intent(dry_run: bool, options: Value) -> Intent {
    Intent { dry_run, part: Part::Main, options }
}
