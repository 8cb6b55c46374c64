//! What is said to extenders and understood of them. Members of answers are found however they are capitalized: extenders
//! that are not written in upstream's language write them in several ways.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use crate::cluster::PodInfo;
use crate::decide::Candidate;
use crate::framework::{MAX_SCORE, Verdict};

/// The highest score an extender gives.
const MOST: i64 = 10;

/// Nodes that are asked about, by name.
pub type Nodes = Vec<(String, Option<Arc<Node>>)>;

/// Why an answer cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The extender says so.
    Told(String),
    /// It makes no sense.
    Nonsense(String),
}

/// Which of the nodes are left, and why others are not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    /// The places of those that are left, in the list that was asked about.
    pub left: Vec<usize>,
    /// Those that are not, with whether making room there might help.
    pub failed: BTreeMap<String, (Verdict, String)>,
}

fn member<'v>(value: &'v Value, name: &str) -> &'v Value {
    let known = value.as_object().and_then(|all| all.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)));
    known.map_or(&Value::Null, |(_, value)| value)
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    member(value, name).as_str().unwrap_or_default()
}

/// A question about nodes.
pub(super) fn about(pod: &PodInfo, nodes: &Nodes, by_name: bool) -> Value {
    let (whole, names) = match by_name {
        true => (Value::Null, json!(nodes.iter().map(|(name, _)| name).collect::<Vec<_>>())),
        false => {
            (json!({"metadata": {}, "items": nodes.iter().map(|(_, node)| node).collect::<Vec<_>>()}), Value::Null)
        }
    };
    json!({"Pod": &*pod.pod, "Nodes": whole, "NodeNames": names})
}

/// What the answer says went wrong.
pub(super) fn error(answer: &Value) -> Result<(), Fault> {
    match text(answer, "error") {
        "" => Ok(()),
        said => Err(Fault::Told(said.to_owned())),
    }
}

/// Which nodes the answer leaves.
pub(super) fn filtered(answer: &Value, nodes: &Nodes) -> Result<Filtered, Fault> {
    error(answer)?;
    let names: Vec<&str> = match (member(answer, "nodenames"), member(answer, "nodes")) {
        (Value::Array(names), _) => names.iter().filter_map(Value::as_str).collect(),
        (_, whole) => {
            let items = member(whole, "items").as_array();
            items.into_iter().flatten().map(|node| text(member(node, "metadata"), "name")).collect()
        }
    };
    let place = |name: &str| {
        let place = nodes.iter().position(|(known, _)| known == name);
        place.ok_or_else(|| Fault::Nonsense(format!("it leaves node {name:?}, which it was not asked about")))
    };
    let mut left = names.into_iter().map(place).collect::<Result<Vec<_>, _>>()?;
    left.sort_unstable();
    let mut failed = BTreeMap::new();
    for (field, verdict) in
        [("failednodes", Verdict::Unschedulable), ("failedandunresolvablenodes", Verdict::Unresolvable)]
    {
        for (node, why) in member(answer, field).as_object().into_iter().flatten() {
            failed.insert(node.clone(), (verdict, why.as_str().unwrap_or_default().to_owned()));
        }
    }
    Ok(Filtered { left, failed })
}

/// What the answer adds to the scores, in the scheduler's measure, before it is weighed.
pub(super) fn scores(answer: &Value, nodes: &Nodes) -> Result<Vec<i64>, Fault> {
    let list = answer.as_array().ok_or_else(|| Fault::Nonsense("its scores are no list".to_owned()))?;
    let scores: BTreeMap<&str, i64> =
        list.iter().map(|one| (text(one, "host"), member(one, "score").as_i64().unwrap_or(0))).collect();
    let score = |name: &String| scores.get(name.as_str()).copied().unwrap_or(0).saturating_mul(MAX_SCORE / MOST);
    Ok(nodes.iter().map(|(name, _)| score(name)).collect())
}

/// A question about those who would have to go.
pub(super) fn room(pod: &PodInfo, candidates: &[Arc<Candidate>], by_name: bool) -> Value {
    let mut all = json!({});
    for candidate in candidates {
        let pods: Vec<Value> = candidate
            .victims
            .iter()
            .map(|victim| if by_name { json!({"UID": victim.uid}) } else { json!(&*victim.pod) })
            .collect();
        all[&candidate.node] = json!({"Pods": pods, "NumPDBViolations": candidate.violations()});
    }
    let (whole, names) = if by_name { (Value::Null, all) } else { (all, Value::Null) };
    json!({"Pod": &*pod.pod, "NodeNameToVictims": whole, "NodeNameToMetaVictims": names})
}

/// On which nodes, and of whom, room may be made; `lenient`: nodes on which nobody would go are left out.
pub(super) fn candidates(
    answer: &Value,
    asked: &[Arc<Candidate>],
    lenient: bool,
) -> Result<Vec<Arc<Candidate>>, Fault> {
    let mut found = Vec::new();
    for (node, told) in member(answer, "nodenametometavictims").as_object().into_iter().flatten() {
        let unknown = || Fault::Nonsense(format!("it would make room on node {node:?}, which it was not asked about"));
        let known = asked.iter().find(|candidate| candidate.node == *node).ok_or_else(unknown)?;
        let victim = |pod: &Value| {
            let uid = text(pod, "uid");
            let known = known.victims.iter().find(|victim| victim.uid == uid).cloned();
            known.ok_or_else(|| {
                Fault::Nonsense(format!("it would have pod {uid:?} go from node {node:?}, where it is not"))
            })
        };
        let pods = member(told, "pods").as_array();
        let victims = pods.into_iter().flatten().map(victim).collect::<Result<Vec<_>, _>>()?;
        if victims.is_empty() {
            if lenient {
                continue;
            }
            return Err(Fault::Nonsense(format!("expected at least one victim pod on node {node:?}")));
        }
        let violations = usize::try_from(member(told, "numpdbviolations").as_u64().unwrap_or(0)).unwrap_or(usize::MAX);
        found.push(Arc::new(Candidate::new(node, victims, violations)));
    }
    Ok(found)
}

/// The wish that a pod be bound.
pub(super) fn binding(pod: &PodInfo, node: &str) -> Value {
    json!({"PodName": pod.name(), "PodNamespace": pod.namespace(), "PodUID": pod.uid, "Node": node})
}
