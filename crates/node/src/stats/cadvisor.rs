//! `/metrics/cadvisor`: the same measurements under the names that dashboards of containers ask for.
//!
//! Each container, each pod as a whole (no container name, no image), and the node (`id="/"`).

use std::fmt::Write;

use super::{Measured, NodeUse};
use crate::os::Traffic;
use crate::pod::facts;

/// One line's labels, in upstream's order.
fn labels(container: &str, id: &str, image: &str, name: &str, namespace: &str, pod: &str) -> String {
    format!("container={container:?},id={id:?},image={image:?},name={name:?},namespace={namespace:?},pod={pod:?}")
}

type Value = fn(&Measured) -> f64;
type Flow = fn(&Traffic) -> u64;

const MEASURES: [(&str, &str, &str, Value); 8] = [
    ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |m| {
        m.usage.cpu as f64 / 1e9
    }),
    ("container_memory_usage_bytes", "gauge", "Current memory usage in bytes, caches included.", |m| {
        m.usage.memory as f64
    }),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |m| m.usage.working_set as f64),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |m| m.usage.rss as f64),
    ("container_memory_cache", "gauge", "Number of bytes of page cache memory.", |m| {
        m.usage.memory.saturating_sub(m.usage.rss) as f64
    }),
    ("container_memory_page_faults_total", "counter", "Cumulative count of page faults.", |m| {
        m.usage.page_faults as f64
    }),
    ("container_memory_major_page_faults_total", "counter", "Cumulative count of major page faults.", |m| {
        m.usage.major_page_faults as f64
    }),
    ("container_processes", "gauge", "Number of processes running inside the container.", |m| m.usage.processes as f64),
];

const FLOWS: [(&str, &str, Flow); 4] = [
    ("container_network_receive_bytes_total", "Cumulative count of bytes received.", |t| t.received),
    ("container_network_receive_errors_total", "Cumulative count of errors while receiving.", |t| t.receive_errors),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes sent.", |t| t.sent),
    ("container_network_transmit_errors_total", "Cumulative count of errors while sending.", |t| t.send_errors),
];

/// All of it.
pub(crate) fn containers(used: &NodeUse) -> String {
    let at = used.at.as_millisecond();
    let mut groups = vec![(labels("", "/", "", "", "", ""), &used.whole)];
    let mut started = Vec::new();
    let mut networks = vec![(labels("", "/", "", "", "", ""), used.traffic.as_ref())];
    for pod in &used.pods {
        let (namespace, name) = (facts::namespace(&pod.pod), facts::name(&pod.pod));
        let group = format!("/kubepods/{}", pod.group);
        let whole = labels("", &group, "", "", namespace, name);
        networks.push((whole.clone(), pod.traffic.as_ref()));
        groups.push((whole, &pod.whole));
        for one in &pod.containers {
            let own = labels(&one.name, &format!("{group}/{}", one.id), &one.image, &one.id, namespace, name);
            started.extend(one.started.map(|time| (own.clone(), time.as_millisecond() as f64 / 1e3)));
            groups.push((own, &one.measured));
        }
    }
    let mut out = String::new();
    // Writing to a string cannot fail.
    for (name, kind, help, value) in MEASURES {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, measured) in &groups {
            let _ = writeln!(out, "{name}{{{labels}}} {} {at}", value(measured));
        }
    }
    let name = "container_start_time_seconds";
    let _ =
        writeln!(out, "# HELP {name} Start time of the container since unix epoch in seconds.\n# TYPE {name} gauge");
    for (labels, seconds) in started {
        let _ = writeln!(out, "{name}{{{labels}}} {seconds} {at}");
    }
    for (name, help, flow) in FLOWS {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
        for (labels, traffic) in networks.iter().filter_map(|(labels, traffic)| Some((labels, (*traffic)?))) {
            let _ = writeln!(out, "{name}{{{labels},interface={:?}}} {} {at}", traffic.device, flow(traffic));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::Usage;
    use crate::stats::{ContainerUse, PodUse};
    use jiff::Timestamp;
    use serde_json::json;

    #[test]
    fn containers_pods_and_the_node() {
        let pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}})).expect("a pod");
        let usage = Usage { cpu: 1_500_000_000, memory: 9, rss: 4, ..Usage::default() };
        let measured = Measured { usage, rate: None };
        let at = Timestamp::from_second(2).expect("in range");
        let (name, id, image) = ("c".to_owned(), "1".to_owned(), "i".to_owned());
        let containers = vec![ContainerUse { name, id, image, started: Some(at), measured }];
        let traffic = Some(Traffic { device: "eth0".into(), received: 7, ..Traffic::default() });
        let (pod, group) = (std::sync::Arc::new(pod), "burstable/podu".to_owned());
        let one = PodUse { pod, whole: measured, traffic, group, containers };
        let told = super::containers(&NodeUse { at, whole: measured, traffic: None, space: None, pods: vec![one] });
        let own = "container=\"c\",id=\"/kubepods/burstable/podu/1\",image=\"i\",name=\"1\",namespace=\"n\",pod=\"p\"";
        let whole = "container=\"\",id=\"/kubepods/burstable/podu\",image=\"\",name=\"\",namespace=\"n\",pod=\"p\"";
        for line in [
            format!("container_cpu_usage_seconds_total{{{own}}} 1.5 2000"),
            format!("container_memory_cache{{{own}}} 5 2000"),
            format!("container_start_time_seconds{{{own}}} 2 2000"),
            format!("container_network_receive_bytes_total{{{whole},interface=\"eth0\"}} 7 2000"),
        ] {
            assert!(told.lines().any(|told| told == line), "{line} is not in\n{told}");
        }
        assert!(told.contains("container_memory_rss{container=\"\",id=\"/\""));
    }
}
