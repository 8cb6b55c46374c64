//! Volumes: what is in them, whose it is and who may read it.

use serde_json::{Value, json};
use skiff_meta::patch::merge_patch;

use crate::support::{Api as Run, Outcome};
use crate::table::{Row, allocatable, row};

/// Where a volume gets the key `data-1` from, with the name of the row.
const SOURCES: [&str; 4] = ["config-map", "secret", "projected-config-map", "projected-secret"];

/// A volume `v` of a source, with more about the source.
fn volume(source: &str, more: &Value) -> Value {
    let plain = |kind: &str, field: &str, more: &Value| json!({kind: merge_patch(&json!({field: "here"}), more)});
    let mut volume = match source {
        "config-map" => plain("configMap", "name", more),
        "secret" => plain("secret", "secretName", more),
        // The mode of all files stands beside the sources.
        _ => {
            let items = more.as_object().into_iter().flatten().filter(|(name, _)| *name != "defaultMode");
            let items = Value::Object(items.map(|(name, value)| (name.clone(), value.clone())).collect());
            let kind = if source == "projected-secret" { "secret" } else { "configMap" };
            merge_patch(
                &json!({"projected": {"sources": [plain(kind, "name", &items)]}}),
                &json!({"projected": {"defaultMode": more["defaultMode"]}}),
            )
        }
    };
    volume["name"] = "v".into();
    volume
}

fn mounted(volumes: &[Value]) -> (Value, Value) {
    let name = |volume: &Value| volume["name"].as_str().unwrap_or_default().to_owned();
    let mounts = volumes.iter().map(|volume| json!({"name": name(volume), "mountPath": format!("/{}", name(volume))}));
    (json!({"volumeMounts": mounts.collect::<Vec<_>>()}), json!({"volumes": volumes}))
}

fn from_source(source: &str) -> Vec<Row> {
    let user = json!({"securityContext": {"runAsUser": 1000, "fsGroup": 1001}});
    let item = |mode: Value| {
        let item = json!({"key": "data-1", "path": "path/to/data-2"});
        json!({"items": [merge_patch(&item, &json!({"mode": mode}))]})
    };
    let (plain, mapped) =
        ("cat /v/data-1; stat -Lc ' %a' /v/data-1", "cat /v/path/to/data-2; stat -Lc ' %a' /v/path/to/data-2");
    let cases = [
        ("plain", plain, json!({}), json!({}), "value-1 644"),
        ("mode", plain, json!({"defaultMode": 0o400}), json!({}), "value-1 400"),
        ("mapped", mapped, item(Value::Null), json!({}), "value-1 644"),
        ("mapped-mode", mapped, item(json!(0o400)), json!({}), "value-1 400"),
        ("other-user", plain, json!({}), user.clone(), "value-1 644"),
        (
            "other-user-mode",
            "cat /v/data-1; stat -Lc ' %a %g' /v/data-1",
            json!({"defaultMode": 0o440}),
            user.clone(),
            "value-1 440 1001",
        ),
        ("mapped-other-user", mapped, item(Value::Null), user, "value-1 644"),
    ];
    cases
        .map(|(name, script, more, spec, says)| {
            let (container, volumes) = mounted(&[volume(source, &more)]);
            row(&format!("{source}-{name}"), script, container, merge_patch(&spec, &volumes), says)
        })
        .into()
}

/// What pods may learn of themselves, as files; the same where it is projected.
fn downward(projected: bool, node: &Value) -> Vec<Row> {
    let field = |path: &str| json!({"path": "f", "fieldRef": {"fieldPath": path}});
    let amount = |resource: &str, divisor: &str| json!({"path": "f", "resourceFieldRef": {"containerName": "c", "resource": resource, "divisor": divisor}});
    let resources = json!({"resources": {"limits": {"cpu": "1250m", "memory": "64Mi"}, "requests": {"cpu": "250m", "memory": "32Mi"}}});
    let prefix = if projected { "projected-downward" } else { "downward" };
    let cases = [
        ("name", field("metadata.name"), json!({}), format!("{prefix}-name")),
        ("labels", field("metadata.labels"), json!({}), format!("name=\"{prefix}-labels\"")),
        ("cpu-limit", amount("limits.cpu", "1m"), resources.clone(), "1250".to_owned()),
        ("cpu-limit-rounded", amount("limits.cpu", "1"), resources.clone(), "2".to_owned()),
        ("cpu-request", amount("requests.cpu", "1m"), resources.clone(), "250".to_owned()),
        ("memory-limit", amount("limits.memory", "1Mi"), resources.clone(), "64".to_owned()),
        ("memory-request", amount("requests.memory", "1"), resources, "33554432".to_owned()),
        ("cpu-of-the-node", amount("limits.cpu", "1"), json!({}), allocatable(node, "cpu")),
        ("memory-of-the-node", amount("limits.memory", "1"), json!({}), allocatable(node, "memory")),
    ];
    let volume = |item: Value, mode: Value| match projected {
        true => {
            json!({"name": "v", "projected": {"defaultMode": mode, "sources": [{"downwardAPI": {"items": [item]}}]}})
        }
        false => json!({"name": "v", "downwardAPI": {"defaultMode": mode, "items": [item]}}),
    };
    let said = |(name, item, container, says): (&str, Value, Value, String)| {
        let (mounts, volumes) = mounted(&[volume(item, json!(0o644))]);
        row(&format!("{prefix}-{name}"), "cat /v/f", merge_patch(&container, &mounts), volumes, says)
    };
    let modes = [("mode", Value::Null, "400"), ("item-mode", json!(0o440), "440")].map(|(name, mode, says)| {
        let item = merge_patch(&field("metadata.name"), &json!({"mode": mode}));
        let (mounts, volumes) = mounted(&[volume(item, json!(0o400))]);
        row(&format!("{prefix}-{name}"), "stat -Lc %a /v/f", mounts, volumes, says)
    });
    cases.into_iter().map(said).chain(modes).collect()
}

