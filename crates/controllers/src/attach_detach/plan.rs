//! Which volumes a node needs, and what to do about those that it has and has not. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{AttachedVolume, Node};
use k8s_openapi::api::storage::v1::{VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_api::volumes;
use skiff_client::Kind;

/// Tolerations aside, a node with this taint is taken to be off.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// A volume of a driver that wants it attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) driver: String,
    pub(super) handle: String,
    /// Several nodes may have it at the same time.
    pub(super) shared: bool,
}

impl Disk {
    fn unique_name(&self) -> String {
        volumes::unique_name(&self.driver, &self.handle)
    }
}

/// What the plan is made from: one node with what its pods want and what it has.
pub(super) struct View<'a> {
    pub(super) name: &'a str,
    /// Gone, if there is none.
    pub(super) node: Option<&'a Node>,
    /// Disks by the name of their PersistentVolume.
    pub(super) wanted: &'a BTreeMap<String, Disk>,
    /// The attachments to this node that are ours, with their disks.
    pub(super) attachments: &'a [(&'a VolumeAttachment, Disk)],
    /// The other nodes that have a volume, or are about to.
    pub(super) elsewhere: &'a dyn Fn(&str) -> Vec<String>,
    /// Whether a node that does not say that it is done has been waited for long enough.
    pub(super) overdue: &'a dyn Fn(&str) -> bool,
}

/// What to do, in this order.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// What the node's status is to say that it has.
    pub(super) report: Option<Vec<AttachedVolume>>,
    /// By name.
    pub(super) detach: Vec<String>,
    pub(super) attach: Vec<VolumeAttachment>,
    /// Volumes that others have, and who they are.
    pub(super) taken: Vec<(String, Vec<String>)>,
    /// Volumes that could not be attached, and why.
    pub(super) failed: Vec<(String, String)>,
    /// Attachments that nobody wants, to a node that still uses them; waited for or not.
    pub(super) lingering: Vec<String>,
}

/// What to do about a node's volumes.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let status = view.node.and_then(|node| node.status.as_ref());
    let reported = status.and_then(|status| status.volumes_attached.clone()).unwrap_or_default();
    let in_use = status.and_then(|status| status.volumes_in_use.as_deref()).unwrap_or_default();
    let mut report = Vec::new();
    for (attachment, disk) in view.attachments {
        let (name, volume) = (attachment.name(), volume_of(attachment).unwrap_or_default());
        let (unique, wanted) = (disk.unique_name(), view.wanted.contains_key(volume));
        let told = reported.iter().any(|told| told.name == unique);
        let attached = attachment.status.as_ref().is_some_and(|status| status.attached);
        let used = in_use.contains(&unique) && !is_off(view.node);
        let awaited = used && !(view.overdue)(name);
        if attached && !attachment.deleting() && (wanted || awaited) {
            report.push(AttachedVolume { name: unique.clone(), device_path: String::new() });
        }
        if wanted {
            let error = attachment.status.as_ref().and_then(|status| status.attach_error.as_ref());
            let why = error.filter(|_| !attached).and_then(|error| error.message.clone());
            plan.failed.extend(why.map(|why| (volume.to_owned(), why)));
            continue;
        }
        if used {
            plan.lingering.push(name.to_owned());
        }
        if !awaited && !attachment.deleting() && !told {
            // Once it is not told any more, the node begins nothing with it.
            plan.detach.push(name.to_owned());
        }
    }
    report.sort_by(|a, b| a.name.cmp(&b.name));
    let names = |list: &[AttachedVolume]| list.iter().map(|volume| volume.name.clone()).collect::<Vec<_>>();
    if view.node.is_some() && names(&report) != names(&reported) {
        plan.report = Some(report);
    }
    let controlled = view.node.is_some_and(|node| {
        node.metadata.annotations.as_ref().is_some_and(|all| all.get(volumes::CONTROLLED).is_some_and(|v| v == "true"))
    });
    let has = |volume: &str| view.attachments.iter().any(|(attachment, _)| volume_of(attachment) == Some(volume));
    for (volume, disk) in view.wanted.iter().filter(|(volume, _)| controlled && !has(volume)) {
        let others = if disk.shared { Vec::new() } else { (view.elsewhere)(volume) };
        if others.is_empty() {
            plan.attach.push(attachment(volume, disk, view.name));
        } else {
            plan.taken.push((volume.clone(), others));
        }
    }
    plan
}

/// The PersistentVolume that an attachment is of.
pub(super) fn volume_of(attachment: &VolumeAttachment) -> Option<&str> {
    attachment.spec.source.persistent_volume_name.as_deref()
}

fn attachment(volume: &str, disk: &Disk, node: &str) -> VolumeAttachment {
    VolumeAttachment {
        metadata: ObjectMeta {
            name: Some(volumes::attachment(&disk.handle, &disk.driver, node)),
            ..ObjectMeta::default()
        },
        spec: VolumeAttachmentSpec {
            attacher: disk.driver.clone(),
            node_name: node.to_owned(),
            source: VolumeAttachmentSource {
                persistent_volume_name: Some(volume.to_owned()),
                ..VolumeAttachmentSource::default()
            },
        },
        status: None,
    }
}

