use clap::Parser;
use serde_json::{Value, json};

use super::generators::Generator;
use super::{network, rights};
use crate::kinds::tests::sample;

#[derive(Parser)]
struct Words {
    #[command(subcommand)]
    generator: Generator,
}

fn parsed(words: &str) -> Generator {
    Words::try_parse_from(std::iter::once("create").chain(words.split(' ')))
        .unwrap_or_else(|e| panic!("{words}: {e}"))
        .generator
}

fn manifest_of_ingress(words: &str) -> Value {
    let Generator::Ingress(ingress) = parsed(words) else { panic!("{words}") };
    ingress.manifest().unwrap()
}

fn manifest_of_service(words: &str) -> Result<Value, crate::error::CliError> {
    let Generator::Service { kind } = parsed(words) else { panic!("{words}") };
    network::ServiceKind::manifest(&kind)
}

#[test]
fn rules_of_one_host_stand_together() {
    let ingress = manifest_of_ingress(
        "ingress way --class=c --rule=a.com/x*=s:80,tls=cert --rule=a.com/y=s:http --rule=/=t:1 --rule=b.com/=u:2,tls",
    );
    let backend = |service: &str, port: Value| json!({"service": {"name": service, "port": port}});
    assert_eq!(
        ingress["spec"],
        json!({
            "ingressClassName": "c",
            "rules": [
                {"host": "a.com", "http": {"paths": [
                    {"path": "/x", "pathType": "Prefix", "backend": backend("s", json!({"number": 80}))},
                    {"path": "/y", "pathType": "Exact", "backend": backend("s", json!({"name": "http"}))}]}},
                {"http": {"paths": [{"path": "/", "pathType": "Exact", "backend": backend("t", json!({"number": 1}))}]}},
                {"host": "b.com", "http": {"paths": [
                    {"path": "/", "pathType": "Exact", "backend": backend("u", json!({"number": 2}))}]}},
            ],
            "tls": [{"hosts": ["a.com"], "secretName": "cert"}, {"hosts": ["b.com"]}],
        })
    );
}

#[test]
fn services_by_type() {
    let service = manifest_of_service("service nodeport web --tcp=80:http,81 --node-port=30000").unwrap();
    assert_eq!(
        service["spec"],
        json!({"type": "NodePort", "selector": {"app": "web"}, "ports": [
            {"name": "80-http", "port": 80, "protocol": "TCP", "targetPort": "http", "nodePort": 30000},
            {"name": "81", "port": 81, "protocol": "TCP", "targetPort": 81}]})
    );
    assert_eq!(manifest_of_service("service clusterip web --clusterip=None").unwrap()["spec"]["clusterIP"], "None");
    assert!(manifest_of_service("service clusterip web").is_err());
    assert!(manifest_of_service("service clusterip web --tcp=0").is_err());
}

#[test]
fn rights_are_grouped() {
    let words = "role r --verb=get,list,get --resource=pods,deploy.apps/scale,po --resource-name=x";
    let Generator::Role { rights, .. } = parsed(words) else { panic!("{words}") };
    assert_eq!(
        json!(rights::Rights::rules(&rights, &sample()).unwrap()),
        json!([
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"], "resourceNames": ["x"]},
            {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get", "list"], "resourceNames": ["x"]},
        ])
    );
}

#[test]
fn subjects_of_bindings() {
    let words = "clusterrolebinding b --clusterrole=view --user=u --group=g --serviceaccount=n:s";
    let Generator::Clusterrolebinding { clusterrole, subjects, .. } = parsed(words) else { panic!("{words}") };
    let binding = rights::binding("ClusterRole", &clusterrole, &subjects).unwrap();
    assert_eq!(binding["roleRef"], json!({"apiGroup": rights::GROUP, "kind": "ClusterRole", "name": "view"}));
    assert_eq!(
        binding["subjects"],
        json!([
            {"kind": "User", "apiGroup": rights::GROUP, "name": "u"},
            {"kind": "Group", "apiGroup": rights::GROUP, "name": "g"},
            {"kind": "ServiceAccount", "name": "s", "namespace": "n"},
        ])
    );
}
