//! Variables that tell a container where Services are, as links between containers once did.

use k8s_openapi::api::core::v1::Service;

/// The variables for `services`, whose order decides which of two of the same name counts (the later).
pub(crate) fn variables<'a>(services: impl IntoIterator<Item = &'a Service>) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for service in services {
        describe(service, &mut out);
    }
    out
}

/// Whether a Service has an address of its own.
pub(crate) fn has_address(service: &Service) -> bool {
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
    !address.is_empty() && address != "None"
}

fn describe(service: &Service, out: &mut Vec<(String, String)>) {
    let Some(spec) = service.spec.as_ref().filter(|_| has_address(service)) else { return };
    let address = spec.cluster_ip.as_deref().unwrap_or_default();
    let name = shouted(service.metadata.name.as_deref().unwrap_or_default());
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    out.push((format!("{name}_SERVICE_HOST"), address.to_owned()));
    out.push((format!("{name}_SERVICE_PORT"), first.port.to_string()));
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            out.push((format!("{name}_SERVICE_PORT_{}", shouted(port_name)), port.port.to_string()));
        }
    }
    let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().filter(|protocol| !protocol.is_empty()).unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let url = format!("{lower}://{host}:{}", port.port);
        if index == 0 {
            out.push((format!("{name}_PORT"), url.clone()));
        }
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
        out.push((prefix.clone(), url));
        out.push((format!("{prefix}_PROTO"), lower));
        out.push((format!("{prefix}_PORT"), port.port.to_string()));
        out.push((format!("{prefix}_ADDR"), address.to_owned()));
    }
}

fn shouted(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_is_described() {
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "my-web"}, "spec": {
            "clusterIP": "10.43.0.5", "ports": [{"port": 80, "name": "http"}, {"port": 53, "protocol": "UDP"}]}}))
        .expect("a service");
        let told: Vec<String> =
            variables([&service]).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            told,
            [
                "MY_WEB_SERVICE_HOST=10.43.0.5",
                "MY_WEB_SERVICE_PORT=80",
                "MY_WEB_SERVICE_PORT_HTTP=80",
                "MY_WEB_PORT=tcp://10.43.0.5:80",
                "MY_WEB_PORT_80_TCP=tcp://10.43.0.5:80",
                "MY_WEB_PORT_80_TCP_PROTO=tcp",
                "MY_WEB_PORT_80_TCP_PORT=80",
                "MY_WEB_PORT_80_TCP_ADDR=10.43.0.5",
                "MY_WEB_PORT_53_UDP=udp://10.43.0.5:53",
                "MY_WEB_PORT_53_UDP_PROTO=udp",
                "MY_WEB_PORT_53_UDP_PORT=53",
                "MY_WEB_PORT_53_UDP_ADDR=10.43.0.5",
            ]
        );
        let headless: Service =
            serde_json::from_value(json!({"spec": {"clusterIP": "None", "ports": [{"port": 80}]}})).expect("a service");
        assert!(variables([&headless]).is_empty());
    }
}
