//! What documents say in words: of the members that every object has. Those of single kinds have none.

const OBJECT_META: &[(&str, &str)] = &[
    ("annotations", "Annotations hold text that tools keep with the object. They cannot be selected by."),
    (
        "creationTimestamp",
        "CreationTimestamp is a timestamp of when the server made the object. Clients cannot set it.",
    ),
    ("deletionGracePeriodSeconds", "Seconds the object is given to stop after its deletion was asked for."),
    (
        "deletionTimestamp",
        "DeletionTimestamp is the time at which the object goes; set once its deletion is asked for.",
    ),
    ("finalizers", "Who must do something before the object may go. Each removes its own entry when it has done so."),
    ("generateName", "GenerateName begins a name that the server completes, used when no name is given."),
    ("generation", "Generation counts the changes of what is wanted of the object."),
    ("labels", "Labels are pairs that objects are selected and grouped by."),
    ("managedFields", "ManagedFields tell who set which fields, for server-side apply."),
    ("name", "Name is unique among the objects of one resource in one namespace. It cannot be changed."),
    ("namespace", "Namespace is the scope within which the name is unique; empty for kinds of the whole cluster."),
    ("ownerReferences", "Objects that this one depends on. When all of them are gone, it is deleted."),
    ("resourceVersion", "ResourceVersion changes with every write. Clients compare it for equality and send it back."),
    ("selfLink", "SelfLink is not filled in any more."),
    ("uid", "UID tells the object from all others of all times, also from those of the same name."),
];

const LIST_META: &[(&str, &str)] = &[
    ("continue", "Continue is sent back to get the next page of the list."),
    ("remainingItemCount", "RemainingItemCount is how many objects follow, where that is known."),
    ("resourceVersion", "ResourceVersion is the state of the server that the list shows; watches begin after it."),
    ("selfLink", "SelfLink is not filled in any more."),
];

const EVERYWHERE: &[(&str, &str)] = &[
    ("apiVersion", "APIVersion defines the group and version in which the object is written."),
    ("kind", "Kind is the name of the type of the object. It cannot be changed."),
];

/// What the members of every object are.
pub(super) const METADATA: &str = "Standard object's metadata.";
/// The same of lists.
pub(super) const LIST_METADATA: &str = "Standard list's metadata.";

/// Of a type, by its name without package.
pub(super) fn of_type(name: &str) -> Option<&'static str> {
    match name {
        "ObjectMeta" => Some("ObjectMeta is what every object that is kept has: names, labels, owners, versions."),
        "ListMeta" => Some("ListMeta is what every list has."),
        _ => None,
    }
}

/// Of a member of a type, by the type's name without package.
pub(super) fn of_member(ty: &str, member: &str) -> Option<&'static str> {
    let table = match ty {
        "ObjectMeta" => OBJECT_META,
        "ListMeta" => LIST_META,
        _ => EVERYWHERE,
    };
    if let Some((_, words)) = table.iter().find(|(name, _)| *name == member) {
        return Some(words);
    }
    match (member, ty.ends_with("List")) {
        ("metadata", false) => Some(METADATA),
        ("metadata", true) => Some(LIST_METADATA),
        _ => None,
    }
}
