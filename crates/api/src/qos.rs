//! Quality of service: who is starved and evicted first (`pkg/apis/core/v1/helper/qos` upstream).

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};

use crate::resources::{ResourceList, add, parse};

/// The three classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QosClass {
    /// Nothing was asked for.
    BestEffort,
    /// Something was.
    Burstable,
    /// Every container is limited in cpu and memory to what it requests.
    Guaranteed,
}

impl QosClass {
    /// As `status.qosClass` says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BestEffort => "BestEffort",
            Self::Burstable => "Burstable",
            Self::Guaranteed => "Guaranteed",
        }
    }
}

/// The class of a pod. Resources of the pod as a whole, where given, are all that counts.
pub fn qos_class(spec: &PodSpec) -> QosClass {
    let own = spec.resources.as_ref();
    let (mut requests, mut limits) = (ResourceList::new(), ResourceList::new());
    let mut all_limited = true;
    let mut take = |resources: Option<&ResourceRequirements>| {
        add(&mut requests, &counted(resources.map(|r| parse(&r.requests))));
        let limited = counted(resources.map(|r| parse(&r.limits)));
        all_limited &= limited.len() == 2;
        add(&mut limits, &limited);
    };
    if own.is_some() {
        take(own);
    } else {
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        containers.for_each(|c| take(c.resources.as_ref()));
    }
    if requests.is_empty() && limits.is_empty() {
        QosClass::BestEffort
    } else if all_limited && requests == limits {
        QosClass::Guaranteed
    } else {
        QosClass::Burstable
    }
}

/// Cpu and memory above zero.
fn counted(list: Option<ResourceList>) -> ResourceList {
    let positive = |name: &String, amount: &mut skiff_meta::Quantity| {
        (name == "cpu" || name == "memory") && !amount.is_zero() && !amount.is_negative()
    };
    let mut list = list.unwrap_or_default();
    list.retain(positive);
    list
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn table() {
        let full = json!({"cpu": "1", "memory": "1Gi"});
        let equal = json!({"requests": full, "limits": full});
        let half = json!({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": full});
        let gpu = json!({"limits": {"example.com/gpu": "1"}});
        let class = |containers: Vec<Value>, init: Vec<Value>, pod: Value| {
            let named = |r: &Value| json!({"name": "x", "resources": r});
            let spec = json!({"containers": containers.iter().map(named).collect::<Vec<_>>(),
                "initContainers": init.iter().map(named).collect::<Vec<_>>(), "resources": pod});
            qos_class(&serde_json::from_value(spec).unwrap()).as_str()
        };
        let none = Value::Null;
        assert_eq!(class(vec![json!({})], vec![], none.clone()), "BestEffort");
        assert_eq!(class(vec![gpu], vec![], none.clone()), "BestEffort");
        assert_eq!(class(vec![equal.clone()], vec![], none.clone()), "Guaranteed");
        assert_eq!(class(vec![equal.clone(), json!({})], vec![], none.clone()), "Burstable");
        assert_eq!(class(vec![equal.clone()], vec![json!({})], none.clone()), "Burstable");
        assert_eq!(class(vec![half.clone()], vec![], none.clone()), "Burstable");
        assert_eq!(class(vec![json!({"requests": {"cpu": "1"}})], vec![], none.clone()), "Burstable");
        assert_eq!(class(vec![json!({"limits": {"cpu": "0"}})], vec![], none), "BestEffort");
        assert_eq!(class(vec![json!({})], vec![], equal), "Guaranteed");
        assert_eq!(class(vec![json!({})], vec![], half), "Burstable");
        assert_eq!(class(vec![json!({})], vec![], json!({"limits": {"cpu": "1"}})), "Burstable");
    }
}
