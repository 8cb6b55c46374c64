//! `/stats/summary`, in the words of `stats/v1alpha1`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::volumes::{DiskUse, PodDisk, VolumeUse};
use super::{Measured, NodeUse, PodUse};
use crate::node::Node;
use crate::os::{Size, Space, Traffic};
use crate::pod::facts;

/// The whole summary.
pub(crate) fn summary(node: &Node, used: &NodeUse, disks: &DiskUse) -> Value {
    let mut whole = json!({
        "nodeName": node.config.name,
        "startTime": text(node.started),
        "cpu": cpu(used.at, &used.whole),
        "memory": memory(used.at, &used.whole, Some(node.facts.memory)),
        "rlimit": {"time": text(used.at), "maxpid": node.facts.max_processes, "curproc": used.whole.usage.processes},
    });
    put(&mut whole, "network", used.traffic.as_ref().map(|traffic| network(used.at, traffic)));
    let space = used.space.as_ref().map(|space| file_system(used.at, space));
    put(&mut whole, "fs", space.clone());
    put(&mut whole, "runtime", space.map(|space| json!({"imageFs": space})));
    let pods = used.pods.iter().map(|pod| one(used, pod, disks.get(facts::uid(&pod.pod))));
    json!({"node": whole, "pods": pods.collect::<Vec<_>>()})
}

fn one(node: &NodeUse, used: &PodUse, disk: Option<&PodDisk>) -> Value {
    let (pod, at) = (&used.pod, node.at);
    let containers = used.containers.iter().map(|container| {
        let (name, started, measured) = (&container.name, container.started, &container.measured);
        let mut told = json!({"name": name, "startTime": started.map(text), "cpu": cpu(at, measured),
            "memory": memory(at, measured, None)});
        if let Some(disk) = disk.and_then(|disk| disk.on_disk.containers.get(name)) {
            put(&mut told, "rootfs", node.space.as_ref().map(|space| part(at, space, disk.layer)));
            put(&mut told, "logs", node.space.as_ref().map(|space| part(at, space, disk.logs)));
        }
        told
    });
    let mut told = json!({
        "podRef": {"name": facts::name(pod), "namespace": facts::namespace(pod), "uid": facts::uid(pod)},
        "startTime": pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| text(time.0)),
        "containers": containers.collect::<Vec<_>>(),
        "cpu": cpu(at, &used.whole),
        "memory": memory(at, &used.whole, None),
        "process_stats": {"process_count": used.whole.usage.processes},
    });
    put(&mut told, "network", used.traffic.as_ref().map(|traffic| network(at, traffic)));
    if let Some(disk) = disk {
        told["volume"] = disk.volumes.iter().map(|volume| one_volume(at, pod, volume)).collect();
        let whole = disk.on_disk.total(pod);
        put(&mut told, "ephemeral-storage", node.space.as_ref().map(|space| part(at, space, whole)));
    }
    told
}

/// What something takes of a file system.
fn part(at: Timestamp, space: &Space, size: Size) -> Value {
    let mut told = file_system(at, space);
    (told["usedBytes"], told["inodesUsed"]) = (size.bytes.into(), size.inodes.into());
    told
}

fn one_volume(at: Timestamp, pod: &Pod, volume: &VolumeUse) -> Value {
    let fill = &volume.fill;
    let mut told = json!({
        "name": volume.name,
        "time": text(at),
        "availableBytes": fill.available,
        "capacityBytes": fill.capacity,
        "usedBytes": fill.used,
        "inodes": fill.inodes,
        "inodesFree": fill.inodes_free,
        "inodesUsed": fill.inodes_used,
    });
    let claim = volume.claim.as_ref().map(|name| json!({"name": name, "namespace": facts::namespace(pod)}));
    put(&mut told, "pvcRef", claim);
    told
}

fn put(value: &mut Value, key: &str, member: Option<Value>) {
    if let Some(member) = member {
        value[key] = member;
    }
}

fn cpu(at: Timestamp, measured: &Measured) -> Value {
    let mut cpu = json!({"time": text(at), "usageCoreNanoSeconds": measured.usage.cpu});
    put(&mut cpu, "usageNanoCores", measured.rate.map(Value::from));
    cpu
}

fn memory(at: Timestamp, measured: &Measured, capacity: Option<u64>) -> Value {
    let usage = &measured.usage;
    let mut memory = json!({
        "time": text(at),
        "usageBytes": usage.memory,
        "workingSetBytes": usage.working_set,
        "rssBytes": usage.rss,
        "pageFaults": usage.page_faults,
        "majorPageFaults": usage.major_page_faults,
    });
    put(&mut memory, "availableBytes", capacity.map(|capacity| json!(capacity.saturating_sub(usage.working_set))));
    memory
}

fn network(at: Timestamp, traffic: &Traffic) -> Value {
    let Traffic { device, received, receive_errors, sent, send_errors } = traffic;
    json!({"time": text(at), "name": device, "rxBytes": received, "rxErrors": receive_errors,
        "txBytes": sent, "txErrors": send_errors})
}

fn file_system(at: Timestamp, space: &Space) -> Value {
    json!({
        "time": text(at),
        "availableBytes": space.available,
        "capacityBytes": space.capacity,
        "usedBytes": space.capacity.saturating_sub(space.free),
        "inodes": space.inodes,
        "inodesFree": space.inodes_free,
        "inodesUsed": space.inodes.saturating_sub(space.inodes_free),
    })
}

fn text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
