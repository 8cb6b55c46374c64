//! Differences that shall be, and why. `docs/compatibility.md` tells users of them.

use std::net::IpAddr;

use serde_json::Value;

use super::compare::Parting;

/// What was asked for.
pub(super) struct Asked<'a> {
    pub(super) path: &'a str,
    pub(super) body: &'a Value,
    /// The object was scaled by now.
    pub(super) scaled: bool,
}

/// How a difference begins, what else must hold, and why it is none to mend.
type Explained = (&'static str, fn(&Parting, &Asked<'_>) -> bool, &'static str);

const KEYS: &str = "an unknown field that a strategic patch brings is told there without keys of maps on the way";
const TAKEN: &str = "there, a scaling that changes nothing takes the replicas from their owner";
const NO_PROGRESS: &str = "the required storage feature RequestWatchProgress is disabled";
const OLD_STORE: &str = "their store is too old for a watch that asks for its end";
const TOO_LARGE: [&str; 2] = [" does not fit into int32", " does not fit into int64"];
/// What is left of a quantity of the mutations when Go cuts it to 64 bits.
const CUT_QUANTITY: &str = "-6101065172474983726";
const NEGATIVE: &str = "a quantity too large for 64 bits is negative there";
const NO_CONVERSION: [&str; 4] = ["cannot restore ", "cannot convert ", "unrecognized type: ", "quantities must match"];
/// What upstream says of lists that are there, if empty.
const EMPTY: [&str; 7] = [
    "dependencies is not supported",
    "are allowed at the root of the schema",
    "must specify at least one Policy",
    "only one of `sharedCounters` or `devices` is allowed",
    "cannot be set for an Ephemeral Container",
    "spec.metadata.managedFields: Forbidden",
    "spec.metadata.finalizers: Forbidden",
];
const NO_GENERATION: &str = "what a DaemonSet's annotation says of its generation is replaced, and need be no number";
const NOT_HELD: &str = "a namespace that nothing holds goes at once, and is not marked before";
const CLAIMS: &str = "spec.template.spec.volumes[";
/// Fields of kinds whose status the API server writes.
const OF_SERVERS: [&str; 2] = ["f:matchingPrecedence", "f:typeChecking"];
const OWNERS: &str = "body at /metadata/managedFields";
const GENERATION: &str = "body at /metadata/generation";
const REPLICAS: &str = "/metadata/managedFields/*/fieldsV1/f:spec/f:replicas";