fn is_off(node: Option<&Node>) -> bool {
    let spec = node.and_then(|node| node.spec.as_ref());
    spec.is_some_and(|spec| spec.taints.iter().flatten().any(|taint| taint.key == OUT_OF_SERVICE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const UNIQUE: &str = "kubernetes.io/csi/d^h";

    fn disk(shared: bool) -> Disk {
        Disk { driver: "d".to_owned(), handle: "h".to_owned(), shared }
    }

    fn node(attached: bool, in_use: bool, taints: Value) -> Node {
        let attached = if attached { json!([{"name": UNIQUE, "devicePath": ""}]) } else { json!([]) };
        let in_use = if in_use { json!([UNIQUE]) } else { json!([]) };
        serde_json::from_value(json!({
            "metadata": {"name": "n", "annotations": {volumes::CONTROLLED: "true"}},
            "spec": {"taints": taints},
            "status": {"volumesAttached": attached, "volumesInUse": in_use}}))
        .unwrap()
    }

    fn attached(attached: bool, deleting: bool) -> VolumeAttachment {
        let mut made = attachment("pv", &disk(false), "n");
        made.status = serde_json::from_value(json!({"attached": attached})).unwrap();
        if deleting {
            made.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        }
        made
    }

    /// What a plan says in short: `+` attach, `-` detach, `=N` report N volumes, `!` taken, `~` lingering.
    fn said(plan: &Plan) -> String {
        let mut text = "+".repeat(plan.attach.len()) + &"-".repeat(plan.detach.len());
        text += &plan.report.as_ref().map(|report| format!("={}", report.len())).unwrap_or_default();
        text + &"!".repeat(plan.taken.len()) + &"~".repeat(plan.lingering.len())
    }

    #[test]
    fn a_volume_is_attached_before_it_is_told_and_told_off_before_it_goes() {
        let off = json!([{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]);
        let none = || json!([]);
        for (what, node, wanted, attachment, others, overdue, expected) in [
            ("wanted", Some(node(false, false, none())), true, None, false, false, "+"),
            ("under way", Some(node(false, false, none())), true, Some(attached(false, false)), false, false, ""),
            ("attached", Some(node(false, false, none())), true, Some(attached(true, false)), false, false, "=1"),
            ("all well", Some(node(true, true, none())), true, Some(attached(true, false)), false, false, ""),
            ("still mounted", Some(node(true, true, none())), false, Some(attached(true, false)), false, false, "~"),
            ("done with", Some(node(true, false, none())), false, Some(attached(true, false)), false, false, "=0"),
            ("told off", Some(node(false, false, none())), false, Some(attached(true, false)), false, false, "-"),
            ("going", Some(node(false, false, none())), false, Some(attached(true, true)), false, false, ""),
            ("wanted again", Some(node(false, false, none())), true, Some(attached(true, true)), false, false, ""),
            ("no answer", Some(node(true, true, none())), false, Some(attached(true, false)), false, true, "=0~"),
            (
                "no answer, told off",
                Some(node(false, true, none())),
                false,
                Some(attached(true, false)),
                false,
                true,
                "-~",
            ),
            ("no answer, going", Some(node(false, true, none())), false, Some(attached(true, true)), false, true, "~"),
            ("off", Some(node(true, true, off)), false, Some(attached(true, false)), false, false, "=0"),
            ("gone", None, false, Some(attached(true, false)), false, false, "-"),
            ("elsewhere", Some(node(false, false, none())), true, None, true, false, "!"),
        ] {
            let wanted = wanted.then(|| ("pv".to_owned(), disk(false))).into_iter().collect();
            let attachments: Vec<_> = attachment.iter().map(|attachment| (attachment, disk(false))).collect();
            let plan = plan(&View {
                name: "n",
                node: node.as_ref(),
                wanted: &wanted,
                attachments: &attachments,
                elsewhere: &|_| if others { vec!["m".to_owned()] } else { Vec::new() },
                overdue: &|_| overdue,
            });
            assert_eq!(said(&plan), expected, "{what}");
        }
    }

    #[test]
    fn what_many_may_have_goes_to_many_and_only_to_nodes_that_leave_it_to_us() {
        let wanted = [("pv".to_owned(), disk(true))].into();
        let mut node = node(false, false, json!([]));
        let plan = |node: &Node| {
            let elsewhere = |_: &str| vec!["m".to_owned()];
            let overdue = |_: &str| false;
            let (attachments, name) = (&[][..], "n");
            said(&super::plan(&View {
                name,
                node: Some(node),
                wanted: &wanted,
                attachments,
                elsewhere: &elsewhere,
                overdue: &overdue,
            }))
        };
        assert_eq!(plan(&node), "+");
        node.metadata.annotations = None;
        assert_eq!(plan(&node), "");
    }
}
