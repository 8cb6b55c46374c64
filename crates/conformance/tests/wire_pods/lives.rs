//! How pods begin, go on and end.

use http::Method;
use serde_json::{Value, json};
use skiff_conformance::Credentials;
use skiff_meta::patch::merge_patch;

use crate::support::{Api as Run, Outcome, accepted, expect, is_ready};
use crate::table::{BUSYBOX, phase, pod, row, server};

fn container(script: &str) -> Value {
    json!({"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script]})
}

fn status(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

fn restarts(pod: &Value) -> u64 {
    status(pod)["restartCount"].as_u64().unwrap_or_default()
}

/// Fails with the object when `it` does not hold.
fn holds(what: &str, it: bool, object: &Value) -> Outcome {
    if it { Ok(()) } else { Err(format!("{what}: {} {}", object["spec"], object["status"])) }
}

pub(crate) fn ends(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let user = json!({"securityContext": {"runAsUser": 1000}});
    let logs = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
    let elsewhere = merge_patch(&user, &json!({"terminationMessagePath": "/dev/own-log"}));
    let limit = json!({"resources": {"limits": {"memory": "24Mi"}}});
    // A runtime looks for it from a moment after the start until the end: who dies of it outside of that just died.
    let eats = "sleep 1; dd if=/dev/zero of=/dev/null bs=64M count=1; sleep 1; exit 137";
    let none = || json!({});
    // Name, script, what else the container is, what else the pod is; phase, code, reason and message.
    let rows = [
        ("good", "true", none(), none(), ("Succeeded", 0, "Completed", "")),
        ("bad", "exit 3", none(), none(), ("Failed", 3, "Error", "")),
        ("message", "printf DONE > /dev/termination-log", none(), none(), ("Succeeded", 0, "Completed", "DONE")),
        ("own-place", "printf DONE > /dev/own-log", elsewhere, none(), ("Succeeded", 0, "Completed", "DONE")),
        ("from-log", "printf DONE; exit 1", logs.clone(), none(), ("Failed", 1, "Error", "DONE")),
        ("no-message", "printf DONE", logs.clone(), none(), ("Succeeded", 0, "Completed", "")),
        (
            "file-first",
            "printf log; printf OK > /dev/termination-log",
            logs,
            none(),
            ("Succeeded", 0, "Completed", "OK"),
        ),
        ("late", "sleep 600", none(), json!({"activeDeadlineSeconds": 1}), ("Failed", 137, "", "")),
        ("greedy", eats, limit, none(), ("Failed", 137, "OOMKilled", "")),
        ("no-program", "", json!({"command": ["/no/such"]}), none(), ("Failed", 128, "StartError", "")),
        (
            "again",
            "test -e /v/f || { touch /v/f; exit 1; }",
            json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
            json!({"restartPolicy": "OnFailure", "volumes": [{"name": "v", "emptyDir": {}}]}),
            ("Succeeded", 0, "Completed", ""),
        ),
    ];
    let mut names = Vec::new();
    for (name, script, more, spec, _) in &rows {
        run.add(&home, "pods", &pod(name, merge_patch(&container(script), more), spec.clone()))?;
        names.push(*name);
    }
    let over = |pod: &Value| matches!(phase(pod), "Succeeded" | "Failed");
    let seen = run.pods_when("all have ended", &home, &names, over)?;
    for (name, _, _, _, (ended, code, reason, message)) in rows {
        let pod = &seen[name];
        let state = &status(pod)["state"]["terminated"];
        holds(name, phase(pod) == ended, pod)?;
        holds(name, state["exitCode"] == code || name == "late", pod)?;
        holds(name, reason.is_empty() || state["reason"] == reason, pod)?;
        let said = state["message"].as_str().unwrap_or_default();
        holds(name, said == message || code == 128, pod)?;
    }
    holds("deadline", seen["late"]["status"]["reason"] == "DeadlineExceeded", &seen["late"])?;
    holds("restarted once", restarts(&seen["again"]) == 1, &seen["again"])?;
    // Always again, whatever the outcome.
    for (name, script) in [("always-good", "true"), ("always-bad", "exit 1")] {
        run.add(&home, "pods", &pod(name, container(script), json!({"restartPolicy": "Always"})))?;
    }
    let seen = run.pods_when("restarted", &home, &["always-good", "always-bad"], |pod| restarts(pod) > 0)?;
    seen.iter()
        .filter(|(name, _)| name.starts_with("always"))
        .try_for_each(|(name, pod)| holds(name, phase(pod) == "Running", pod))?;
    let seen = run.pod_when("it has ended before", &home, "always-bad", |pod| {
        !status(pod)["lastState"]["terminated"].is_null()
    })?;
    holds("why", status(&seen)["lastState"]["terminated"]["reason"] == "Error", &seen)?;
    accepted(&run.json(Method::DELETE, &format!("{home}/pods/always-bad"), &Value::Null)?)?;
    run.see("it can be deleted", crate::table::pods(), &home, |seen| !seen.contains_key("always-bad"))?;
    let image = merge_patch(&container("true"), &json!({"image": "no/such:1", "imagePullPolicy": "Never"}));
    run.add(&home, "pods", &pod("no-image", image, none()))?;
    let waits = |pod: &Value| status(pod)["state"]["waiting"]["reason"] == "ErrImageNeverPull";
    run.pod_when("without an image", &home, "no-image", waits).map(drop)
}

pub(crate) fn init_containers(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let first = |name: &str, script: &str| merge_patch(&container(script), &json!({"name": name}));
    let pods = [
        ("never", "Never", ["true", "true"], "true"),
        ("always", "Always", ["true", "true"], "sleep 600"),
        ("never-fails", "Never", ["true", "exit 1"], "true"),
        ("always-fails", "Always", ["exit 1", "true"], "true"),
    ];
    for (name, policy, [one, two], script) in pods {
        let inits = json!([first("one", one), first("two", two)]);
        run.add(
            &home,
            "pods",
            &pod(name, container(script), json!({"restartPolicy": policy, "initContainers": inits})),
        )?;
    }
    let initialized = |pod: &Value| {
        pod["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Initialized" && c["status"] == "True")
    };
    let reasons = |pod: &Value| -> Vec<String> {
        let statuses = pod["status"]["initContainerStatuses"].as_array();
        statuses
            .into_iter()
            .flatten()
            .map(|s| s["state"]["terminated"]["reason"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let seen = run.pod_when("both, then the container", &home, "never", |pod| phase(pod) == "Succeeded")?;
    holds("in order", initialized(&seen) && reasons(&seen) == ["Completed", "Completed"], &seen)?;
    let seen = run.pod_when("both, then it runs", &home, "always", is_ready)?;
    holds("in order", initialized(&seen) && reasons(&seen) == ["Completed", "Completed"], &seen)?;
    let seen = run.pod_when("the second fails", &home, "never-fails", |pod| phase(pod) == "Failed")?;
    holds(
        "the container never ran",
        !initialized(&seen) && status(&seen)["state"]["waiting"]["reason"] == "PodInitializing",
        &seen,
    )?;
    let again = |pod: &Value| pod["status"]["initContainerStatuses"][0]["restartCount"].as_u64() > Some(0);
    let seen = run.pod_when("the first is tried again", &home, "always-fails", again)?;
    holds("nothing after it", phase(&seen) == "Pending" && status(&seen)["restartCount"] == 0, &seen)
}

pub(crate) fn hooks(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let kinds = ["start-exec", "start-http", "stop-exec", "stop-http"];
    let listeners: Vec<Value> = kinds.iter().map(|kind| server(&format!("hears-{kind}"), &[])).collect();
    let addresses = run.serve(&home, &listeners)?;
    let mut callers = Vec::new();
    for kind in kinds {
        let host = &addresses[&format!("hears-{kind}")];
        let call = match kind.ends_with("exec") {
            true => json!({"exec": {"command": ["probe", "get", format!("http://{host}:8080/fail")]}}),
            false => json!({"httpGet": {"host": host, "port": 8080, "path": "/fail"}}),
        };
        let mut caller = server(kind, &[]);
        let moment = if kind.starts_with("start") { "postStart" } else { "preStop" };
        caller["spec"]["containers"][0]["lifecycle"] = json!({moment: call});
        caller["spec"]["terminationGracePeriodSeconds"] = 30.into();
        callers.push(caller);
    }
    run.serve(&home, &callers)?;
    for kind in kinds {
        let listener = format!("hears-{kind}");
        if kind.starts_with("stop") {
            run.ask(&home, &listener, "/healthz")?;
            accepted(&run.json(Method::DELETE, &format!("{home}/pods/{kind}"), &Value::Null)?)?;
        }
        run.ask_until(&home, &listener, "/healthz", Result::is_err)?;
    }
    Ok(())
}

pub(crate) fn probes(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let http = json!({"httpGet": {"path": "/healthz", "port": 8080}});
    let grpc = json!({"grpc": {"port": 8080}});
    let tcp = json!({"tcpSocket": {"port": 8080}});
    let each = |probe: &Value| {
        merge_patch(probe, &json!({"periodSeconds": 1, "failureThreshold": 1, "initialDelaySeconds": 1}))
    };
    let probed = |name: &str, kind: &str, probe: &Value, flags: &[&str]| {
        let mut pod = server(name, flags);
        pod["spec"]["restartPolicy"] = "Always".into();
        pod["spec"]["containers"][0]["readinessProbe"] = Value::Null;
        pod["spec"]["containers"][0][kind] = each(probe);
        pod
    };
    let file = |name: &str, script: &str| {
        let probe = each(&json!({"exec": {"command": ["cat", "/tmp/health"]}}));
        pod(name, merge_patch(&container(script), &json!({"livenessProbe": probe})), json!({"restartPolicy": "Always"}))
    };
    let good = ["http-good", "grpc-good", "tcp-good", "exec-good"];
    let bad = ["http-bad", "grpc-bad", "tcp-bad", "exec-bad"];
    let mut slow = probed("slow", "readinessProbe", &http, &[]);
    slow["spec"]["containers"][0]["readinessProbe"]["initialDelaySeconds"] = 4.into();
    // Nobody asks whether it lives before it has started.
    let mut starting = probed("starting", "startupProbe", &http, &["--failing"]);
    starting["spec"]["containers"][0]["startupProbe"]["failureThreshold"] = 1_000.into();
    starting["spec"]["containers"][0]["livenessProbe"] = each(&http);
    let pods = [
        probed("http-good", "livenessProbe", &http, &[]),
        probed("grpc-good", "livenessProbe", &grpc, &[]),
        probed("tcp-good", "livenessProbe", &tcp, &[]),
        file("exec-good", "touch /tmp/health; sleep 600"),
        probed("http-bad", "livenessProbe", &http, &["--failing"]),
        probed("grpc-bad", "livenessProbe", &grpc, &["--failing"]),
        probed("tcp-bad", "livenessProbe", &tcp, &["--port", "8090"]),
        file("exec-bad", "touch /tmp/health; sleep 2; rm /tmp/health; sleep 600"),
        probed("unready", "readinessProbe", &http, &["--failing"]),
        slow,
        starting,
    ];
    pods.iter().try_for_each(|pod| run.add(&home, "pods", pod).map(drop))?;
    let seen = run.pods_when("who fails is started again", &home, &bad, |pod| restarts(pod) > 0)?;
    for name in good {
        holds(name, is_ready(&seen[name]) && restarts(&seen[name]) == 0, &seen[name])?;
    }
    for name in ["unready", "starting"] {
        holds(
            name,
            phase(&seen[name]) == "Running" && !is_ready(&seen[name]) && restarts(&seen[name]) == 0,
            &seen[name],
        )?;
    }
    for name in ["unready", "starting"] {
        run.ask(&home, name, "/mend")?;
        run.pod_when("mended", &home, name, is_ready)?;
        run.ask(&home, name, "/fail")?;
    }
    run.pod_when("not ready any more", &home, "unready", |pod| !is_ready(pod) && restarts(pod) == 0)?;
    run.pod_when("now asked whether it lives", &home, "starting", |pod| restarts(pod) > 0)?;
    let seen = run.pod_when("ready after its delay", &home, "slow", is_ready)?;
    let reasons = seen["status"]["conditions"].as_array().into_iter().flatten().filter(|c| !c["reason"].is_null());
    holds("nothing is left of why it was not", reasons.count() == 0, &seen)?;
    let time = |text: &Value| text.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let conditions = seen["status"]["conditions"].as_array();
    let ready =
        conditions.into_iter().flatten().find(|c| c["type"] == "Ready").and_then(|c| time(&c["lastTransitionTime"]));
    let started = time(&status(&seen)["state"]["running"]["startedAt"]);
    let waited = ready.zip(started).map(|(ready, started)| ready.duration_since(started).as_secs());
    holds("not before", waited >= Some(3), &seen)?;
    run.pods_when("again and again", &home, &["http-bad"], |pod| restarts(pod) > 1).map(drop)
}

pub(crate) fn by_the_spec(run: &mut Run) -> Outcome {
    let home = run.home()?;
    // Who may have how much decides the class.
    let amounts = |cpu: &str| json!({"cpu": cpu, "memory": "32Mi"});
    for (name, resources, class) in [
        ("guaranteed", json!({"requests": amounts("50m"), "limits": amounts("50m")}), "Guaranteed"),
        ("burstable", json!({"requests": amounts("50m"), "limits": amounts("60m")}), "Burstable"),
        ("best-effort", json!({}), "BestEffort"),
    ] {
        let mut pod = server(name, &[]);
        pod["spec"]["containers"][0]["resources"] = resources;
        pod["metadata"]["labels"]["kind"] = "class".into();
        let made = run.add(&home, "pods", &pod)?;
        holds(class, made["status"]["qosClass"] == class, &made)?;
    }
    let class = ["guaranteed", "burstable", "best-effort"];
    let seen = run.pods_when("they run", &home, &class, is_ready)?;
    let path = |name: &str| format!("{home}/pods/{name}");
    let one = &seen["burstable"];
    holds(
        "one address",
        one["status"]["hostIP"].is_string() && one["status"]["podIPs"][0]["ip"] == one["status"]["podIP"],
        one,
    )?;
    holds("first generation", one["metadata"]["generation"] == 1 && one["status"]["observedGeneration"] == 1, one)?;
    // What can be changed is counted, what cannot is refused.
    accepted(
        &run.merge(&path("burstable"), &json!({"spec": {"tolerations": [{"key": "other", "operator": "Exists"}]}}))?,
    )?;
    run.pod_when("seen", &home, "burstable", |pod| {
        pod["metadata"]["generation"] == 2 && pod["status"]["observedGeneration"] == 2
    })?;
    let refused = run.merge(&path("burstable"), &json!({"spec": {"hostname": "other"}}))?;
    expect(refused.code == 422, &refused)?;
    accepted(&run.merge(&path("burstable"), &json!({"metadata": {"labels": {"new": "label"}}}))?)?;
    // More of a processor, without another start.
    let more = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "70m"}, "limits": {"cpu": "80m"}}}]}});
    let types = ("application/strategic-merge-patch+json", "application/json");
    let patch = |path: &str, body: &Value| {
        run.runtime.block_on(run.wire.send(Credentials::Own, &Method::PATCH, path, types, body.to_string()))
    };
    accepted(&patch(&format!("{}/resize", path("burstable")), &more)?)?;
    let resized = |pod: &Value| status(pod)["resources"]["limits"]["cpu"] == "80m" && restarts(pod) == 0;
    run.pod_when("resized in place", &home, "burstable", resized)?;
    // A container to look around with.
    let guest = json!({"spec": {"ephemeralContainers": [{"name": "guest", "image": BUSYBOX, "targetContainerName": "c",
        "command": ["sh", "-c", "echo here; ps | grep -c '[p]robe serve'"]}]}});
    accepted(&patch(&format!("{}/ephemeralcontainers", path("guaranteed")), &guest)?)?;
    let over = |pod: &Value| !pod["status"]["ephemeralContainerStatuses"][0]["state"]["terminated"].is_null();
    run.pod_when("the guest has looked", &home, "guaranteed", over)?;
    let said = run.json(Method::GET, &format!("{}/log?container=guest", path("guaranteed")), &Value::Null)?;
    expect(said.code == 200 && said.bytes.as_ref() == b"here\n1\n", &said)?;
    // What somebody else says about it stays.
    let gate = json!({"status": {"conditions": [{"type": "example.com/Seen", "status": "True"}]}});
    accepted(&patch(&format!("{}/status", path("best-effort")), &gate)?)?;
    let seen = |pod: &Value| {
        pod["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "example.com/Seen")
    };
    run.pod_when("another condition", &home, "best-effort", |pod| seen(pod) && is_ready(pod))?;
    accepted(&run.merge(&path("best-effort"), &json!({"spec": {"activeDeadlineSeconds": 1}}))?)?;
    let late = |pod: &Value| phase(pod) == "Failed" && pod["status"]["reason"] == "DeadlineExceeded";
    run.pod_when("too late", &home, "best-effort", late)?;
    let image = json!({"volumes": [{"name": "v", "image": {"reference": BUSYBOX}}]});
    let mount = json!({"volumeMounts": [{"name": "v", "mountPath": "/image"}]});
    run.says(
        &home,
        vec![row(
            "image",
            "ls -d /image/bin/busybox; touch /image/x 2>/dev/null || echo fixed",
            mount,
            image,
            "/image/bin/busybox\nfixed",
        )],
    )?;
    accepted(&run.json(Method::DELETE, &format!("{home}/pods?labelSelector=kind%3Dclass"), &Value::Null)?)?;
    run.see("all of a kind go", crate::table::pods(), &home, |seen| !class.iter().any(|name| seen.contains_key(*name)))
        .map(drop)
}

