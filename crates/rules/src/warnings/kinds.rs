//! What each kind warns of, given the object as it shall be, and as it is if it is there
//! (`WarningsOnCreate` and `WarningsOnUpdate` of `pkg/registry`).

use serde_json::Value;
use skiff_meta::Quantity;
use skiff_meta::field::FieldPath;

use super::pods::{old_volume, pod};
use super::{Warnings, annotations, claim_spec, counts, name, node_expressions, old_node_label, shown};
use crate::Part;
use crate::addresses::{warn_cidr, warn_ip};
use crate::at::At;
use crate::view::View;

/// What is doubtful about a write.
pub(crate) type Warn = fn(&Value, Option<&Value>, Part) -> Vec<String>;

const NAMES_AND_HOSTNAMES: &str = "Pod names and hostnames";

/// A collector for what only writes to the object itself warn of.
fn main_only(part: Part, tell: impl FnOnce(&mut Warnings)) -> Warnings {
    let mut out = Warnings::new();
    if part == Part::Main {
        tell(&mut out);
    }
    out
}

fn spec(object: &Value) -> At<'_> {
    At::member(object, "spec")
}

/// Pods are looked at once, and their addresses whenever told.
pub(crate) fn of_pod(new: &Value, old: Option<&Value>, part: Part) -> Warnings {
    let mut out = Warnings::new();
    match part {
        Part::Main if old.is_none() => {
            name(new, "the Pod's hostname", &mut out);
            pod(&At::root(new), false, &mut out);
        }
        Part::Status => {
            let status = At::member(new, "status");
            for address in ["podIPs", "hostIPs"].iter().flat_map(|list| status.items(list)) {
                warn_ip(&address.path("ip"), address.text("ip"), &mut out);
            }
        }
        Part::Main | Part::Other(_) => {}
    }
    out
}

pub(crate) fn of_pod_template(new: &Value, old: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        if counts(new, old) {
            pod(&At::member(new, "template"), true, out);
        }
    })
}

/// Workloads whose names become names of pods.
pub(crate) fn of_workload(new: &Value, old: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        if old.is_none() {
            name(new, NAMES_AND_HOSTNAMES, out);
        }
        if counts(new, old) {
            pod(&spec(new).get("template"), true, out);
        }
    })
}

/// As of other workloads; but a change is told what was doubtful before it.
pub(crate) fn of_replication_controller(new: &Value, old: Option<&Value>, part: Part) -> Warnings {
    match old.filter(|old| part == Part::Main && counts(new, Some(old))) {
        Some(old) => main_only(part, |out| pod(&spec(old).get("template"), true, out)),
        None => of_workload(new, old, part),
    }
}

pub(crate) fn of_daemon_set(new: &Value, old: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        if old.is_none_or(|old| old.at("spec.template") != new.at("spec.template")) {
            pod(&spec(new).get("template"), true, out);
        }
    })
}

pub(crate) fn of_stateful_set(new: &Value, old: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        let spec = spec(new);
        if counts(new, old) {
            pod(&spec.get("template"), true, out);
        }
        for claim in spec.items("volumeClaimTemplates") {
            // The path of a claim in a new set leaves out where its amounts stand; of one in a changed set it is Go's.
            let path = if old.is_none() { claim.path.clone() } else { claim.path("Spec") };
            claim_spec(&At { value: claim.value.get_or_null("spec"), path }, out);
        }
        if spec.int("revisionHistoryLimit").is_some_and(|limit| limit < 0) {
            let path = spec.path("revisionHistoryLimit");
            out.push(format!("{path}: a negative value retains all historical revisions; a value >= 0 is recommended"));
        }
    })
}

/// What is doubtful about the job described here.
fn job(spec: &At<'_>, out: &mut Warnings) {
    let number = |name: &str| spec.int(name).unwrap_or_default();
    let huge = number("completions") > 100_000 && number("parallelism") > 10_000;
    if spec.text("completionMode") == "Indexed" && huge {
        out.push(format!(
            "{}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
             Kubernetes might not be able to track completedIndexes when a big number of indexes fail",
            spec.path
        ));
    }
    pod(&spec.get("template"), true, out);
}

pub(crate) fn of_job(new: &Value, old: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        if old.is_none() {
            name(new, NAMES_AND_HOSTNAMES, out);
        }
        if counts(new, old) {
            job(&spec(new), out);
        }
    })
}

pub(crate) fn of_cron_job(new: &Value, old: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        if old.is_none() {
            name(new, NAMES_AND_HOSTNAMES, out);
        }
        if counts(new, old) {
            job(&spec(new).get("jobTemplate").get("spec"), out);
        }
        if old.is_some() && spec(new).text("schedule").contains("TZ") {
            out.push(
                "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see \
                 https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                    .to_owned(),
            );
        }
    })
}

const HINTS: &str = "service.kubernetes.io/topology-aware-hints";

