//! `/metrics/resource`: what autoscalers and dashboards scrape, in Prometheus' text form.

use std::fmt::Write;

use jiff::Timestamp;

use super::NodeUse;
use crate::pod::facts;

/// One family of metrics while it is written.
struct Family {
    text: String,
    at: i64,
}

impl Family {
    fn new(name: &str, help: &str, kind: &str, at: i64) -> Self {
        Self { text: format!("# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}\n"), at }
    }
    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{name}{labels} {value} {}", self.at);
    }
}

/// All of it.
pub(crate) fn metrics(used: &NodeUse) -> String {
    let at = used.at.as_millisecond();
    let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
    let bytes = |bytes: u64| bytes as f64;
    let mut out = String::new();
    let mut family = |name: &str, help: &str, kind: &str, fill: &dyn Fn(&mut Family)| {
        let mut family = Family::new(name, help, kind, at);
        fill(&mut family);
        out.push_str(&family.text);
    };
    let each = |family: &mut Family, name: &str, value: &dyn Fn(&super::Measured, Option<Timestamp>) -> Option<f64>| {
        for pod in &used.pods {
            for container in &pod.containers {
                let labels = [
                    ("container", &*container.name),
                    ("namespace", facts::namespace(&pod.pod)),
                    ("pod", facts::name(&pod.pod)),
                ];
                if let Some(value) = value(&container.measured, container.started) {
                    family.line(name, &labels, value);
                }
            }
        }
    };
    let whole = |family: &mut Family, name: &str, value: &dyn Fn(&super::Measured) -> f64| {
        for pod in &used.pods {
            let labels = [("namespace", facts::namespace(&pod.pod)), ("pod", facts::name(&pod.pod))];
            family.line(name, &labels, value(&pod.whole));
        }
    };
    let name = "container_cpu_usage_seconds_total";
    family(name, "Cumulative cpu time consumed by the container in core-seconds", "counter", &|family| {
        each(family, name, &|measured, _| Some(seconds(measured.usage.cpu)));
    });
    let name = "container_memory_working_set_bytes";
    family(name, "Current working set of the container in bytes", "gauge", &|family| {
        each(family, name, &|measured, _| Some(bytes(measured.usage.working_set)));
    });
    let name = "container_start_time_seconds";
    family(name, "Start time of the container since unix epoch in seconds", "gauge", &|family| {
        each(family, name, &|_, started| started.map(|time| time.as_millisecond() as f64 / 1e3));
    });
    let name = "node_cpu_usage_seconds_total";
    family(name, "Cumulative cpu time consumed by the node in core-seconds", "counter", &|family| {
        family.line(name, &[], seconds(used.whole.usage.cpu));
    });
    let name = "node_memory_working_set_bytes";
    family(name, "Current working set of the node in bytes", "gauge", &|family| {
        family.line(name, &[], bytes(used.whole.usage.working_set));
    });
    let name = "pod_cpu_usage_seconds_total";
    family(name, "Cumulative cpu time consumed by the pod in core-seconds", "counter", &|family| {
        whole(family, name, &|measured| seconds(measured.usage.cpu));
    });
    let name = "pod_memory_working_set_bytes";
    family(name, "Current working set of the pod in bytes", "gauge", &|family| {
        whole(family, name, &|measured| bytes(measured.usage.working_set));
    });
    out.push_str(
        "# HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise\n",
    );
    out.push_str("# TYPE resource_scrape_error gauge\nresource_scrape_error 0\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::Usage;
    use crate::stats::{ContainerUse, Measured, PodUse};
    use serde_json::json;

    #[test]
    fn families_in_prometheus_form() {
        let pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}})).expect("a pod");
        let measured =
            Measured { usage: Usage { cpu: 1_500_000_000, working_set: 4096, ..Usage::default() }, rate: None };
        let at = Timestamp::from_second(2).expect("in range");
        let (name, id, image) = ("c".to_owned(), "1".to_owned(), "i".to_owned());
        let containers = vec![ContainerUse { name, id, image, started: Some(at), measured }];
        let (pod, group) = (std::sync::Arc::new(pod), "podu".to_owned());
        let one = PodUse { pod, whole: measured, traffic: None, group, containers };
        let told = metrics(&NodeUse { at, whole: measured, traffic: None, space: None, pods: vec![one] });
        for line in [
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 1.5 2000",
            "container_start_time_seconds{container=\"c\",namespace=\"n\",pod=\"p\"} 2 2000",
            "pod_memory_working_set_bytes{namespace=\"n\",pod=\"p\"} 4096 2000",
            "node_cpu_usage_seconds_total 1.5 2000",
            "resource_scrape_error 0",
        ] {
            assert!(told.lines().any(|told| told == line), "{line} is not in\n{told}");
        }
    }
}