const EXPLAINED: &[Explained] = &[
    (
        "body at /rows/*/cells",
        |parting, _| parting.theirs.starts_with(parting.ours.trim_end_matches(']')) && parting.ours.contains('/'),
        "an IPAddress tells its age there, without a column for it",
    ),
    (
        "code 20",
        |parting, asked| EMPTY.iter().any(|text| parting.theirs.contains(text)) && has_empty_list(asked.body),
        "an empty list is none, and gets the default ones or is not refused where it may not stand",
    ),
    (
        "body at /metadata/deletionGracePeriodSeconds (theirs only)",
        |parting, asked| {
            asked.body.pointer("/metadata/deletionGracePeriodSeconds").map(Value::to_string).as_ref()
                == Some(&parting.theirs)
        },
        "who makes an object by changing it may say there how long its deletion takes",
    ),
    (
        "code 404 for ",
        |_, asked| asked.path.contains("/validatingadmissionpolicies/") && asked.path.contains("/status"),
        "an apply to the status of a policy that is not there makes the policy there",
    ),
    (
        "body at /metadata/generation (theirs only)",
        |_, asked| asked.path.contains("/csidrivers"),
        "a driver begins without a generation, also where one is sent",
    ),
    (
        GENERATION,
        |parting, asked| {
            let off = ["bools", "ints", "strings", "versions"].map(|name| format!("\"{name}\":["));
            asked.path.contains("/resourceslices/")
                && number(&parting.ours) < number(&parting.theirs)
                && off.iter().any(|name| asked.body.to_string().contains(name))
        },
        "a field of a feature that is off counts as a change of a slice there",
    ),
    (
        OWNERS,
        |parting, asked| {
            parting.theirs.is_empty() && asked.body.pointer("/spec/template/metadata/managedFields").is_some()
        },
        "managed fields of a template, which no client writes, take the object's from it there",
    ),
    (
        "code 200 for 422",
        |parting, _| parting.theirs.contains("expressionWarnings[") && parting.theirs.contains("invalid JSONPath"),
        "where a policy's status says its expressions are is not read as a JSONPath",
    ),
    (
        "code ",
        |parting, _| parting.theirs.contains("Go value of type v1.JSONSchemaProps"),
        "a schema within a schema is read in another way than what it is in",
    ),
    (
        "code 422 for 500",
        |parting, _| parting.theirs.contains("unable to find api field in struct"),
        "a strategic patch of what has no fields is a merge",
    ),
    (
        "message:  \"\" is invalid: patch",
        |parting, _| parting.theirs.contains("unknown conversion") && parting.ours.contains("no kind "),
        "what a patch turns into another kind is told in words of Go's types there",
    ),
    (
        "message: CustomResourceDefinition",
        |parting, _| {
            let fixed = |fault: &String| {
                ["spec.names.kind", "spec.scope"].iter().any(|name| fault.starts_with(name))
                    && fault.ends_with("field is immutable")
            };
            let ours: Vec<_> = faults(&parting.ours).into_iter().filter(|fault| !fixed(fault)).collect();
            ours == faults(&parting.theirs)
        },
        "definitions are accepted at once, and a moment later there",
    ),
    (
        "",
        |parting, _| parting.ours.contains("].default: ") && parting.ours.contains("must be of type integer,string"),
        "a default that is neither a number nor a text is refused where one of both is asked for",
    ),
    (
        "code 500 for 422",
        |parting, _| {
            parting.ours.contains("list element types are not identical")
                && NO_CONVERSION.iter().any(|text| parting.theirs.contains(text))
        },
        "of two faults in a strategic patch Go meets one by chance",
    ),
    (
        "message: Pod",
        |parting, _| {
            let others =
                |text: &str| faults(text).into_iter().filter(|f| !f.ends_with("\"<volume>\"")).collect::<Vec<_>>();
            others(&parting.ours) == others(&parting.theirs)
        },
        "the volume with a pod's token has a name of chance",
    ),
    (
        OWNERS,
        |parting, asked| {
            parting.what.ends_with("/time (theirs only)")
                && asked.path.contains("/certificatesigningrequests/")
                && asked.body.pointer("/spec/extra").is_some()
        },
        "who asks is known here by a certificate, and by a token there",
    ),
    (
        OWNERS,
        |parting, asked| {
            parting.what.ends_with("/time (theirs only)") && asked.body.pointer("/metadata/selfLink").is_some()
        },
        "to apply a selfLink is a change there, though it is dropped",
    ),
    (
        "code 422 for 500",
        |parting, asked| {
            parting.theirs.contains("expected slice or array type")
                && asked.body.to_string().contains("$deleteFromPrimitiveList")
        },
        "of two faults in a strategic patch Go meets one by chance",
    ),
    (
        "body at ",
        |parting, asked| {
            asked.path.contains("/events?")
                && asked.path.contains("allowWatchBookmarks")
                && parting.ours.starts_with(parting.theirs.trim_end_matches(']'))
        },
        "events have no bookmarks there but the first, since no cache of theirs holds them",
    ),
    (
        OWNERS,
        |parting, asked| {
            parting.ours.is_empty() != parting.theirs.is_empty() && asked.body.to_string().contains("\"$patch\"")
        },
        "a list of nothing but directives is an empty one, and stored as none",
    ),
    (
        "order of /metadata/managedFields",
        |_, _| true,
        "entries are in the order of the seconds they were written in, which end at other requests on each server",
    ),
    ("order of messages", |_, _| true, "several faults in one refusal have no order that counts"),
    (
        GENERATION,
        |parting, asked| has_empty(asked.body) && number(&parting.ours) < number(&parting.theirs),
        "to put an empty list where none was is a change there",
    ),
    (
        "message: failed to create typed patch object",
        |parting, _| [&parting.ours, &parting.theirs].iter().all(|text| text.contains("field not declared in schema")),
        "of several unknown fields Go names one by chance",
    ),
    ("body at /status/nonResourceRules", |_, _| true, "each server's administrator is in groups of its own"),
    ("body at ", |parting, asked| asked.scaled && parting.what.contains(REPLICAS), TAKEN),
    (
        "body at /metadata/managedFields/* (ours only)",
        |parting, asked| asked.scaled && parting.ours.contains("\"fieldsV1\":{\"f:spec\":{\"f:replicas\":{}}}"),
        TAKEN,
    ),
    (
        "body at /metadata/managedFields",
        |parting, _| {
            let both = [&parting.ours, &parting.theirs];
            both.iter().any(|text| text.contains("\"before-first-apply\""))
                && both.iter().any(|text| text.is_empty())
                && both.iter().any(|text| OF_SERVERS.iter().any(|field| text.contains(field)))
        },
        "the server that writes the status itself may do so before a client's first apply",
    ),
    ("body at /items/*", |parting, asked| asked.scaled && parting.what.contains("f:spec/f:replicas"), TAKEN),
    ("code 409 for 200", |parting, asked| asked.scaled && parting.ours.contains(".spec.replicas"), TAKEN),
    (
        "message: failed to create typed patch object",
        |parting, _| {
            let fault = parting.theirs.split_once("): ").map_or("", |(_, fault)| fault);
            !fault.is_empty() && parting.ours.contains(fault)
        },
        "Go stops at the first fault of some sorts; all are told here",
    ),
    ("message: Apply failed", |parting, asked| asked.scaled && parting.theirs.contains(".spec.replicas"), TAKEN),
    (
        "body at ",
        |parting, _| parting.what.ends_with("rows/*/cells/*") && are_given(parting),
        "ages and addresses of services in tables",
    ),
    (
        "body at ",
        |parting, asked| asked.path.contains("watch=true") && parting.what == "body at " && parting.theirs == "\"\"",
        "their watch ended before it began",
    ),
    (
        "code 422 for 200: CustomResourceDefinition",
        |parting, _| {
            let fault = parting.ours.split_once("is invalid: ").map_or("", |(_, fault)| fault);
            ["spec.names.kind: ", "spec.scope: "].iter().any(|fixed| fault.starts_with(fixed))
                && fault.ends_with("field is immutable\"")
        },
        "definitions are accepted at once, and a moment later there",
    ),
    (
        "watch refused there",
        |parting, _| {
            parting.theirs.contains("oo old resource version") || parting.theirs.contains("Too large resource version")
        },
        "each server remembers as much as it happens to, and theirs learns of a write a moment later",
    ),
    ("watch refused there", |parting, _| parting.theirs.contains(NO_PROGRESS), OLD_STORE),
    (
        "watch refused there",
        |parting, _| parting.theirs.contains("The resourceVersion for the provided watch is too old"),
        "their store forgets on its own",
    ),
    (
        "body at ",
        |parting, _| {
            parting.what.ends_with("rows/*/cells/*") && [&parting.ours, &parting.theirs].contains(&&"\"?\"".to_owned())
        },
        "what a controller of one of them has not looked at yet",
    ),
    (
        "body at ",
        |parting, _| {
            let name = |text: &str| text.ends_with("-admin\"");
            parting.what.ends_with("rows/*/cells/*") && name(&parting.ours) && name(&parting.theirs)
        },
        "each server's administrator has another name",
    ),
    ("body at ", |parting, _| parting.theirs.contains(NO_PROGRESS), OLD_STORE),
    (
        "",
        |parting, _| TOO_LARGE.iter().any(|text| parting.ours.contains(text)),
        "a number too large for its field is refused here; Go takes its lower bits",
    ),
    (
        "message: ",
        |parting, _| [&parting.ours, &parting.theirs].iter().all(|text| text.contains("compilation failed: ERROR")),
        "what is wrong with the grammar of an expression is told in the words of a generated parser there",
    ),
    (
        "body at /",
        |parting, _| {
            parting.what.ends_with("/annotations (ours only)") && parting.ours.contains("daemonset.template.generation")
        },
        "an annotation that belongs to one version only is left out of metadata alone there",
    ),
    (
        "body at /metadata/selfLink",
        |parting, _| parting.ours.is_empty(),
        "nothing has a selfLink any more, tried or not",
    ),
    (
        OWNERS,
        |parting, asked| {
            parting.ours.is_empty() != parting.theirs.is_empty()
                && (has_empty_list(asked.body) || has_empty_within_list(asked.body))
        },
        "an empty list that is stored as none belongs to nobody here",
    ),
    (
        "message: ",
        |parting, asked| EMPTY.iter().any(|text| parting.theirs.contains(text)) && has_empty(asked.body),
        "an empty list is none, and is not refused where it may not stand",
    ),
    (
        "message: Service",
        |parting, _| parting.theirs.contains("failed to allocate IP: IPAddress.networking.k8s.io"),
        "a Service without a name is given an address first there",
    ),
    (
        "code 400 for ",
        |parting, _| parting.ours == "\"metadata.managedFields must be nil\"",
        "entries of managed fields that a client makes up",
    ),
    (
        "message:  \"\" is invalid: patch",
        |parting, _| [&parting.ours, &parting.theirs].iter().all(|text| NO_CONVERSION.iter().any(|w| text.contains(w))),
        "of several values that do not fit, Go's converter names the first in its own order",
    ),
    (
        "message: ",
        |parting, _| {
            let theirs = "cannot unmarshal string into Go struct field JSONSchemaProps.";
            parting.theirs.contains("JSONSchemaProps.")
                && (parting.what.starts_with("message: failed to convert new object")
                    || parting.theirs.contains(theirs))
        },
        "a schema within a schema is read in another way than what it is in",
    ),
    ("warnings: unknown field", |parting, _| has_steps(&parting.ours, &parting.theirs), KEYS),
    (
        "message:  \"\" is invalid: patch",
        |parting, _| parting.theirs.contains("unknown field") && has_steps(&parting.ours, &parting.theirs),
        KEYS,
    ),
    (
        "body at /rows",
        |parting, _| (&*parting.ours, &*parting.theirs) == ("[]", "null"),
        "some tables without rows have none there, and no list of none",
    ),
    (
        "message: ",
        |parting, _| parting.theirs.replace("k8s.io/kubernetes/pkg/", "pkg/") == *parting.ours,
        "where a part of theirs is kept depends on how it was built",
    ),
    (
        "message:  \"\" is invalid: patch",
        |parting, _| [&parting.ours, &parting.theirs].iter().all(|text| text.contains("json: cannot unmarshal ")),
        "of several values that do not fit, theirs names the first in the order of Go's fields",
    ),
    (
        "code ",
        |parting, _| parting.theirs.contains("DaemonSet in version") && parting.theirs.contains("strconv.ParseInt"),
        NO_GENERATION,
    ),
    ("message: DaemonSet in version", |parting, _| parting.theirs.contains("strconv.ParseInt"), NO_GENERATION),
    (
        "",
        |parting, asked| asked.path.contains("/customresourcedefinitions") && is_held(parting),
        "definitions deleted together take their objects along, and are held by nothing else",
    ),
    (
        "body at /status/phase",
        |parting, _| (&*parting.ours, &*parting.theirs) == ("\"Active\"", "\"Terminating\""),
        NOT_HELD,
    ),
    (
        "body at /metadata/deletionTimestamp (theirs only)",
        |_, asked| asked.path.starts_with("/api/v1/namespaces/") && asked.path.split('/').count() == 5,
        NOT_HELD,
    ),
    (
        "body at /metadata/managedFields (ours only)",
        |parting, _| parting.ours.contains(r#""k:{\"name\":\"\"}""#),
        "an object with an item that lacks its key loses its owners there",
    ),
    (
        "message: StatefulSet.apps",
        |parting, _| parting.theirs.contains(CLAIMS) && faults(&parting.ours) == faults(&parting.theirs),
        "volumes that stand for claims come in the order of a Go map",
    ),
    ("message: ", |parting, _| parting.theirs.contains(CUT_QUANTITY), NEGATIVE),
    ("code 20", |parting, _| parting.theirs.contains(CUT_QUANTITY), NEGATIVE),
    (
        "body at /status/conditions (theirs only)",
        |parting, _| parting.theirs.contains("EvictionByEvictionAPI"),
        "an eviction that is refused leaves no trace on the pod",
    ),
];

/// Why a difference is none to mend.
pub(super) fn why(parting: &Parting, asked: &Asked<'_>) -> Option<&'static str> {
    let fits = |(start, fits, _): &&Explained| parting.what.starts_with(start) && fits(parting, asked);
    EXPLAINED.iter().find(fits).map(|(.., why)| *why)
}

/// Whether the objects differ from here on, so that every later answer would.
pub(super) fn stays(parting: &Parting) -> bool {
    ["code ", GENERATION, OWNERS].iter().any(|start| parting.what.starts_with(start)) || is_held(parting)
}

/// Gone here, and held by a finalizer of the garbage collector there.
fn is_held(parting: &Parting) -> bool {
    ["orphan", "foregroundDeletion"].iter().any(|held| parting.theirs.contains(&format!("\"finalizers\":[\"{held}\"]")))
        && !parting.ours.contains("\"finalizers\"")
}

/// The faults of a refusal, sorted and without numbers.
fn faults(message: &str) -> Vec<String> {
    let (_, list) = message.split_once(": ").unwrap_or_default();
    let faults = list.trim_matches(['[', ']']).split(", ");
    let mut faults: Vec<String> = faults.map(|fault| fault.replace(|c: char| c.is_ascii_digit(), "")).collect();
    faults.sort();
    faults
}

/// Whether a path has all steps of a shorter one, in their order.
fn has_steps(long: &str, short: &str) -> bool {
    let mut steps = long.split('.');
    long.len() > short.len() && short.split('.').all(|step| steps.any(|other| other == step))
}

fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}

fn has_empty_list(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty() || items.iter().any(has_empty_list),
        Value::Object(members) => members.values().any(has_empty_list),
        _ => false,
    }
}

