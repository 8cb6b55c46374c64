//! What a container finds around itself: variables, arguments, user, rights.

use serde_json::{Value, json};

use crate::support::{Api as Run, Outcome, expect};
use crate::table::{PROBE, Row, address, allocatable, pod, row, server};

fn env(variables: Value) -> Value {
    json!({"env": variables})
}

pub(crate) fn variables(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let data = json!({"data-1": "value-1", "data_2": "value-2"});
    run.add(&home, "configmaps", &json!({"metadata": {"name": "here"}, "data": data}))?;
    run.add(&home, "secrets", &json!({"metadata": {"name": "here"}, "stringData": data}))?;
    let port = json!({"ports": [{"port": 8765, "targetPort": 8080}]});
    let service = run.add(&home, "services", &json!({"metadata": {"name": "foo-service"}, "spec": port}))?;
    let node = run.node()?;
    let host = address(&node);
    let field = |path: &str| env(json!([{"name": "V", "valueFrom": {"fieldRef": {"fieldPath": path}}}]));
    let amount =
        |resource: &str| env(json!([{"name": "V", "valueFrom": {"resourceFieldRef": {"resource": resource}}}]));
    let resources =
        json!({"limits": {"cpu": "1250m", "memory": "64Mi"}, "requests": {"cpu": "250m", "memory": "32Mi"}});
    let of = |resource: &str| {
        let mut container = amount(resource);
        container["resources"] = resources.clone();
        container
    };
    let say = "echo $V";
    let none = || json!({});
    let mut rows = vec![
        row("field-name", say, field("metadata.name"), none(), "field-name"),
        row("field-namespace", say, field("metadata.namespace"), none(), home.rsplit('/').next().unwrap_or_default()),
        row("field-host-ip", say, field("status.hostIP"), none(), host),
        row("limit-cpu", say, of("limits.cpu"), none(), "2"),
        row("limit-memory", say, of("limits.memory"), none(), "67108864"),
        row("request-cpu", say, of("requests.cpu"), none(), "1"),
        row("request-memory", say, of("requests.memory"), none(), "33554432"),
        row("node-cpu", say, amount("limits.cpu"), none(), allocatable(&node, "cpu")),
        row("node-memory", say, amount("limits.memory"), none(), allocatable(&node, "memory")),
        row("own-address", "hostname -i | grep -cx $V", field("status.podIP"), none(), "1"),
        row("host-ips", "echo $V | grep -c .", field("status.hostIPs"), none(), "1"),
        row("uid", "echo $V | tr -d '\\n' | wc -c", field("metadata.uid"), none(), "36"),
    ];
    for (kind, reference, all) in [("map", "configMapKeyRef", "configMapRef"), ("secret", "secretKeyRef", "secretRef")]
    {
        let one = env(json!([{"name": "V", "valueFrom": {reference: {"name": "here", "key": "data-1"}}},
            {"name": "W", "valueFrom": {reference: {"name": "nowhere", "key": "x", "optional": true}}}]));
        rows.push(row(&format!("{kind}-key"), "echo $V$W", one, none(), "value-1"));
        // Names that shells do not like are names all the same.
        let every = json!({"envFrom": [{all: {"name": "here"}}, {"prefix": "p-", all: {"name": "here"}},
            {all: {"name": "nowhere", "optional": true}}]});
        let script = "tr '\\000' '\\n' < /proc/1/environ | grep -E '^(p-)?data' | busybox sort";
        let says = "data-1=value-1\ndata_2=value-2\np-data-1=value-1\np-data_2=value-2";
        rows.push(row(&format!("{kind}-all"), script, every, none(), says));
    }
    let composed = json!([{"name": "A", "value": "a"}, {"name": "B", "value": "$(A);;b"}, {"name": "C", "value": "$$(A) $(NONE)"}]);
    rows.push(row("composed", "echo \"$B $C\"", env(composed.clone()), none(), "a;;b $(A) $(NONE)"));
    let with = |mut container: Value| {
        container["env"] = composed.clone();
        container
    };
    rows.push(row(
        "in-command",
        "",
        with(json!({"command": ["sh", "-c", "A=other; echo $(A) $A"]})),
        none(),
        "a other",
    ));
    let args = json!({"command": ["sh", "-c"], "args": ["A=other; echo $(A) $A"]});
    rows.push(row("in-arguments", "", with(args), none(), "a other"));
    rows.push(row(
        "own-arguments",
        "",
        json!({"command": null, "args": ["echo", "as arguments"]}),
        none(),
        "as arguments",
    ));
    rows.push(row("both-own", "", json!({"command": ["echo"], "args": ["one", "two"]}), none(), "one two"));
    let usage = "probe serve|get URL|lookup NAME|hook FOLDER|eat MEBIBYTES [SECONDS]";
    let entry = json!({"image": PROBE, "command": ["probe"]});
    rows.push(row("own-command-drops-the-images-arguments", "", entry, none(), usage));
    let paths = json!({"env": composed, "volumeMounts": [{"name": "v", "mountPath": "/sub", "subPathExpr": "below/$(A)"},
        {"name": "v", "mountPath": "/whole"}]});
    let volumes = json!({"volumes": [{"name": "v", "emptyDir": {}}]});
    rows.push(row("subpath-of-a-variable", "echo x > /sub/f; cat /whole/below/a/f", paths, volumes, "x"));
    let script = "echo $FOO_SERVICE_SERVICE_HOST $FOO_SERVICE_SERVICE_PORT $FOO_SERVICE_PORT_8765_TCP_PROTO $KUBERNETES_SERVICE_PORT";
    let ip = service["spec"]["clusterIP"].as_str().unwrap_or_default();
    rows.push(row("services", script, none(), none(), format!("{ip} 8765 tcp 443")));
    let quiet = json!({"enableServiceLinks": false});
    rows.push(row("no-services", "echo x$FOO_SERVICE_SERVICE_HOST$KUBERNETES_SERVICE_PORT", none(), quiet, "x443"));
    run.says(&home, rows)?;
    // The image's own command.
    run.serve(
        &home,
        &[pod(
            "as-the-image-says",
            json!({"name": "c", "image": PROBE,
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}),
            none(),
        )],
    )?;
    run.ask_until(&home, "as-the-image-says", "/hostname", |said| said.as_deref() == Ok("as-the-image-says"))
}

