//! Differences that shall be, and why. `docs/compatibility.md` tells users of them.

/// How a difference begins, and why it is none to mend.
const EXPLAINED: &[(&str, &str)] = &[
    ("order of messages", "several faults in one refusal have no order that counts"),
    ("body at /metadata/generation", "to put an empty list where none was is a change there"),
    ("message: failed to create typed patch object", "of several unknown fields Go names one by chance"),
    ("body at /status/nonResourceRules", "each server's administrator is in groups of its own"),
    (
        "body at /metadata/managedFields/*/fieldsV1/f:spec/f:replicas",
        "there, a scaling that changes nothing takes the replicas from their owner",
    ),
    ("body at /rows/*/cells/*", "ages and addresses of services in tables"),
    (
        "code 422 for 400: DeleteOptions",
        "what is wrong with the options is told before what is wrong with the selectors",
    ),
    ("message: ListOptions", "what is wrong with the options is told before what is wrong with the selectors"),
];

/// Why a difference is none to mend.
pub(super) fn why(what: &str) -> Option<&'static str> {
    EXPLAINED.iter().find(|(start, _)| what.starts_with(start)).map(|(_, why)| *why)
}
