use serde_json::{Value, json};

use super::forms::{self, Fault};
use super::*;
use crate::decide::Candidate;
use crate::framework::Verdict;
use crate::tests::{info, node, pod};

fn nodes() -> Nodes {
    ["a", "b"].map(|name| (name.to_owned(), Some(Arc::new(node(name, json!({})))))).into()
}

#[test]
fn questions_are_asked_with_nodes_or_with_their_names() {
    let pod = info(pod("p", "1"));
    let whole = forms::about(&pod, &nodes(), false);
    assert_eq!(whole["Pod"]["metadata"]["name"], "p");
    assert_eq!(whole["Nodes"]["items"][1]["metadata"]["name"], "b");
    assert_eq!(whole["NodeNames"], Value::Null);
    let named = forms::about(&pod, &nodes(), true);
    assert_eq!((&named["Nodes"], &named["NodeNames"]), (&Value::Null, &json!(["a", "b"])));
    let binding = json!({"PodName": "p", "PodNamespace": "x", "PodUID": "p", "Node": "a"});
    assert_eq!(forms::binding(&pod, "a"), binding);
}

#[test]
fn answers_are_understood_however_they_are_written() {
    let nonsense = |text: &str| Err(Fault::Nonsense(text.to_owned()));
    let left = |left: &[usize]| Ok(Filtered { left: left.to_vec(), ..Filtered::default() });
    let failed = |node: &str, verdict, why: &str| (node.to_owned(), (verdict, why.to_owned()));
    for (answer, expected) in [
        (json!({"NodeNames": ["b"]}), left(&[1])),
        (json!({"nodenames": ["b", "a"]}), left(&[0, 1])),
        (json!({"nodes": {"items": [{"metadata": {"name": "a"}}]}, "NodeNames": null}), left(&[0])),
        (json!({}), left(&[])),
        (json!({"nodeNames": ["c"]}), nonsense("it leaves node \"c\", which it was not asked about")),
        (json!({"nodeNames": ["a"], "Error": "out of order"}), Err(Fault::Told("out of order".to_owned()))),
        (
            json!({"NodeNames": [], "failedNodes": {"a": "no", "b": "no"}, "FailedAndUnresolvableNodes": {"b": "never"}}),
            Ok(Filtered {
                left: Vec::new(),
                failed: [failed("a", Verdict::Unschedulable, "no"), failed("b", Verdict::Unresolvable, "never")].into(),
            }),
        ),
    ] {
        assert_eq!(forms::filtered(&answer, &nodes()), expected, "{answer}");
    }
    // Ten of an extender are a hundred of the scheduler.
    let scores = forms::scores(&json!([{"host": "b", "score": 10}, {"Host": "c", "Score": 3}]), &nodes());
    assert_eq!(scores, Ok(vec![0, 100]));
    assert!(forms::scores(&json!({"b": 10}), &nodes()).is_err());
    assert_eq!(forms::error(&json!({"error": ""})), Ok(()));
}

#[test]
fn room_is_made_only_of_what_was_offered() {
    let (one, other) = (info(pod("one", "1")), info(pod("other", "1")));
    let offered = [Arc::new(Candidate::new("a", vec![one, other], 1))];
    let asked = forms::room(&info(pod("p", "1")), &offered, true);
    let victims = json!({"a": {"Pods": [{"UID": "one"}, {"UID": "other"}], "NumPDBViolations": 1}});
    assert_eq!((&asked["NodeNameToMetaVictims"], &asked["NodeNameToVictims"]), (&victims, &Value::Null));
    let asked = forms::room(&info(pod("p", "1")), &offered, false);
    assert_eq!(asked["NodeNameToVictims"]["a"]["Pods"][0]["metadata"]["name"], "one");
    let answer =
        |node: &str, pods: Value| json!({"nodeNameToMetaVictims": {node: {"pods": pods, "numPDBViolations": 0}}});
    for (node, pods, lenient, expected) in [
        ("a", json!([{"UID": "other"}]), false, "a: other, 0"),
        ("b", json!([{"UID": "one"}]), false, "it would make room on node \"b\", which it was not asked about"),
        ("a", json!([{"uid": "who"}]), true, "it would have pod \"who\" go from node \"a\", where it is not"),
        ("a", json!([]), false, "expected at least one victim pod on node \"a\""),
        ("a", json!([]), true, ""),
    ] {
        let found = match forms::candidates(&answer(node, pods), &offered, lenient) {
            Ok(found) => found
                .iter()
                .map(|c| format!("{}: {}, {}", c.node, c.victims[0].uid, c.violations()))
                .collect::<String>(),
            Err(Fault::Nonsense(text) | Fault::Told(text)) => text,
        };
        assert_eq!(found, expected);
    }
}