pub(crate) fn runtime_classes(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let own = home.rsplit('/').next().unwrap_or_default().to_owned();
    let classes = "/apis/node.k8s.io/v1/runtimeclasses";
    let class = |name: &str, more: Value| {
        merge_patch(&json!({"metadata": {"name": format!("{own}-{name}")}, "handler": "runc"}), &more)
    };
    run.make(classes, &class("heavy", json!({"overhead": {"podFixed": {"cpu": "10m", "memory": "1Mi"}}})))?;
    run.make(classes, &class("light", json!({})))?;
    let of = |name: &str| pod(name, container("true"), json!({"runtimeClassName": format!("{own}-{name}")}));
    for (name, overhead) in [("heavy", json!({"cpu": "10m", "memory": "1Mi"})), ("light", Value::Null)] {
        let made = run.add(&home, "pods", &of(name))?;
        holds("its overhead", made["spec"]["overhead"] == overhead, &made)?;
        run.pod_when("it runs", &home, name, |pod| phase(pod) == "Succeeded")?;
    }
    let refused = run.post(&format!("{home}/pods"), &of("none"))?;
    expect(refused.code == 403, &refused)?;
    accepted(&run.json(Method::DELETE, &format!("{classes}/{own}-light"), &Value::Null)?)?;
    let gone = pod("gone", container("true"), json!({"runtimeClassName": format!("{own}-light")}));
    // Another server may not have heard of the deletion yet.
    let refused = run.until(|| run.post(&format!("{home}/pods?dryRun=All"), &gone), |answer| answer.code == 403)?;
    expect(refused.code == 403, &refused)
}

