//! Disruption budgets, and the evictions that wait for them.

use serde_json::{Value, json};

use crate::support::{Api as Run, accepted, expect};
use crate::{BUDGETS, PODS, REPLICA_SETS, ready, says, workload};

/// A ReplicaSet whose pods are all ready; their names.
fn guarded(run: &Run, path: &str, pods: usize) -> Result<Vec<String>, String> {
    run.create(path, REPLICA_SETS, "set", workload("guarded", pods, json!({})))?;
    let names = run.pods(path, pods, |_| true)?;
    names.iter().try_for_each(|name| run.fares(path, name, ready()))?;
    Ok(names)
}

fn budget(other: Value) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": "guarded"}}});
    for (name, value) in other.as_object().into_iter().flatten() {
        spec[name] = value.clone();
    }
    spec
}

pub(crate) fn eviction(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let names = guarded(run, &path, 2)?;
    let made = run.create(&path, BUDGETS, "b", budget(json!({"minAvailable": 2})))?;
    let allows =
        |count: i32| move |budget: &Value| says(budget, &json!({"currentHealthy": 2, "disruptionsAllowed": count}));
    run.comes("a budget that is used up", BUDGETS, &path, "b", allows(0))?;
    let evict = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": names[0]}});
    let refused = run.post(&format!("{path}/pods/{}/eviction", names[0]), &evict)?;
    expect(refused.code == 429 && refused.causes() == [("DisruptionBudget".to_owned(), String::new())], &refused)?;
    run.change(&made, json!({"spec": {"minAvailable": 1}}))?;
    run.comes("a budget that allows one", BUDGETS, &path, "b", allows(1))?;
    accepted(&run.post(&format!("{path}/pods/{}/eviction", names[0]), &evict)?)?;
    run.see("another pod", PODS.gvr(), &path, |seen| seen.len() == 2 && !seen.contains_key(&names[0])).map(drop)
}

pub(crate) fn counts(run: &mut Run) -> Result<(), String> {
    let path = run.home()?;
    let names = guarded(run, &path, 5)?;
    let unready = json!({"conditions": [{"type": "Ready", "status": "False"}]});
    run.fares(&path, &names[0], unready)?;
    // Of five, of whom four are healthy: how many have to be, and how many may go.
    for (number, (what, desired, allowed)) in [
        (json!({"minAvailable": 3}), 3, 1),
        (json!({"minAvailable": "50%"}), 3, 1),
        (json!({"minAvailable": "100%"}), 5, 0),
        (json!({"maxUnavailable": 2}), 3, 1),
        (json!({"maxUnavailable": "30%"}), 3, 1),
        (json!({"maxUnavailable": 0}), 5, 0),
        (json!({"minAvailable": 9}), 9, 0),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("b{number}");
        run.create(&path, BUDGETS, &name, budget(what.clone()))?;
        let status = json!({"expectedPods": 5, "currentHealthy": 4, "desiredHealthy": desired,
            "disruptionsAllowed": allowed});
        run.comes(&what.to_string(), BUDGETS, &path, &name, |budget| says(budget, &status))?;
    }
    Ok(())
}