/// `pkg/api/service/warnings.go`.
pub(crate) fn of_service(new: &Value, _: Option<&Value>, part: Part) -> Warnings {
    match part {
        Part::Main => main_only(part, |out| service(new, out)),
        Part::Status => balancers(new),
        Part::Other(_) => Warnings::new(),
    }
}

fn service(new: &Value, out: &mut Warnings) {
    let spec = spec(new);
    let (kind, external) = (spec.text("type"), spec.value.count("externalIPs") > 0);
    let headless = kind == "ClusterIP" && spec.text("clusterIP") == "None";
    let mut tell = |condition: bool, what: &str| {
        if condition {
            out.push(what.to_owned());
        }
    };
    let old_hints = format!("annotation {HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead");
    tell(annotations(new).has(HINTS), &old_hints);
    tell(headless && !spec.text("loadBalancerIP").is_empty(), "spec.loadBalancerIP is ignored for headless services");
    tell(headless && external, "spec.externalIPs is ignored for headless services");
    let sticky = spec.text("sessionAffinity") != "None";
    tell(headless && sticky, "spec.SessionAffinity is ignored for headless services");
    let dated = external && !headless && kind != "ExternalName";
    tell(dated, "spec.externalIPs is deprecated and may no longer be implemented in some clusters");
    tell(kind == "ExternalName" && external, "spec.externalIPs is ignored when spec.type is \"ExternalName\"");
    let misnamed = kind != "ExternalName" && !spec.text("externalName").is_empty();
    tell(misnamed, "spec.externalName is ignored when spec.type is not \"ExternalName\"");
    let close = spec.text("trafficDistribution") == "PreferClose";
    tell(close, "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"");
    let own = if matches!(spec.text("clusterIP"), "" | "None") { None } else { Some("clusterIPs") };
    for address in own.into_iter().chain(["externalIPs"]).flat_map(|list| spec.items(list)) {
        warn_ip(&address.path, address.value.as_str().unwrap_or_default(), out);
    }
    warn_ip(&spec.path("loadBalancerIP"), spec.text("loadBalancerIP"), out);
    for range in spec.items("loadBalancerSourceRanges") {
        warn_cidr(&range.path, range.value.as_str().unwrap_or_default(), out);
    }
}

/// Addresses of what balances load for an object.
fn balancers(object: &Value) -> Warnings {
    let mut out = Warnings::new();
    for entry in At::member(object, "status").get("loadBalancer").items("ingress") {
        warn_ip(&entry.path, entry.text("ip"), &mut out);
    }
    out
}

const CLASS: &str = "kubernetes.io/ingress.class";

pub(crate) fn of_ingress(new: &Value, old: Option<&Value>, part: Part) -> Warnings {
    match part {
        Part::Main if old.is_none() && annotations(new).has(CLASS) && !spec(new).has("ingressClassName") => {
            vec![format!("annotation {CLASS:?} is deprecated, please use 'spec.ingressClassName' instead")]
        }
        Part::Status => balancers(new),
        Part::Main | Part::Other(_) => Warnings::new(),
    }
}

const OLD_VOLUMES: [&str; 6] = ["cephfs", "photonPersistentDisk", "scaleIO", "storageOS", "glusterfs", "rbd"];
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

fn old_class(object: &Value, out: &mut Warnings) {
    if annotations(object).has(OLD_CLASS) {
        let path = annotations(object).path.key(OLD_CLASS);
        out.push(format!("{path}: deprecated since v1.8; use \"storageClassName\" attribute instead"));
    }
}

pub(crate) fn of_persistent_volume(new: &Value, _: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        const OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";
        let spec = spec(new);
        old_class(new, out);
        if annotations(new).has(OPTIONS) {
            let path = annotations(new).path.key(OPTIONS);
            out.push(format!("{path}: deprecated since v1.31; use \"mountOptions\" attribute instead"));
        }
        if spec.text("persistentVolumeReclaimPolicy") == "Recycle" {
            out.push(format!(
                "{}: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic \
                 provisioning.",
                spec.path("persistentVolumeReclaimPolicy")
            ));
        }
        for term in spec.get("nodeAffinity").get("required").items("nodeSelectorTerms") {
            node_expressions(&term, false, out);
        }
        old_volume(&spec, &OLD_VOLUMES, out);
    })
}

pub(crate) fn of_persistent_volume_claim(new: &Value, _: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        old_class(new, out);
        claim_spec(&spec(new), out);
    })
}

pub(crate) fn of_node(new: &Value, _: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        let spec = spec(new);
        if !spec.text("externalID").is_empty() {
            out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        for range in spec.items("podCIDRs") {
            warn_cidr(&range.path, range.value.as_str().unwrap_or_default(), out);
        }
    })
}

pub(crate) fn of_runtime_class(new: &Value, _: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        let labels = At::member(new, "scheduling").entries("nodeSelector").map(|(label, _)| label);
        out.extend(labels.filter_map(old_node_label).map(|why| format!("scheduling.nodeSelector: {why}")));
    })
}

