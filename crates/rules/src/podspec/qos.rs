//! Quality of service: how sure a pod can be of what it uses (`pkg/apis/core/helper/qos`).

use serde_json::Value;
use skiff_meta::Quantity;

use crate::view::View;

const COMPUTE: [&str; 2] = ["cpu", "memory"];

fn amount(resources: &Value, list: &str, name: &str) -> Option<Quantity> {
    let quantity = Quantity::from_json(resources.get_or_null(list).get_or_null(name)).ok()?;
    (!quantity.is_zero() && !quantity.is_negative()).then_some(quantity)
}

/// What the containers of a pod request together; init containers that do not stay count where they need more.
pub(crate) fn total_requests(spec: &Value, name: &str) -> Option<Quantity> {
    let request = |container: &Value| amount(container.get_or_null("resources"), "requests", name);
    let mut total = spec.items("containers").iter().filter_map(request).reduce(Quantity::plus);
    let (mut peak, mut sidecars): (Option<Quantity>, Option<Quantity>) = (None, None);
    let add = |a: Option<Quantity>, b: Option<Quantity>| [a, b].into_iter().flatten().reduce(Quantity::plus);
    for container in spec.items("initContainers") {
        if container.text("restartPolicy") == "Always" {
            sidecars = add(sidecars, request(container));
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(add(sidecars, request(container)));
        }
    }
    total = add(total, sidecars);
    total.max(peak)
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub(crate) fn class(spec: &Value) -> &'static str {
    let own = spec.get_or_null("resources");
    if own.count("limits") > 0 || own.count("requests") > 0 {
        return of(std::iter::once(own));
    }
    let lists = ["containers", "initContainers"];
    of(lists.into_iter().flat_map(|list| spec.items(list)).map(|container| container.get_or_null("resources")))
}

fn of<'v>(all: impl Iterator<Item = &'v Value>) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for resources in all {
        for name in COMPUTE {
            let (request, limit) = (amount(resources, "requests", name), amount(resources, "limits", name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn classes() {
        let full = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}});
        for (resources, expected) in [
            (json!([{}]), "BestEffort"),
            (json!([{"requests": {"cpu": "0"}}]), "BestEffort"),
            (json!([{"requests": {"cpu": "1"}}]), "Burstable"),
            (json!([full]), "Guaranteed"),
            (json!([full, {}]), "Burstable"),
            (json!([{"requests": {"cpu": "1"}, "limits": {"cpu": "2", "memory": "1"}}]), "Burstable"),
        ] {
            let containers: Vec<_> = resources.as_array().unwrap().iter().map(|r| json!({"resources": r})).collect();
            assert_eq!(class(&json!({"containers": containers})), expected, "{resources}");
        }
    }

    #[test]
    fn init_containers_count_where_they_need_more() {
        let ask = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = ask("100m");
        sidecar["restartPolicy"] = json!("Always");
        let spec = json!({"containers": [ask("200m"), ask("300m")], "initContainers": [sidecar, ask("1")]});
        assert_eq!(total_requests(&spec, "cpu").map(|q| q.to_string()), Some("1100m".to_owned()));
        assert_eq!(total_requests(&spec, "memory").map(|q| q.to_string()), None);
    }
}
