//! The API server under what grows and what misbehaves: many objects, many definitions, a flood, a webhook that hangs.

use std::net::TcpListener;
use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::Table;
use super::load::{Load, MAPS, Target, Wrk};
use super::server::{Server, binary};
use crate::Failure;
use crate::run::{output, run, target};

const ALONE: &str = "agent,scheduler,controller-manager,proxy,dns";
/// Few and many objects.
const SIZES: [u64; 2] = [1_000, 200_000];
const DEFINITIONS: u64 = 1_000;
/// Connections of the client that floods, and of those who meet the webhook.
const FLOOD: u32 = 50;
const HANGING: u32 = 20;

/// Fills the table.
pub(crate) fn measure(table: &mut Table) -> Result<(), Failure> {
    objects(table)?;
    definitions(table)?;
    let server = Server::alone(ALONE)?;
    flood(table, &server)?;
    webhook(table, &server)
}

fn load(target: &Target, path: &str, connections: u32, script: Option<&str>) -> Result<Load, Failure> {
    target.load(&Wrk { connections, seconds: 5, path, script })
}

fn objects(table: &mut Table) -> Result<(), Failure> {
    let server = Server::alone(ALONE)?;
    let mut made = 0;
    for size in SIZES {
        while made < size {
            let connections = if size - made > 30_000 { 32 } else { 1 };
            let wrk = Wrk { connections, seconds: 1, path: MAPS, script: Some("create.lua") };
            made += server.target.load(&wrk)?.requests;
        }
        let name = format!("{MAPS}/{}", server.target.some_name()?);
        for (what, path, connections) in [
            ("GET", &*name, 32),
            ("LIST limit=500", &format!("{MAPS}?limit=500"), 16),
            ("LIST of one by label", &format!("{MAPS}?labelSelector=a%3Db&limit=1"), 1),
        ] {
            let figure = load(&server.target, path, connections, None)?.told(None);
            table.row(format!("{what}, {connections} connections, {made} objects"), figure);
        }
        let figure = load(&server.target, MAPS, 1, Some("create.lua"))?;
        table.row(format!("create, 1 connection, {made} objects"), figure.told(None));
        made += figure.requests;
    }
    table.row(format!("memory with {made} ConfigMaps of 1 KiB"), server.memory()?);
    Ok(())
}

fn definitions(table: &mut Table) -> Result<(), Failure> {
    let data = target().join(format!("bench-{}-definitions", std::process::id()));
    std::fs::create_dir_all(&data).map_err(|e| format!("{}: {e}", data.display()))?;
    let flags = ["--disable", ALONE];
    let mut server = Server::start(&data, &flags)?;
    table.row("memory without definitions", server.memory()?);
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let mut made = 0;
    while made < DEFINITIONS {
        let wrk = Wrk { connections: 1, seconds: 1, path, script: Some("define.lua") };
        let load = server.target.load(&wrk)?;
        made += load.requests;
        if made >= DEFINITIONS {
            table.row("create a definition, 1 connection", load.told(None));
        }
    }
    table.row(format!("memory with {made} definitions"), server.memory()?);
    server.stop()?;
    let again = Server::start(&data, &flags)?;
    table.row(format!("exec to /readyz ok with {made} definitions"), format!("{} ms", again.ready.as_millis()));
    table.row("memory after that start", again.memory()?);
    Ok(())
}

/// Somebody with an account of his own, who may read everything.
fn reader(server: &Server, name: &str) -> Result<Target, Failure> {
    kubectl(server, &["create", "serviceaccount", name])?;
    create(
        server,
        &format!(
            r#"{{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{{"name":"{name}"}},
            "roleRef":{{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"view"}},
            "subjects":[{{"kind":"ServiceAccount","namespace":"default","name":"{name}"}}]}}"#
        ),
    )?;
    let token = output(&mut kubectl_command(&server.kubeconfig(), &["create", "token", name]))?;
    Ok(Target { url: server.target.url.clone(), token: token.trim().to_owned() })
}

fn create(server: &Server, object: &str) -> Result<(), Failure> {
    let file = target().join(format!("bench-{}.json", std::process::id()));
    std::fs::write(&file, object).map_err(|e| format!("{}: {e}", file.display()))?;
    let created = kubectl(server, &["create", "-f", &file.display().to_string()]);
    let _ = std::fs::remove_file(&file);
    created
}

