//! Services and names.

use crate::support::{Cluster, holds, page, soon};

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
