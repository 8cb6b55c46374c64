//! Taints that pods leave a node for.

use serde_json::{Value, json};

use crate::support::{Api as Run, accepted};
use crate::{PODS, expect_that, template, unique};

/// A toleration of a taint, for so many seconds where that is said.
fn bears(taint: &str, seconds: Value) -> Value {
    json!({"key": taint, "operator": "Equal", "value": "v", "effect": "NoExecute", "tolerationSeconds": seconds})
}

pub(crate) fn evictions(run: &mut Run) -> Result<(), String> {
    let (path, on) = (run.home()?, unique("tainted"));
    let node = run.make_node(&on, json!({}))?;
    let pod = |name: &str, tolerations: Value| -> Result<(), String> {
        let mut pod = PODS.object(name, template(json!({}), "i"));
        (pod["spec"]["nodeName"], pod["spec"]["tolerations"]) = (json!(on), tolerations);
        accepted(&run.post(&format!("{path}/pods"), &pod)?)
    };
    let taint = |keys: &[&str]| {
        let taint = |key: &&str| json!({"key": key, "value": "v", "effect": "NoExecute"});
        run.change(&node, json!({"spec": {"taints": keys.iter().map(taint).collect::<Vec<_>>()}}))
    };
    let gone = |name: &str| run.comes("no such pod", PODS, &path, name, Value::is_null).map(drop);
    // This taint is taken away before the time of the one that bears it for a while is over.
    pod("spared", json!([bears("brief", json!(4)), bears("lasting", Value::Null)]))?;
    pod("first", json!([]))?;
    taint(&["brief"])?;
    gone("first")?;
    taint(&[])?;
    pod("always", json!([bears("lasting", Value::Null)]))?;
    pod("late", json!([bears("lasting", json!(3600))]))?;
    pod("soon", json!([bears("lasting", json!(1))]))?;
    pod("last", json!([bears("lasting", json!(6))]))?;
    pod("never", json!([]))?;
    taint(&["lasting"])?;
    ["never", "soon", "last"].into_iter().try_for_each(gone)?;
    let left = run.pods(&path, 3, |_| true)?;
    expect_that(left == ["always", "late", "spared"], || format!("{left:?} are left"))
}