/// Whether an item of a list has a member that is there, if empty.
fn has_empty_within_list(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().filter(|item| item.is_object()).any(has_empty),
        Value::Object(members) => members.values().any(has_empty_within_list),
        _ => false,
    }
}

fn has_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty() || items.iter().any(has_empty),
        Value::Object(members) => {
            let is_empty = |(name, value): (&String, &Value)| name == "caBundle" && value == "" || has_empty(value);
            members.is_empty() || members.iter().any(is_empty)
        }
        _ => false,
    }
}

/// Two ages, two lists of addresses, or the same ports of Services beside other ports of nodes.
fn are_given(parting: &Parting) -> bool {
    let both = [&parting.ours, &parting.theirs].map(|text| text.trim_matches('"'));
    let is_age = |text: &&str| {
        text.starts_with(|c: char| c.is_ascii_digit())
            && text.ends_with(|c: char| c.is_ascii_alphabetic())
            && text.chars().all(|c| c.is_ascii_digit() || "smhdy".contains(c))
    };
    let is_address = |text: &&str| text.split(',').all(|part| part.parse::<IpAddr>().is_ok());
    let [ours, theirs] = both.map(ports);
    both.iter().all(is_age) || both.iter().all(is_address) || ours.is_some() && ours == theirs
}