pub(crate) fn security(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let context = |context: Value| json!({"securityContext": context});
    let none = || json!({});
    let who = "id -u; id -g";
    let status = |line: &str| format!("grep {line}: /proc/self/status | tr -d '\\t '");
    let link = "ip link add skiff0 type veth 2>/dev/null && echo made || echo refused";
    let write = "echo x 2>/dev/null > /f && echo written || echo refused";
    let hosts = "ps | grep -c 'sleep [0-9]' || true";
    let rows: Vec<Row> = vec![
        row("user", who, context(json!({"runAsUser": 65534})), none(), "65534\n65534"),
        row("user-and-group", who, context(json!({"runAsUser": 1001, "runAsGroup": 2002})), none(), "1001\n2002"),
        row("of-the-pod", who, none(), context(json!({"runAsUser": 1001, "runAsGroup": 2002})), "1001\n2002"),
        row(
            "groups",
            "id -G",
            none(),
            context(json!({"runAsUser": 1001, "runAsGroup": 5, "fsGroup": 6, "supplementalGroups": [7]})),
            "5 6 7",
        ),
        row("unprivileged", link, context(json!({"privileged": false})), none(), "refused"),
        row("privileged", link, context(json!({"privileged": true})), none(), "made"),
        row("added", link, context(json!({"capabilities": {"add": ["NET_ADMIN"]}})), none(), "made"),
        row(
            "dropped",
            "touch /f; chown 5 /f 2>/dev/null && echo done || echo refused",
            context(json!({"capabilities": {"drop": ["ALL"]}})),
            none(),
            "refused",
        ),
        row("read-only", write, context(json!({"readOnlyRootFilesystem": true})), none(), "refused"),
        row("writable", write, context(json!({"readOnlyRootFilesystem": false})), none(), "written"),
        row(
            "no-escalation",
            &status("NoNewPrivs"),
            context(json!({"allowPrivilegeEscalation": false})),
            none(),
            "NoNewPrivs:1",
        ),
        row("escalation", &status("NoNewPrivs"), none(), none(), "NoNewPrivs:0"),
        row(
            "calls-filtered",
            &status("Seccomp"),
            none(),
            context(json!({"seccompProfile": {"type": "RuntimeDefault"}})),
            "Seccomp:2",
        ),
        row(
            "calls-unfiltered",
            &status("Seccomp"),
            none(),
            context(json!({"seccompProfile": {"type": "Unconfined"}})),
            "Seccomp:0",
        ),
        row(
            "sysctl",
            "cat /proc/sys/kernel/shm_rmid_forced",
            none(),
            context(json!({"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]})),
            "1",
        ),
        row(
            "shared-processes",
            "sleep 1; ps | grep -c '[s]leep 77'",
            none(),
            json!({"shareProcessNamespace": true,
            "initContainers": [{"name": "other", "image": "busybox:1.35", "restartPolicy": "Always", "command": ["sleep", "77"]}]}),
            "1",
        ),
        row("own-processes", hosts, none(), none(), "0"),
        row("host-name", "hostname", none(), json!({"hostname": "other"}), "other"),
        row(
            "whole-name",
            "hostname",
            none(),
            json!({"hostname": "other", "subdomain": "sub", "setHostnameAsFQDN": true}),
            format!("other.sub.{}.svc.cluster.local", home.rsplit('/').next().unwrap_or_default()),
        ),
    ];
    run.says(&home, rows)?;
    let bad = context(json!({"sysctls": [{"name": "foo-", "value": "1"}, {"name": "safe..bad", "value": "1"}]}));
    let refused = run.post(&format!("{home}/pods"), &pod("bad-sysctl", json!({"name": "c", "image": PROBE}), bad))?;
    expect(refused.code == 422 && refused.causes().len() == 2, &refused)?;
    // Root is not let in where nobody may be root.
    let mut root = server("root", &[]);
    root["spec"]["securityContext"] = json!({"runAsNonRoot": true});
    run.add(&home, "pods", &root)?;
    let waits = |pod: &Value| {
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    };
    run.pod_when("root is not started", &home, "root", waits).map(drop)
}
