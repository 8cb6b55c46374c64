//! Services and names.

use serde_json::json;

use crate::support::{Cluster, LONG, holds, page, soon};

const GREETING: &str = "A declaration became a running pod";

pub(crate) fn example_is_reached(cluster: &mut Cluster) -> Result<(), String> {
    cluster.example()?;
    cluster.shell()?;
    let service = cluster.get(&["service", "hello"])?;
    let ip = service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let node = cluster.get(&["node", "test"])?;
    let address = node["status"]["addresses"][0]["address"].as_str().unwrap_or_default().to_owned();
    for url in [format!("http://{ip}"), "http://127.0.0.1:30080".to_owned(), format!("http://{address}:30080")] {
        soon(&format!("the page at {url}"), || page(&url).is_ok_and(|text| text.contains(GREETING)))?;
    }
    for url in [format!("http://{ip}"), "http://hello".to_owned(), "http://hello.default.svc.cluster.local".to_owned()]
    {
        let text = cluster.kubectl(&["exec", "shell", "--", "wget", "-qO-", &url])?;
        holds(&format!("the page at {url} from a pod: {text}"), text.contains(GREETING))?;
    }
    Ok(())
}

/// Two pods share a port of the node, each at an address of its own.
pub(crate) fn host_ports(cluster: &mut Cluster) -> Result<(), String> {
    let pods = [("port-here", "127.0.0.1"), ("port-there", "127.0.0.2")];
    for (name, ip) in pods {
        let say = format!("echo {name} > /usr/share/nginx/html/index.html; exec nginx");
        cluster.apply(
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{
            "name": "c", "image": "nginx:1.22", "command": ["sh", "-c", say],
            "ports": [{"containerPort": 80, "hostPort": 18_080, "hostIP": ip}]}]}}),
        )?;
        cluster.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), LONG])?;
    }
    for (name, ip) in pods {
        soon(&format!("{name} at its port"), || {
            page(&format!("http://{ip}:18080")).is_ok_and(|text| text.trim() == name)
        })?;
        cluster.kubectl(&["delete", "pod", name, "--now"])?;
    }
    Ok(())
}