/// The Service's own of `80:31234/TCP,81/UDP`.
fn ports(text: &str) -> Option<Vec<(&str, &str)>> {
    let parts = text.split(',').map(|part| part.split_once('/'));
    parts.map(|part| part.map(|(ports, protocol)| (ports.split(':').next().unwrap_or_default(), protocol))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_explained_is_no_more_than_that() {
        let cells = "body at /rows/*/cells/*";
        let refused = "failed to create typed patch object (x): .spec.a: ";
        for (what, ours, theirs, body, scaled, expected) in [
            (cells, "\"5s\"", "\"1m2s\"", json!({}), false, true),
            (cells, "\"10.43.0.7\"", "\"10.97.3.1\"", json!({}), false, true),
            (cells, "\"80:30001/TCP\"", "\"80:31234/TCP\"", json!({}), false, true),
            (cells, "\"81:30001/TCP\"", "\"80:31234/TCP\"", json!({}), false, false),
            (cells, "\"Running\"", "\"Pending\"", json!({}), false, false),
            (cells, "3", "2", json!({}), false, false),
            (GENERATION, "1", "2", json!({"spec": {"tolerations": []}}), false, true),
            (GENERATION, "1", "2", json!({"spec": {"replicas": 3}}), false, false),
            (GENERATION, "2", "1", json!({"spec": {"tolerations": []}}), false, false),
            ("body at /metadata/managedFields (theirs only)", "", "[]", json!({"rules": []}), false, true),
            ("body at /metadata/managedFields (theirs only)", "", "[]", json!({"rules": {}}), false, false),
            ("body at ", "", "RequestWatchProgress is disabled", json!({}), false, false),
            ("code 500 for 200", "number 2147483648 does not fit into int32", "", json!({}), false, true),
            (&*format!("body at {REPLICAS} (ours only)"), "", "{}", json!({}), true, true),
            (&*format!("body at {REPLICAS} (ours only)"), "", "{}", json!({}), false, false),
            (
                "warnings: unknown field",
                "unknown field \"a.k.$patch\"",
                "unknown field \"a.$patch\"",
                json!({}),
                false,
                true,
            ),
            ("warnings: unknown field", "unknown field \"a.k\"", "unknown field \"b\"", json!({}), false, false),
            ("body at ", "{}", "\"\"", json!({}), false, false),
            ("message: x", "scheme \"pkg/a\"", "scheme \"k8s.io/kubernetes/pkg/a\"", json!({}), false, true),
            ("message: x", "scheme \"pkg/a\"", "scheme \"k8s.io/kubernetes/pkg/b\"", json!({}), false, false),
            ("code 409 for 200", "conflict: .spec.replicas", "{}", json!({}), false, false),
            (
                "code 422 for 200: CustomResourceDefinition",
                "\"x is invalid: spec.group: field is immutable\"",
                "{}",
                json!({}),
                false,
                false,
            ),
            (
                "code 422 for 200: CustomResourceDefinition",
                "\"x is invalid: spec.scope: field is immutable\"",
                "{}",
                json!({}),
                false,
                true,
            ),
            ("body at /metadata/deletionTimestamp (theirs only)", "", "\"t\"", json!({}), false, false),
            (
                "message: failed to create typed patch object",
                &format!("{refused}field not declared in schema"),
                &format!("{refused}expected string"),
                json!({}),
                false,
                false,
            ),
        ] {
            let parting = Parting { what: what.to_owned(), ours: ours.to_owned(), theirs: theirs.to_owned() };
            let why = why(&parting, &Asked { path: "", body: &body, scaled });
            assert_eq!(why.is_some(), expected, "{parting:?} {body}");
        }
    }
}