/// Only with a taint of its own, and only for a moment: others on the node may have to go too.
pub(crate) fn taints(run: &mut Run) -> Outcome {
    let home = run.home()?;
    let tolerant = |name: &str, seconds: Value| {
        let mut pod = server(name, &[]);
        let toleration = json!({"key": "conformance", "operator": "Exists", "effect": "NoExecute"});
        pod["spec"]["tolerations"] = json!([merge_patch(&toleration, &json!({"tolerationSeconds": seconds}))]);
        pod
    };
    run.serve(
        &home,
        &[
            server("strict", &[]),
            tolerant("soon", json!(1)),
            tolerant("later", json!(600)),
            tolerant("never", Value::Null),
        ],
    )?;
    let node = run.node()?;
    let path = format!("/api/v1/nodes/{}", node["metadata"]["name"].as_str().unwrap_or_default());
    let others = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let with: Vec<Value> =
        others.iter().cloned().chain([json!({"key": "conformance", "effect": "NoExecute"})]).collect();
    accepted(&run.merge(&path, &json!({"spec": {"taints": with}}))?)?;
    let left = run.see("who does not bear it goes", crate::table::pods(), &home, |seen| {
        !seen.contains_key("strict") && !seen.contains_key("soon")
    });
    accepted(&run.merge(&path, &json!({"spec": {"taints": others}}))?)?;
    let left = left?;
    for name in ["later", "never"] {
        let pod = left.get(name).ok_or_else(|| format!("{name} is gone"))?;
        holds(name, is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null(), pod)?;
    }
    Ok(())
}
