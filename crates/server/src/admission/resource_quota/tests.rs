use super::*;
use crate::admission::testing::Trial;
use crate::auth::testing::Frozen;

fn trial(quotas: &[Value]) -> Trial<ResourceQuota> {
    let trial = Trial::new(ResourceQuota::new(Frozen::at(0), Vec::new()));
    for quota in quotas {
        trial.view.put("resourcequotas", quota.clone());
    }
    trial
}

/// A quota that has been counted.
fn quota(name: &str, hard: Value, used: Value, spec: Value) -> Value {
    let mut quota = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec,
        "status": {"hard": hard, "used": used}});
    quota["spec"]["hard"] = quota["status"]["hard"].clone();
    quota
}

fn pod(cpu: &str) -> Value {
    json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": [
        {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
}

/// What is used afterwards, quota by quota.
fn used(extra: &Extra) -> Value {
    let put = |write: &Write| match write {
        Write::Put { value, .. } => serde_json::from_slice::<Value>(value).unwrap()["status"]["used"].clone(),
        Write::Delete { .. } => panic!("quotas stay"),
    };
    assert_eq!(extra.compare.len(), extra.writes.len());
    extra.writes.iter().map(put).collect()
}

#[test]
fn what_fits_is_charged_and_what_does_not_is_refused() {
    let quotas = [
        quota("a", json!({"pods": "3", "cpu": "2"}), json!({"pods": "1", "cpu": "500m"}), json!({})),
        quota("b", json!({"requests.cpu": "2"}), json!({"requests.cpu": "1"}), json!({})),
        quota("c", json!({"services": "2"}), json!({"services": "2"}), json!({})),
    ];
    let trial = trial(&quotas);
    let create = |pod: Value| trial.create("pods").namespace("ns").name("p").validate(&pod);
    let fits = create(pod("750m")).unwrap();
    assert_eq!(used(&fits), json!([{"pods": "2", "cpu": "1250m"}, {"requests.cpu": "1750m"}]));
    assert!(fits.turn.is_some());
    drop(fits);
    let cases = [
        (
            pod("1200m"),
            "exceeded quota: b, requested: requests.cpu=1200m, used: requests.cpu=1, limited: requests.cpu=2",
        ),
        (pod("1600m"), "exceeded quota: a, requested: cpu=1600m, used: cpu=500m, limited: cpu=2"),
        (
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "x"}], "initContainers": [{"name": "i"}]}}),
            "failed quota: a: must specify cpu for: i,x",
        ),
    ];
    for (pod, why) in cases {
        let refusal = create(pod).unwrap_err();
        assert_eq!((refusal.code, refusal.message), (403, format!("pods \"p\" is forbidden: {why}")));
    }
    let service = json!({"metadata": {"name": "s"}, "spec": {}});
    let refusal = trial.create("services").namespace("ns").name("s").validate(&service).unwrap_err();
    assert!(
        refusal.message.ends_with("exceeded quota: c, requested: services=1, used: services=2, limited: services=2")
    );
    assert!(trial.create("secrets").namespace("ns").validate(&json!({})).unwrap().writes.is_empty());
    assert!(trial.create("pods").namespace("other").validate(&pod("9")).unwrap().writes.is_empty());
}

#[test]
fn nothing_comes_in_before_the_quota_was_counted() {
    let trial = trial(&[quota("q", json!({"pods": "3", "cpu": "2"}), json!({}), json!({}))]);
    let refusal = trial.create("pods").namespace("ns").name("p").validate(&pod("1")).unwrap_err();
    assert_eq!(refusal.message, "pods \"p\" is forbidden: status unknown for quota: q, resources: cpu,pods");
}

#[test]
fn any_resource_can_be_counted() {
    let hard = json!({"count/boats.example.com": "1", "secrets": "5", "count/secrets": "5"});
    let trial = trial(&[quota(
        "q",
        hard,
        json!({"count/boats.example.com": "1", "secrets": "0", "count/secrets": "0"}),
        json!({}),
    )]);
    let refusal = trial.create("boats.example.com").namespace("ns").name("b").validate(&json!({})).unwrap_err();
    assert!(
        refusal.message.starts_with("boats.example.com \"b\" is forbidden: exceeded quota: q, requested: count/boats")
    );
    let secret = trial.create("secrets").namespace("ns").validate(&json!({})).unwrap();
    assert_eq!(used(&secret), json!([{"count/boats.example.com": "1", "secrets": "1", "count/secrets": "1"}]));
}

