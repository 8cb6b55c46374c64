//! Names: what cluster DNS says to a pod, and what its own files say.

use http::Method;
use serde_json::{Value, json};

use crate::support::{Api as Run, Outcome, expect};
use crate::table::{row, server};

pub(crate) fn resolved(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let own = home.rsplit('/').next().unwrap_or_default().to_owned();
    let select = json!({"name": "server"});
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    let web = run.add(
        &home,
        "services",
        &json!({"metadata": {"name": "web"}, "spec": {"selector": select, "ports": ports}}),
    )?;
    let spec = json!({"selector": select, "clusterIP": "None", "ports": ports});
    run.add(&home, "services", &json!({"metadata": {"name": "none"}, "spec": spec}))?;
    let spec = json!({"type": "ExternalName", "externalName": "foo.example.com"});
    run.add(&home, "services", &json!({"metadata": {"name": "out"}, "spec": spec}))?;
    let mut pod = server("server", &[]);
    pod["spec"]["hostname"] = "host".into();
    pod["spec"]["subdomain"] = "none".into();
    let address = run.serve(&home, &[pod])?["server"].clone();
    let kubernetes = run.json(Method::GET, "/api/v1/namespaces/default/services/kubernetes", &Value::Null)?;
    let kubernetes = kubernetes.tree()["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let ip = web["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    for (name, expected) in [
        ("kubernetes.default".to_owned(), &kubernetes),
        ("kubernetes.default.svc".to_owned(), &kubernetes),
        ("kubernetes.default.svc.cluster.local".to_owned(), &kubernetes),
        ("web".to_owned(), &ip),
        (format!("web.{own}"), &ip),
        (format!("web.{own}.svc"), &ip),
        (format!("none.{own}.svc.cluster.local"), &address),
        (format!("host.none.{own}.svc.cluster.local"), &address),
        (format!("{}.{own}.pod.cluster.local", address.replace('.', "-")), &address),
    ] {
        run.ask_until(&home, "server", &format!("/lookup?{name}"), |said| said.as_ref() == Ok(expected))?;
    }
    run.ask_until(&home, "server", "/lookup?nobody", Result::is_err)?;
    let zone = format!("{own}.svc.cluster.local");
    let none = || json!({});
    let config = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.53"], "searches": ["resolv.conf.local"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}});
    let ask = |kind: &str, name: &str, found: &str| {
        format!("nslookup -type={kind} {name} | grep '{found}' | busybox tr '\\t' ' '")
    };
    run.says(
        &home,
        vec![
            row(
                "alias",
                &ask("cname", &format!("out.{zone}"), "canonical name"),
                none(),
                none(),
                format!("out.{zone} canonical name = foo.example.com"),
            ),
            row(
                "ports",
                &ask("srv", &format!("_http._tcp.web.{zone}"), "service ="),
                none(),
                none(),
                format!("_http._tcp.web.{zone} service = 0 100 80 web.{zone}"),
            ),
            row(
                "backwards",
                &format!("nslookup {ip} | grep -o 'name = .*'"),
                none(),
                none(),
                format!("name = web.{zone}"),
            ),
            row(
                "own-server",
                "cat /etc/resolv.conf",
                none(),
                config,
                "search resolv.conf.local\nnameserver 192.0.2.53\noptions ndots:2 edns0",
            ),
            row("search", "grep search /etc/resolv.conf | grep -c ' svc.cluster.local '", none(), none(), "1"),
        ],
    )
}

pub(crate) fn files(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let own = home.rsplit('/').next().unwrap_or_default().to_owned();
    let none = || json!({});
    let head = "busybox head -n 1 /etc/hosts";
    let mine = json!({"volumeMounts": [{"name": "v", "mountPath": "/etc/hosts", "subPath": "hosts"}]});
    run.add(&home, "configmaps", &json!({"metadata": {"name": "hosts"}, "data": {"hosts": "192.0.2.1 mine\n"}}))?;
    let volume = json!({"volumes": [{"name": "v", "configMap": {"name": "hosts"}}]});
    let aliases = json!({"hostAliases": [{"ip": "123.45.67.89", "hostnames": ["foo", "bar"]}]});
    run.says(
        &home,
        vec![
            row("managed", head, none(), none(), "# Kubernetes-managed hosts file."),
            row(
                "of-the-host",
                head,
                none(),
                json!({"hostNetwork": true}),
                "# Kubernetes-managed hosts file (host network).",
            ),
            row("mine", "cat /etc/hosts", mine, volume, "192.0.2.1 mine"),
            row("aliases", "grep 123.45 /etc/hosts", none(), aliases, "123.45.67.89\tfoo\tbar"),
            row("itself", "grep -c \"^$(hostname -i).*itself$\" /etc/hosts", none(), none(), "1"),
            row(
                "whole",
                "grep -o 'h.sub.*' /etc/hosts",
                none(),
                json!({"hostname": "h", "subdomain": "sub"}),
                format!("h.sub.{own}.svc.cluster.local\th"),
            ),
        ],
    )?;
    // Nobody else's.
    let bad = json!({"metadata": {"name": "bad"}, "spec": {"containers": [{"name": "c", "image": "x"}],
        "hostAliases": [{"ip": "no address", "hostnames": ["x"]}]}});
    let refused = run.post(&format!("{home}/pods"), &bad)?;
    expect(refused.code == 422, &refused)
}
