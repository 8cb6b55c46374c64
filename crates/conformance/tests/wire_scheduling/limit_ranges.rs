//! What a namespace says about the resources of its pods.

use http::Method;
use serde_json::{Value, json};

use crate::support::{Api as Run, Outcome, accepted, expect};
use crate::{expect_that, object, unique};

/// Processors, memory and storage.
fn amounts(cpu: &str, memory: &str, storage: &str) -> Value {
    let all = [("cpu", cpu), ("memory", memory), ("ephemeral-storage", storage)];
    all.into_iter()
        .filter(|(_, amount)| !amount.is_empty())
        .map(|(name, amount)| (name.to_owned(), json!(amount)))
        .collect()
}

fn range(labels: Value) -> Value {
    let (least, most) = (amounts("50m", "100Mi", "100Gi"), amounts("500m", "500Mi", "500Gi"));
    let usual = amounts("100m", "200Mi", "200Gi");
    let limit = json!({"type": "Container", "min": least, "max": most, "default": most, "defaultRequest": usual});
    object("LimitRange", "range", json!({"metadata": {"labels": labels}, "spec": {"limits": [limit]}}))
}

fn lower(least: Value) -> Value {
    let mut limits = range(json!({}))["spec"].take();
    limits["limits"][0]["min"] = least;
    json!({"spec": limits})
}

pub(crate) fn defaults(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let path = format!("{home}/limitranges/range");
    let create = |name: &str, requests: Value, limits: Value| {
        let container = json!({"name": "c", "image": "i", "resources": {"requests": requests, "limits": limits}});
        let spec = json!({"schedulerName": "nobody", "containers": [container]});
        run.post(&format!("{home}/pods"), &object("Pod", name, json!({"spec": spec})))
    };
    let resources = |answer: &Value| answer["spec"]["containers"][0]["resources"].clone();
    accepted(&run.post(&format!("{home}/limitranges"), &range(json!({})))?)?;
    let none = || create("nothing", json!({}), json!({}));
    // Servers hear of it a moment later; what was made before goes.
    let made = run.until(none, |answer| {
        let filled = !resources(&answer.tree())["limits"].is_null();
        if answer.code == 201 && !filled {
            let _ = run.json(Method::DELETE, &format!("{home}/pods/nothing"), &json!({"gracePeriodSeconds": 0}));
        }
        filled
    })?;
    let (most, usual) = (amounts("500m", "500Mi", "500Gi"), amounts("100m", "200Mi", "200Gi"));
    expect(resources(&made.tree()) == json!({"requests": usual, "limits": most}), &made)?;
    // Who limits without asking asks for as much.
    let made = create("some", amounts("", "150Mi", "150Gi"), amounts("300m", "", ""))?;
    let wanted = json!({"requests": amounts("300m", "150Mi", "150Gi"), "limits": amounts("300m", "500Mi", "500Gi")});
    expect(resources(&made.tree()) == wanted, &made)?;
    let less = || create("less", amounts("10m", "50Mi", "50Gi"), json!({}));
    let much = || amounts("600m", "600Mi", "600Gi");
    let more = || create("more", much(), much());
    for answer in [less()?, more()?] {
        expect(answer.code == 403, &answer)?;
    }
    accepted(&run.merge(&path, &lower(amounts("9m", "49Mi", "49Gi")))?)?;
    run.until(less, |answer| answer.code == 201)?;
    let answer = more()?;
    expect(answer.code == 403, &answer)?;
    accepted(&run.json(Method::DELETE, &path, &Value::Null)?)?;
    run.until(more, |answer| answer.code == 201).map(drop)
}

pub(crate) fn together(run: &mut Run) -> Outcome {
    let homes = [run.namespace(json!({}))?, run.namespace(json!({}))?];
    for home in &homes {
        accepted(
            &run.post(&format!("{home}/limitranges"), &range(json!({"case": unique("ranges"), "state": "new"})))?,
        )?;
    }
    let list = |labels: &str| {
        let answer = run.json(Method::GET, &format!("/api/v1/limitranges?labelSelector={labels}"), &Value::Null)?;
        accepted(&answer)?;
        let items = answer.tree()["items"].as_array().cloned().unwrap_or_default();
        Ok::<_, String>(items.iter().map(|range| range["metadata"]["namespace"].clone()).collect::<Vec<_>>())
    };
    let (all, changed) = (format!("case={}", unique("ranges")), format!("case={},state=changed", unique("ranges")));
    let found = list(&all)?;
    expect_that(found.len() == 2, || format!("in {found:?}"))?;
    let least = amounts("9m", "49Mi", "49Gi");
    let mut change = lower(least.clone());
    change["metadata"] = json!({"labels": {"state": "changed"}});
    let answer = run.merge(&format!("{}/limitranges/range", homes[0]), &change)?;
    expect(answer.tree()["spec"]["limits"][0]["min"] == least, &answer)?;
    let collection = format!("{}/limitranges?labelSelector=state%3Dchanged", homes[0]);
    accepted(&run.json(Method::DELETE, &collection, &Value::Null)?)?;
    let (left, gone) = (list(&all)?, list(&changed)?);
    expect_that(left.len() == 1 && gone.is_empty(), || format!("{left:?} and {gone:?} are left"))
}
