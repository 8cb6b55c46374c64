//! Every verb of the real kubectl that needs no node, line by line: against the API of `CONFORMANCE_KUBECONFIG`, or
//! against a server that is started for it. The same lines pass on upstream, and with the kubectl that is built in.

mod support;

use std::path::PathBuf;
use std::process::Command;

use skiff_testkit::cases::{self, Case};
use skiff_testkit::process::{self, Process};

struct Run {
    real: Program,
    built_in: Program,
    kubeconfig: PathBuf,
    home: tempfile::TempDir,
    _server: Option<Process>,
}

/// A kubectl: the binary, and a word before its own.
#[derive(Clone)]
struct Program {
    binary: PathBuf,
    words: &'static [&'static str],
}

/// What a line must end in.
enum Ends {
    /// Well, its output containing this.
    Well(&'static str),
    /// Well, its output not containing this.
    Without(&'static str),
    /// Well, or with this complaint.
    Either(&'static str),
    /// Not so, its complaint containing this.
    Badly(&'static str),
}

use Ends::{Badly, Either, Well, Without};

const CASES: &[Case<Run>] = &[
    ("every_line_ends_as_on_upstream", |run| every_line(run, &run.real.clone())),
    ("every_line_ends_so_with_the_built_in_kubectl", |run| every_line(run, &run.built_in.clone())),
];

/// Lines are split at spaces; `+` stands for a space inside a word. `NS` is the namespace of the run, `DIR` the folder
/// of the files.
const LINES: &[(&str, Ends)] = &[
    ("version", Well("Server Version: v1.36")),
    ("cluster-info", Well("is running at")),
    ("api-versions", Well("apps/v1")),
    ("api-resources", Well("deployments")),
    ("api-resources --api-group=batch -o name", Well("cronjobs.batch")),
    (
        "api-resources --verbs=list --namespaced -o wide",
        Well("create,delete,deletecollection,get,list,patch,update,watch"),
    ),
    ("explain pods.spec.containers", Well("restartPolicy")),
    ("explain pods.spec.containers", Without("<no description>")),
    ("explain pods.status", Without("<no description>")),
    ("explain deployment.spec.strategy.rollingUpdate", Without("<no description>")),
    ("explain job.spec --output=plaintext-openapiv2", Without("<no description>")),
    ("explain deployment --recursive", Well("maxUnavailable\t<IntOrString>")),
    ("explain pods.nonsense", Badly("field \"nonsense\" does not exist")),
    // Objects by generators, which send protobuf.
    ("create namespace NS", Well("namespace/NS created")),
    ("-n NS create serviceaccount robot", Well("serviceaccount/robot created")),
    ("-n NS create configmap c --from-literal=a=b", Well("configmap/c created")),
    ("-n NS create secret generic s --from-literal=a=b", Well("secret/s created")),
    ("-n NS create deployment web --image=nginx --replicas=0", Well("deployment.apps/web created")),
    ("-n NS create service clusterip web --tcp=80:8080", Well("service/web created")),
    ("-n NS create job one --image=busybox -- true", Well("job.batch/one created")),
    ("-n NS create cronjob often --image=busybox --schedule=*/5+*+*+*+* -- true", Well("cronjob.batch/often created")),
    ("-n NS create role reader --verb=get,list --resource=pods", Well("role.rbac.authorization.k8s.io/reader created")),
    (
        "-n NS create rolebinding reads --role=reader --serviceaccount=NS:robot",
        Well("rolebinding.rbac.authorization.k8s.io/reads created"),
    ),
    ("-n NS create quota few --hard=configmaps=100", Well("resourcequota/few created")),
    (
        "-n NS create poddisruptionbudget some --selector=app=web --min-available=1",
        Well("poddisruptionbudget.policy/some created"),
    ),
    ("-n NS create ingress way --rule=example.com/*=web:80", Well("ingress.networking.k8s.io/way created")),
    ("-n NS create token robot --duration=10m", Well("ey")),
    (
        "-n NS create configmap c --from-literal=a=b",
        Badly("error: failed to create configmap: configmaps \"c\" already exists"),
    ),
    ("-n NS create configmap Bad_Name", Badly("ConfigMap \"Bad_Name\" is invalid: metadata.name: Invalid value")),
    ("-n NS create configmap d --dry-run=server -o yaml", Well("kind: ConfigMap")),
    ("-n NS get configmap d", Badly("Error from server (NotFound): configmaps \"d\" not found")),
    // Reading.
    ("-n NS get deployments", Well("NAME   READY   UP-TO-DATE   AVAILABLE   AGE")),
    ("-n NS get deploy,svc -o wide", Well("service/web")),
    ("-n NS get all", Well("deployment.apps/web")),
    ("-n NS get cm c -o yaml", Well("  a: b")),
    ("-n NS get cm c -o jsonpath={.data.a}", Well("b")),
    ("-n NS get cm -o custom-columns=N:.metadata.name", Well("c")),
    ("-n NS get cm --field-selector=metadata.name=c -o name", Well("configmap/c")),
    (
        "-n NS get cm --field-selector=nonsense=c",
        Badly("\"nonsense\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
    ),
    ("-n NS get nonsense", Badly("the server doesn't have a resource type \"nonsense\"")),
    ("-n NS get deploy -l app=web --show-labels", Well("app=web")),
    ("-n NS get cm --sort-by=.metadata.name --chunk-size=1", Well("c ")),
    ("get --raw /api/v1/namespaces/NS/configmaps/c", Well("\"a\":\"b\"")),
    ("get namespaces NS -o json", Well("\"phase\": \"Active\"")),
    ("-n NS describe deployment web", Well("StrategyType:")),
    ("-n NS describe service web", Well("TargetPort:")),
    ("-n NS events", Well("")),
    // Changing.
    ("-n NS label cm c x=y", Well("configmap/c labeled")),
    ("-n NS label cm c x=z", Badly("'x' already has a value (y), and --overwrite is false")),
    ("-n NS annotate cm c x=y", Well("configmap/c annotated")),
    ("-n NS patch cm c -p {\"data\":{\"a\":\"c\"}}", Well("configmap/c patched")),
    ("-n NS patch cm c --type=merge -p {\"data\":{\"a\":null}}", Well("configmap/c patched")),
    (
        "-n NS patch cm c --type=json -p [{\"op\":\"add\",\"path\":\"/data\",\"value\":{\"k\":\"v\"}}]",
        Well("configmap/c patched"),
    ),
    ("-n NS patch cm c --type=merge -p {\"data\":{\"k\":\"v\"}}", Well("configmap/c patched (no change)")),
    ("-n NS patch cm c --type=merge -p {\"data\":[1]}", Badly("The request is invalid: patch: Invalid value")),
    (
        "-n NS patch deploy web --subresource=status --type=merge -p {\"status\":{\"observedGeneration\":1}}",
        Well("patched"),
    ),
    ("-n NS scale deploy web --replicas=1", Well("deployment.apps/web scaled")),
    ("-n NS get deploy web --subresource=scale -o jsonpath={.spec.replicas}", Well("1")),
    ("-n NS autoscale deploy web --max=3 --cpu=50%", Well("autoscaled")),
    ("-n NS set image deploy/web nginx=nginx:2", Well("image updated")),
    ("-n NS set env deploy/web A=b", Well("env updated")),
    ("-n NS set resources deploy/web --limits=cpu=1", Well("resource requirements updated")),
    ("-n NS set serviceaccount deploy/web robot", Well("serviceaccount updated")),
    ("-n NS rollout pause deploy/web", Well("paused")),
    ("-n NS rollout resume deploy/web", Well("resumed")),
    ("-n NS rollout restart deploy/web", Well("restarted")),
    ("-n NS expose deploy web --name=again --port=81", Well("service/again exposed")),
    ("-n NS edit cm c", Well("Edit cancelled, no changes made.")),
    ("-n NS replace -f DIR/map.yaml", Badly("Error from server (NotFound): error when replacing")),
    ("-n NS apply -f DIR/map.yaml", Well("configmap/m created")),
    ("-n NS apply -f DIR/map.yaml", Well("configmap/m unchanged")),
    ("-n NS diff -f DIR/map.yaml", Well("")),
    ("-n NS apply view-last-applied cm m", Well("data:")),
    ("-n NS replace -f DIR/map.yaml", Well("configmap/m replaced")),
    (
        "-n NS apply --server-side -f DIR/other.yaml",
        Badly("Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.a"),
    ),
    ("-n NS apply --server-side --force-conflicts -f DIR/other.yaml", Well("configmap/m serverside-applied")),
    ("-n NS apply -f DIR/wrong.yaml", Badly("strict decoding error: unknown field \"dota\"")),
    ("-n NS apply --server-side -f DIR/wrong.yaml", Badly(".dota: field not declared in schema")),
    ("-n NS apply --validate=warn -f DIR/wrong.yaml", Well("configmap/wrong created")),
    // A definition and an object of it in one file: the real kubectl looks all kinds up before the definition is there.
    ("-n NS apply -f DIR/crd.yaml", Either("no matches for kind \"Widget\" in version \"kubectl.example.com/v1\"")),
    ("wait --for=condition=Established crd/widgets.kubectl.example.com --timeout=30s", Well("condition met")),
    ("-n NS apply -f DIR/crd.yaml", Well("widget.kubectl.example.com/w")),
    ("-n NS get kwd", Well("SIZE")),
    ("explain widgets.spec --api-version=kubectl.example.com/v1", Well("size\t<integer>")),
    ("-n NS patch kwd w --type=merge -p {\"spec\":{\"size\":0}}", Badly("should be greater than or equal to 1")),
    ("-n NS apply -f DIR/unknown.yaml", Badly("strict decoding error: unknown field \"spec.sighs\"")),
    // Nodes and rights.
    ("apply -f DIR/node.yaml", Well("node/kubectl-node created")),
    ("cordon kubectl-node", Well("node/kubectl-node cordoned")),
    ("uncordon kubectl-node", Well("node/kubectl-node uncordoned")),
    ("taint node kubectl-node a=b:NoSchedule", Well("node/kubectl-node tainted")),
    ("describe node kubectl-node", Well("a=b:NoSchedule")),
    ("auth can-i create pods", Well("yes")),
    ("auth can-i get pods -n NS --as=system:serviceaccount:NS:robot", Well("yes")),
    ("auth can-i delete pods -n NS --as=system:serviceaccount:NS:robot", Badly("no")),
    ("auth can-i --list -n NS --as=system:serviceaccount:NS:robot", Well("pods")),
    (
        "-n NS delete cm c --as=system:serviceaccount:NS:robot",
        Badly("Error from server (Forbidden): configmaps \"c\" is forbidden"),
    ),
    ("auth whoami", Well("Groups")),
    // Taking away.
    ("delete node kubectl-node", Well("node \"kubectl-node\" deleted")),
    ("-n NS delete -f DIR/map.yaml --dry-run=server", Well("(server dry run)")),
    ("-n NS delete -f DIR/map.yaml", Well("configmap \"m\" deleted")),
    ("-n NS delete deploy -l app=web", Well("deployment.apps \"web\" deleted")),
    ("-n NS delete svc --all", Well("service \"web\" deleted")),
    ("delete crd widgets.kubectl.example.com", Well("\"widgets.kubectl.example.com\" deleted")),
    ("-n NS delete cm nothing", Badly("Error from server (NotFound): configmaps \"nothing\" not found")),
    ("-n NS delete cm nothing --ignore-not-found", Well("")),
    ("delete namespace NS --wait=false", Well("namespace \"NS\" deleted")),
];

const FILES: &[(&str, &str)] = &[
    ("map.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  a: b\n"),
    ("other.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  a: c\n"),
    ("wrong.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: wrong\ndota: {}\n"),
    ("node.yaml", "apiVersion: v1\nkind: Node\nmetadata:\n  name: kubectl-node\n"),
    (
        "crd.yaml",
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata:\n  name: widgets.kubectl.example.com\nspec:\n  group: kubectl.example.com\n  scope: Namespaced\n  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [kwd]}\n  versions:\n  - name: v1\n    served: true\n    storage: true\n    additionalPrinterColumns:\n    - {name: Size, type: integer, jsonPath: .spec.size}\n    schema:\n      openAPIV3Schema:\n        type: object\n        properties:\n          spec:\n            type: object\n            properties:\n              size: {type: integer, minimum: 1}\n---\napiVersion: kubectl.example.com/v1\nkind: Widget\nmetadata: {name: w}\nspec: {size: 3}\n",
    ),
    (
        "unknown.yaml",
        "apiVersion: kubectl.example.com/v1\nkind: Widget\nmetadata: {name: u}\nspec: {size: 3, sighs: 1}\n",
    ),
];

fn main() {
    std::process::exit(cases::run_with(start(), CASES));
}

fn start() -> Result<Run, String> {
    let clients = std::env::var_os("SKIFF_CLIENTS").ok_or("SKIFF_CLIENTS is not set; run `cargo xtask test api`")?;
    let (kubeconfig, server) = support::api(72, "agent,scheduler,proxy,dns,controller-manager")?;
    let home = tempfile::tempdir().map_err(|e| e.to_string())?;
    for (name, text) in FILES {
        std::fs::write(home.path().join(name), text).map_err(|e| format!("{name}: {e}"))?;
    }
    let real = Program { binary: PathBuf::from(clients).join("bin/kubectl"), words: &[] };
    let built_in = Program { binary: process::binary(), words: &["kubectl"] };
    Ok(Run { real, built_in, kubeconfig, home, _server: server })
}

fn every_line(run: &Run, program: &Program) -> Result<(), String> {
    let faults: Vec<String> = LINES.iter().filter_map(|(line, ends)| run.line(program, line, ends).err()).collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

impl Run {
    fn line(&self, program: &Program, line: &str, ends: &Ends) -> Result<(), String> {
        let folder = self.home.path().display().to_string();
        let namespace = format!("kubectl{}-{}", program.words.len(), std::process::id());
        let told = |text: &str| text.replace("NS", &namespace).replace("DIR", &folder);
        let words = line.split(' ').map(|word| told(word).replace('+', " "));
        let mut command = Command::new(&program.binary);
        command
            .args(program.words)
            .args(words)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &folder)
            .env("KUBE_EDITOR", "true");
        let output = command.output().map_err(|e| format!("{}: {e}", program.binary.display()))?;
        let (out, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let has = |words: &str| format!("{out}{complaint}").contains(&told(words));
        let fits = match ends {
            Well(words) => output.status.success() && has(words),
            Without(words) => output.status.success() && !has(words),
            Either(words) => output.status.success() || has(words),
            Badly(words) => !output.status.success() && has(words),
        };
        if fits { Ok(()) } else { Err(format!("kubectl {line}: {}\n{out}{complaint}", output.status)) }
    }
}