#[test]
fn scopes_choose_and_updates_pay_the_difference() {
    let scoped =
        |name: &str, scope: &str| quota(name, json!({"pods": "1"}), json!({"pods": "0"}), json!({"scopes": [scope]}));
    let mut full = scoped("ends", "Terminating");
    full["status"]["used"]["pods"] = json!("1");
    let trial = trial(&[full, scoped("stays", "NotTerminating")]);
    let stays = trial.create("pods").namespace("ns").validate(&pod("1")).unwrap();
    assert_eq!(used(&stays), json!([{"pods": "1"}]));
    drop(stays);
    let mut ends = pod("1");
    ends["spec"]["activeDeadlineSeconds"] = json!(5);
    let refusal = trial.update("pods", pod("1")).namespace("ns").validate(&ends).unwrap_err();
    assert!(refusal.message.contains("exceeded quota: ends"), "{}", refusal.message);
    let other = trial.update("pods", pod("1")).namespace("ns").validate(&pod("1")).unwrap();
    assert!(other.writes.is_empty());

    let claims = Trial::new(ResourceQuota::new(Frozen::at(0), Vec::new()));
    claims.view.put(
        "resourcequotas",
        quota("q", json!({"requests.storage": "5Gi"}), json!({"requests.storage": "2Gi"}), json!({})),
    );
    let claim = |size: &str| json!({"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": size}}}});
    let update = |old: &str, new: &str| {
        claims.update("persistentvolumeclaims", claim(old)).namespace("ns").validate(&claim(new))
    };
    assert_eq!(used(&update("2Gi", "4Gi").unwrap()), json!([{"requests.storage": "4Gi"}]));
    assert!(update("2Gi", "6Gi").is_err());
    assert!(update("9Gi", "8Gi").unwrap().writes.is_empty(), "less is always allowed");
}

#[test]
fn what_is_limited_needs_a_quota_that_covers_it() {
    let limited = |limits: Value| serde_json::from_value::<Vec<LimitedResource>>(limits).unwrap();
    let cpu = json!([{"resource": "pods", "matchContains": ["requests.cpu"]},
        {"apiGroup": "apps", "resource": "pods", "matchContains": ["pods"]}]);
    let scopes = [json!({"scopeName": "PriorityClass", "operator": "In", "values": ["high"]})];
    let high = json!([{"resource": "pods", "matchScopes": scopes}]);
    let mut important = pod("1");
    important["spec"]["priorityClassName"] = json!("high");
    let of_cpu = quota("q", json!({"requests.cpu": "2"}), json!({"requests.cpu": "0"}), json!({}));
    let of_pods = quota("q", json!({"pods": "2"}), json!({"pods": "0"}), json!({}));
    let selector = json!({"scopeSelector": {"matchExpressions": scopes}});
    let of_high = quota("q", json!({"pods": "2"}), json!({"pods": "0"}), selector);
    for (limits, quotas, pod, why) in [
        (&cpu, vec![], pod("1"), Some("insufficient quota to consume: requests.cpu")),
        (&cpu, vec![&of_pods], pod("1"), Some("insufficient quota to consume: requests.cpu")),
        (&cpu, vec![&of_cpu], pod("1"), None),
        (&cpu, vec![], pod("0"), None),
        (&high, vec![&of_pods], pod("1"), None),
        (
            &high,
            vec![&of_pods],
            important.clone(),
            Some("insufficient quota to match these scopes: [{PriorityClass In [high]}]"),
        ),
        (&high, vec![&of_high], important.clone(), None),
    ] {
        let trial = Trial::new(ResourceQuota::new(Frozen::at(0), limited(limits.clone())));
        for quota in quotas {
            trial.view.put("resourcequotas", quota.clone());
        }
        let judged = trial.create("pods").namespace("ns").name("p").validate(&pod);
        let refused = judged.err().map(|status| status.message);
        let wanted = why.map(|why| format!("pods \"p\" is forbidden: {why}"));
        assert_eq!(refused, wanted, "{limits}");
    }
}
