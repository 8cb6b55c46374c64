//! What Services and Ingresses tell of the balancers in front of them (`status.loadBalancer`).

use serde_json::Value;
use skiff_meta::field::{FieldError, FieldErrors};
use skiff_meta::names;

use super::ingress::not_ip;
use crate::addresses::ip;
use crate::at::At;
use crate::view::View;

/// Faults of an ingress point's name: a name, and no address.
pub(super) fn hostname(point: &At<'_>, out: &mut FieldErrors) {
    point.form("hostname", names::dns1123_subdomain, out);
    not_ip(point, "hostname", out);
}

/// Faults of a Service's status: only balanced Services have ingress points, each with an address and its mode, or a name.
pub(super) fn of_service(new: &Value, old: &Value, out: &mut FieldErrors) {
    let balancer = At::member(new, "status").get("loadBalancer");
    if new.at("spec").text("type") != "LoadBalancer" && balancer.value.count("ingress") > 0 {
        return balancer.forbidden("ingress", "may only be used when `spec.type` is 'LoadBalancer'", out);
    }
    let before = old.at("status.loadBalancer").items("ingress");
    for point in balancer.items("ingress") {
        let (address, mode) = (point.text("ip"), point.get("ipMode"));
        // Addresses of old may be of a form that new ones may not be.
        if !address.is_empty() && !before.iter().any(|known| known.text("ip") == address) {
            ip(&point.get("ip"), out);
        }
        if !mode.is_set() && !address.is_empty() {
            out.push(FieldError::required(&mode.path, "must be specified when `ip` is set"));
        } else if mode.is_set() && address.is_empty() {
            point.forbidden("ipMode", "may not be specified when `ip` is not set", out);
        } else if mode.is_set() {
            point.optional_one_of("ipMode", &["Proxy", "VIP"], out);
        }
        hostname(&point, out);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(kind: &str, points: Value, before: Value) -> Vec<String> {
        let service = |points| json!({"spec": {"type": kind}, "status": {"loadBalancer": {"ingress": points}}});
        let mut out = FieldErrors::new();
        of_service(&service(points), &service(before), &mut out);
        out.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_balanced_services_have_ingress_points_and_sound_ones() {
        let sound = json!([{"ip": "192.0.2.1", "ipMode": "VIP"}, {"hostname": "lb.example.com"}]);
        assert_eq!(found("LoadBalancer", sound.clone(), json!([])), [""; 0]);
        let why = "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'";
        assert_eq!(found("ClusterIP", sound, json!([])), [why]);
        for (point, fault) in [
            (json!({"ip": "192.0.2.1"}), "ipMode: Required value: must be specified when `ip` is set"),
            (json!({"ipMode": "VIP"}), "ipMode: Forbidden: may not be specified when `ip` is not set"),
            (
                json!({"ip": "192.0.2.1", "ipMode": "X"}),
                "ipMode: Unsupported value: \"X\": supported values: \"Proxy\", \"VIP\"",
            ),
            (
                json!({"hostname": "192.0.2.1"}),
                "hostname: Invalid value: \"192.0.2.1\": must be a DNS name, not an IP address",
            ),
            (json!({"hostname": "A_b"}), "hostname: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain"),
        ] {
            let all = found("LoadBalancer", json!([point]), json!([]));
            assert!(all[0].starts_with(&format!("status.loadBalancer.ingress[0].{fault}")), "{all:?}");
        }
        let old = json!([{"ip": "192.000.002.001", "ipMode": "VIP"}]);
        assert!(!found("LoadBalancer", old.clone(), json!([])).is_empty());
        assert_eq!(found("LoadBalancer", old.clone(), old), [""; 0]);
    }
}