pub(crate) fn of_storage_class(new: &Value, _: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        for expression in At::root(new).items("allowedTopologies").flat_map(|term| term.items("matchLabelExpressions"))
        {
            let why = old_node_label(expression.text("key"));
            out.extend(why.map(|why| format!("{}: {why}", expression.path("key"))));
        }
    })
}

pub(crate) fn of_csi_storage_capacity(new: &Value, _: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        let topology = At::member(new, "nodeTopology");
        node_expressions(&topology, false, out);
        let path = topology.path("matchLabels");
        let labels = topology.entries("matchLabels").map(|(label, _)| label);
        out.extend(labels.filter_map(|label| Some(format!("{}: {}", path.child(label), old_node_label(label)?))));
    })
}

pub(crate) fn of_csi_driver(new: &Value, old: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        let spec = spec(new);
        let asks = spec.value.count("tokenRequests") > 0 && !spec.has("serviceAccountTokenInSecrets");
        if asks && old.is_none_or(|old| old.at("spec.tokenRequests") != new.at("spec.tokenRequests")) {
            out.push(
                "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent \
                 possible logging of tokens in volume attributes"
                    .to_owned(),
            );
        }
    })
}

pub(crate) fn of_service_account(new: &Value, old: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        const MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
        if annotations(new).has(MOUNTABLE) && old.is_none_or(|old| !annotations(old).has(MOUNTABLE)) {
            let path = annotations(new).path.key(MOUNTABLE);
            let why = "deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets";
            out.push(format!("{path}: {why}"));
        }
    })
}

pub(crate) fn of_resource_quota(new: &Value, old: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        let hard = new.at("spec.hard");
        for resource in ["cpu", "memory", "storage", "ephemeral-storage"].iter().filter(|_| old.is_none()) {
            let (request, limit) = (format!("requests.{resource}"), format!("limits.{resource}"));
            let plain = matches!(*resource, "cpu" | "memory") && !hard.has(&request);
            let request = if plain { (*resource).to_owned() } else { request };
            let amount = |name: &str| Quantity::from_json(hard.get_or_null(name)).ok();
            if let (Some(least), Some(most)) = (amount(&request), amount(&limit))
                && least > most
            {
                let [least, most] = [&request, &limit].map(|name| shown(hard.get_or_null(name)));
                out.push(format!("ResourceQuota {request} ({least}) should be less than {limit} ({most})"));
            }
        }
    })
}

/// Objects of which some are only read from files.
pub(crate) fn of_static_names(new: &Value, _: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        const SUFFIX: &str = ".static.k8s.io";
        if new.at("metadata").text("name").ends_with(SUFFIX) {
            out.push(format!(
                "metadata.name: names ending with {SUFFIX:?} are reserved for static manifest-based configurations and \
                 cannot be managed via the API"
            ));
        }
    })
}

/// Whether a controller writes the object, which writes addresses in their usual form.
fn is_managed(object: &Value, label: &str, managers: &[&str]) -> bool {
    managers.contains(&object.at("metadata.labels").text(label))
}

pub(crate) fn of_endpoints(new: &Value, _: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        if is_managed(new, "endpoints.kubernetes.io/managed-by", &["endpoint-controller"]) {
            return;
        }
        for subset in At::root(new).items("subsets") {
            for address in ["addresses", "notReadyAddresses"].iter().flat_map(|list| subset.items(list)) {
                warn_ip(&address.path("ip"), address.text("ip"), out);
            }
        }
    })
}

pub(crate) fn of_endpoint_slice(new: &Value, old: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        if old.is_none() && new.text("addressType") == "FQDN" {
            out.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        let controllers = ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
        if is_managed(new, "endpointslice.kubernetes.io/managed-by", &controllers) {
            return;
        }
        for address in At::root(new).items("endpoints").flat_map(|endpoint| endpoint.items("addresses")) {
            warn_ip(&address.path, address.value.as_str().unwrap_or_default(), out);
        }
    })
}

pub(crate) fn of_network_policy(new: &Value, _: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        for (list, peers) in [("ingress", "from"), ("egress", "to")] {
            for block in spec(new).items(list).flat_map(|rule| rule.items(peers)).map(|peer| peer.get("ipBlock")) {
                warn_cidr(&block.path("cidr"), block.text("cidr"), out);
                for except in block.items("except") {
                    warn_cidr(&except.path, except.value.as_str().unwrap_or_default(), out);
                }
            }
        }
    })
}

pub(crate) fn of_resource_slice(new: &Value, _: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        let driver = new.at("spec").text("driver");
        if driver != driver.to_lowercase() {
            let path = FieldPath::new("spec.driver");
            out.push(format!("{path}: driver names should be lowercase; {driver:?} contains uppercase characters"));
        }
    })
}

/// Certificates for servers that no server can use.
pub(crate) fn of_secret(new: &Value, _: Option<&Value>, part: Part) -> Warnings {
    main_only(part, |out| {
        if new.text("type") == "kubernetes.io/tls" {
            let data = new.get_or_null("data");
            out.extend(crate::pem::pair_fault(data.text("tls.crt"), data.text("tls.key")));
        }
    })
}