fn kubectl(server: &Server, words: &[&str]) -> Result<(), Failure> {
    run(&mut kubectl_command(&server.kubeconfig(), words))
}

fn kubectl_command(kubeconfig: &Path, words: &[&str]) -> Command {
    let mut kubectl = Command::new(binary());
    kubectl.args(["kubectl", "--kubeconfig"]).arg(kubeconfig).args(words);
    kubectl
}

fn flood(table: &mut Table, server: &Server) -> Result<(), Failure> {
    let (calm, wild) = (reader(server, "calm")?, reader(server, "wild")?);
    server.target.load(&Wrk { connections: 8, seconds: 1, path: MAPS, script: Some("create.lua") })?;
    let name = format!("{MAPS}/{}", server.target.some_name()?);
    let alone = load(&calm, &name, 1, None)?;
    let crowded = beside_busy_loops(|| load(&calm, &name, 1, None))?;
    let page = format!("{MAPS}?limit=500");
    let (flooded, flood) = beside(&wild, &page, FLOOD, None, || load(&calm, &name, 1, None))?;
    table.row("one client's GETs, alone", alone.told(None));
    table.row("the same while loops that ask for nothing keep each core busy", crowded.told(None));
    table.row(format!("the same while {FLOOD} connections of another list"), flooded.told(None));
    table.row("those lists", flood?.told(None));
    Ok(())
}

/// What sharing the cores costs by itself, whatever is done on them.
fn beside_busy_loops<T>(measure: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                let mut turns = 0_u64;
                while !enough.load(Ordering::Relaxed) {
                    turns = std::hint::black_box(turns.wrapping_add(1));
                }
            });
        }
        let measured = measure();
        enough.store(true, Ordering::Relaxed);
        measured
    })
}

/// Measures something while another load is on.
fn beside<T>(
    target: &Target,
    path: &str,
    connections: u32,
    script: Option<&str>,
    measure: impl FnOnce() -> Result<T, Failure>,
) -> Result<(T, Result<Load, Failure>), Failure> {
    thread::scope(|scope| {
        let other = scope.spawn(|| target.load(&Wrk { connections, seconds: 7, path, script }));
        thread::sleep(std::time::Duration::from_secs(1));
        let measured = measure();
        let other = other.join().map_err(|_| "the other load panicked".to_owned())?;
        Ok((measured?, other))
    })
}

fn webhook(table: &mut Table, server: &Server) -> Result<(), Failure> {
    // Connections are taken by the kernel, and never answered.
    let silent = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let port = silent.local_addr().map_err(|e| e.to_string())?.port();
    let hook = format!(
        r#"{{"apiVersion":"admissionregistration.k8s.io/v1","kind":"ValidatingWebhookConfiguration",
        "metadata":{{"name":"hangs"}},"webhooks":[{{"name":"hangs.example.com","sideEffects":"None",
        "admissionReviewVersions":["v1"],"timeoutSeconds":30,"clientConfig":{{"url":"https://127.0.0.1:{port}/"}},
        "namespaceSelector":{{"matchLabels":{{"kubernetes.io/metadata.name":"hang"}}}},
        "rules":[{{"apiGroups":[""],"apiVersions":["v1"],"operations":["CREATE"],"resources":["configmaps"]}}]}}]}}"#
    );
    let alone = load(&server.target, MAPS, 1, Some("create.lua"))?;
    kubectl(server, &["create", "namespace", "hang"])?;
    create(server, &hook)?;
    let path = "/api/v1/namespaces/hang/configmaps";
    let script = Some("create.lua");
    let (hung, other) = beside(&server.target, path, HANGING, script, || load(&server.target, MAPS, 1, script))?;
    table.row("one client's creates", alone.told(None));
    table.row(format!("the same while {HANGING} others wait for a webhook that hangs"), hung.told(None));
    match other {
        Err(_) => Ok(()),
        Ok(load) if load.requests == 0 => Ok(()),
        Ok(load) => Err(format!("the webhook did not hang: {load:?}")),
    }
}