/// One file or directory of a volume, at a place of its own.
fn subpaths() -> Vec<Row> {
    let at = |volume: Value, path: &str| {
        let mounts = json!({"volumeMounts": [{"name": "v", "mountPath": "/at/file", "subPath": path}]});
        (mounts, json!({"volumes": [merge_patch(&volume, &json!({"name": "v"}))]}))
    };
    let downward = json!({"downwardAPI": {"items": [{"path": "d/f", "fieldRef": {"fieldPath": "metadata.name"}}]}});
    let mut rows: Vec<Row> = SOURCES
        .iter()
        .map(|source| {
            let (container, spec) = at(volume(source, &json!({})), "data-1");
            row(&format!("subpath-{source}"), "cat /at/file; ls /at", container, spec, "value-1file")
        })
        .collect();
    let (container, spec) = at(downward, "d");
    rows.push(row("subpath-downward", "cat /at/file/f", container, spec, "subpath-downward"));
    let over = json!({"volumeMounts": [{"name": "v", "mountPath": "/etc/passwd", "subPath": "data-1"}]});
    let spec = json!({"volumes": [volume("config-map", &json!({}))]});
    rows.push(row("subpath-over-a-file", "cat /etc/passwd", over, spec, "value-1"));
    rows
}

pub(crate) fn contents(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let map = json!({"metadata": {"name": "here"}, "data": {"data-1": "value-1"}, "binaryData": {"bytes": "3v7K/wA="}});
    run.add(&home, "configmaps", &map)?;
    run.add(&home, "secrets", &json!({"metadata": {"name": "here"}, "stringData": {"data-1": "value-1"}}))?;
    let node = run.node()?;
    let mut rows: Vec<Row> = SOURCES.iter().flat_map(|source| from_source(source)).collect();
    rows.extend([false, true].into_iter().flat_map(|projected| downward(projected, &node)));
    rows.extend(subpaths());
    let twice: Vec<Value> =
        ["v", "w"].map(|name| merge_patch(&volume("config-map", &json!({})), &json!({"name": name}))).into();
    let (container, spec) = mounted(&twice);
    rows.push(row("twice", "cat /v/data-1 /w/data-1", container, spec, "value-1value-1"));
    let both = [volume("config-map", &json!({})), merge_patch(&volume("secret", &json!({})), &json!({"name": "w"}))];
    let (container, spec) = mounted(&both);
    rows.push(row("both-kinds", "cat /v/data-1 /w/data-1; ls /w", container, spec, "value-1value-1data-1"));
    // What has the same name elsewhere is another one.
    let elsewhere = run.home()?;
    run.add(&elsewhere, "secrets", &json!({"metadata": {"name": "here"}, "stringData": {"data-1": "value-2"}}))?;
    let many: Vec<Value> =
        (0..50).map(|n| merge_patch(&volume("config-map", &json!({})), &json!({"name": format!("v{n}")}))).collect();
    let (container, spec) = mounted(&many);
    rows.push(row("many", "cat /v*/data-1 | busybox wc -c", container, spec, "350"));
    let (container, spec) = mounted(&[volume("config-map", &json!({}))]);
    rows.push(row("binary", "busybox od -An -tx1 /v/bytes", container, spec, "de fe ca ff 00"));
    let all = json!({"name": "v", "projected": {"sources": [
        {"configMap": {"name": "here", "items": [{"key": "data-1", "path": "map"}]}},
        {"secret": {"name": "here", "items": [{"key": "data-1", "path": "secret"}]}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}}]}});
    let (container, spec) = mounted(&[all]);
    let script = "cat /v/map /v/secret /v/name; tr -cd . < /v/token";
    rows.push(row("all-projected", script, container, spec, "value-1value-1all-projected.."));
    run.says(&home, rows)
}

pub(crate) fn directories(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let mut rows = Vec::new();
    for (medium, fs) in [("default", ""), ("memory", "tmpfs")] {
        let source = if medium == "memory" { json!({"medium": "Memory"}) } else { json!({}) };
        for (who, user) in [("root", 0), ("other-user", 1001)] {
            for mode in ["644", "666", "777"] {
                let (container, spec) = mounted(&[json!({"name": "v", "emptyDir": source})]);
                let user = json!({"securityContext": {"runAsUser": user}});
                // How the file system is called matters in memory only.
                let script = format!(
                    "echo x > /v/f; chmod {mode} /v/f; cat /v/f; stat -c '%a %u' /v/f; stat -c %a /v; \
                     stat -fc %T /v | grep -x tmpfs || true"
                );
                let says = format!("x\n{mode} {}\n777\n{fs}", user["securityContext"]["runAsUser"]);
                let name = format!("{medium}-{who}-{mode}");
                rows.push(row(&name, &script, container, merge_patch(&spec, &user), says.trim()));
            }
        }
    }
    let (container, spec) = mounted(&[json!({"name": "v", "emptyDir": {}})]);
    let other = json!({"initContainers": [{"name": "first", "image": "busybox:1.35", "command": ["sh", "-c", "echo shared > /v/f"],
        "volumeMounts": container["volumeMounts"]}]});
    rows.push(row("shared", "cat /v/f", container, merge_patch(&spec, &other), "shared"));
    let (container, spec) = mounted(&[json!({"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})]);
    let script = "dd if=/dev/zero of=/v/f bs=1024 count=2048 2>/dev/null; stat -c %s /v/f";
    rows.push(row("limited", script, container, spec, "1048576"));
    run.says(&home, rows)
}
