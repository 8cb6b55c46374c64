//! Identity through the whole pipeline: a server in memory, asked as clients ask it.

use std::sync::Arc;

use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use skiff_meta::world::RealWorld;
use skiff_store::MemoryStore;

use crate::chain::{Identity, Peer, User};
use crate::pki::Pki;
use crate::{Api, ServerConfig};

const TOKEN: &str = "s3cret";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";

/// A server, and how to ask it.
struct Server {
    api: Arc<Api>,
}

/// Somebody who asks.
enum Who<'a> {
    Nobody,
    Bearer(&'a str),
    /// Bearer of the administrator's token who acts as somebody else.
    As(&'a str, &'a [&'a str]),
    Node(&'a str),
}

impl Server {
    async fn new() -> Self {
        Self::on(Arc::new(MemoryStore::new(RealWorld::shared()))).await
    }

    async fn on(store: Arc<MemoryStore>) -> Self {
        let world = RealWorld::shared();
        let pki = Pki::in_memory(world.now()).unwrap();
        let config = ServerConfig { admin_token: Some(TOKEN.to_owned()), ..ServerConfig::default() };
        Self { api: Api::new(config, &pki, store, world).await.unwrap() }
    }

    async fn send(&self, who: Who<'_>, method: Method, uri: &str, body: &Value) -> (u16, Value) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let mut request = Request::builder().method(method).uri(uri).header("content-type", "application/json");
        let mut identity = Identity::Peer(Arc::new(Peer::default()));
        match who {
            Who::Nobody => {}
            Who::Bearer(token) => request = request.header("authorization", format!("Bearer {token}")),
            Who::As(user, groups) => {
                request = request.header("authorization", format!("Bearer {TOKEN}")).header("impersonate-user", user);
                for group in groups {
                    request = request.header("impersonate-group", *group);
                }
            }
            Who::Node(name) => {
                let groups = ["system:nodes", "system:authenticated"];
                identity = Identity::Bound(Arc::new(User::new(format!("system:node:{name}"), &groups)));
            }
        }
        let body = Full::new(text.into()).map_err(|never| match never {}).boxed_unsync();
        let response = self.api.handle(request.body(body).unwrap(), identity).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn get(&self, who: Who<'_>, uri: &str) -> (u16, Value) {
        self.send(who, Method::GET, uri, &Value::Null).await
    }

    async fn admin(&self, method: Method, uri: &str, body: Value) -> Value {
        let (code, answer) = self.send(Who::Bearer(TOKEN), method, uri, &body).await;
        assert!((200..300).contains(&code), "{uri}: {answer}");
        answer
    }

    /// Waits until what was written shows: a right that was taken away ends as soon as the cache knows.
    async fn settle(&self) {
        self.api.view().refresh(&skiff_meta::GroupResource::new("", "pods")).await.unwrap();
    }

    async fn create(&self, uri: &str, body: Value) -> Value {
        self.admin(Method::POST, uri, body).await
    }
}

/// Code and message.
fn told((code, answer): &(u16, Value)) -> (u16, &str) {
    (*code, answer["message"].as_str().unwrap_or_default())
}

fn pod(name: &str, node: &str, account: &str, secret: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "nodeName": node, "serviceAccountName": account, "containers": [{"name": "c", "image": "i"}],
            "volumes": [{"name": "s", "secret": {"secretName": secret}}],
        },
    })
}

fn account(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
}

fn role(rules: Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "reader"}, "rules": rules})
}

fn binding(role: &str, subject: Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role}, "subjects": [subject],
    })
}

#[tokio::test]
async fn strangers_and_nobody_get_what_upstream_gives_them() {
    let server = Server::new().await;
    for uri in ["/readyz", "/livez", "/healthz", "/version"] {
        assert_eq!(server.get(Who::Nobody, uri).await.0, 200, "{uri}");
    }
    let list = server.get(Who::Nobody, "/api/v1/namespaces/default/pods").await;
    let words = r#"pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" in the namespace "default""#;
    assert_eq!(told(&list), (403, words));
    let path = server.get(Who::Nobody, "/metrics").await;
    assert_eq!(told(&path), (403, r#"forbidden: User "system:anonymous" cannot get path "/metrics""#));
    let (code, status) = server.get(Who::Bearer("wrong"), "/readyz").await;
    assert_eq!((code, &status["reason"], &status["message"]), (401, &json!("Unauthorized"), &json!("Unauthorized")));
    assert_eq!(server.get(Who::Bearer(TOKEN), "/metrics").await.0, 200);
}

#[tokio::test]
async fn an_accounts_token_grants_what_its_roles_grant_until_the_account_goes() {
    let server = Server::new().await;
    server.create(ACCOUNTS, account("robot")).await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let issued = server.create(&format!("{ACCOUNTS}/robot/token"), request).await;
    let token = issued["status"]["token"].as_str().unwrap();
    let pods = "/api/v1/namespaces/default/pods";

    let words = r#"pods is forbidden: User "system:serviceaccount:default:robot" cannot list resource "pods" in API group "" in the namespace "default""#;
    assert_eq!(told(&server.get(Who::Bearer(token), pods).await), (403, words));
    server
        .create(BINDINGS, binding("reader", json!({"kind": "ServiceAccount", "name": "robot", "namespace": "default"})))
        .await;
    let missing = format!("{words}: RBAC: role.rbac.authorization.k8s.io \"reader\" not found");
    assert_eq!(told(&server.get(Who::Bearer(token), pods).await), (403, missing.as_str()));
    server.create(ROLES, role(json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]))).await;
    assert_eq!(server.get(Who::Bearer(token), pods).await.0, 200);
    server.admin(Method::DELETE, &format!("{BINDINGS}/reader"), Value::Null).await;
    server.settle().await;
    assert_eq!(server.get(Who::Bearer(token), pods).await.0, 403);
    server.admin(Method::DELETE, &format!("{ACCOUNTS}/robot"), Value::Null).await;
    server.settle().await;
    assert_eq!(server.get(Who::Bearer(token), pods).await.0, 401);
}

#[tokio::test]
async fn nobody_raises_themselves() {
    let server = Server::new().await;
    let alice = Who::As("alice", &[]);
    let manage = json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["create"]}]);
    server.create(ROLES, role(manage)).await;
    server
        .create(
            BINDINGS,
            binding("reader", json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"})),
        )
        .await;
    let mut greedy = role(json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]));
    greedy["metadata"]["name"] = json!("greedy");
    let refusal = server.send(alice, Method::POST, ROLES, &greedy).await;
    let words = "roles.rbac.authorization.k8s.io \"greedy\" is forbidden: user \"alice\" (groups=[\"system:authenticated\"]) \
                 is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\"]}";
    assert_eq!(told(&refusal), (403, words));

    let (code, _) = server.send(Who::As("alice", &["system:masters"]), Method::POST, ROLES, &greedy).await;
    assert_eq!(code, 201, "only who may impersonate masters gets here");
}

#[tokio::test]
async fn acting_as_somebody_else_takes_the_right_to() {
    let server = Server::new().await;
    let review = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let question = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let (code, answer) = server.send(Who::As("system:serviceaccount:a:b", &[]), Method::POST, review, &question).await;
    let groups = json!(["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]);
    assert_eq!((code, &answer["status"]["userInfo"]["groups"]), (201, &groups), "{answer}");

    let mut request =
        Request::post(review).header("impersonate-user", "root").header("content-type", "application/json");
    request = request.header("impersonate-group", "system:masters");
    let body = Full::new(question.to_string().into()).map_err(|never| match never {}).boxed_unsync();
    let bob = Identity::Bound(Arc::new(User::new("bob", &["system:authenticated"])));
    let response = server.api.handle(request.body(body).unwrap(), bob).await;
    assert_eq!(response.status(), 403);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let status: Value = serde_json::from_slice(&bytes).unwrap();
    let words = r#"users "root" is forbidden: User "bob" cannot impersonate resource "users" in API group "" at the cluster scope"#;
    assert_eq!(status["message"], words);
}

#[tokio::test]
async fn a_node_sees_and_touches_only_what_its_pods_need() {
    let server = Server::new().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    for (name, node) in [("one", "n1"), ("two", "n2")] {
        server.create(ACCOUNTS, account(name)).await;
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
        server.create(secrets, secret).await;
        server.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})).await;
        server.create("/api/v1/namespaces/default/pods", pod(name, node, name, name)).await;
    }
    assert_eq!(server.get(Who::Node("n1"), &format!("{secrets}/one")).await.0, 200);
    let words = "secrets \"two\" is forbidden: User \"system:node:n1\" cannot get resource \"secrets\" in API group \"\" in the \
                 namespace \"default\": no relationship found between node 'n1' and this object";
    assert_eq!(told(&server.get(Who::Node("n1"), &format!("{secrets}/two")).await), (403, words));
    assert_eq!(server.get(Who::Node("n1"), secrets).await.0, 403);
    assert_eq!(server.get(Who::Node("n1"), "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.0, 200);
    assert_eq!(server.get(Who::Node("n1"), "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2").await.0, 403);
    assert_eq!(server.get(Who::Node("n1"), "/api/v1/nodes/n2").await.0, 403);

    let request = |bound: Value| {
        json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound, "audiences": []},
        })
    };
    let uid =
        server.admin(Method::GET, "/api/v1/namespaces/default/pods/one", Value::Null).await["metadata"]["uid"].clone();
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "one", "uid": uid});
    let token = |node, account: &str, bound: Value| {
        let (uri, body) = (format!("{ACCOUNTS}/{account}/token"), request(bound));
        let server = &server;
        async move { server.send(Who::Node(node), Method::POST, &uri, &body).await }
    };
    // Without a volume for it the pod's own token is mounted, whose audience is the server's.
    assert_eq!(token("n1", "one", bound.clone()).await.0, 201);
    let unbound = token("n1", "one", Value::Null).await;
    assert_eq!(told(&unbound), (403, "serviceaccounts \"one\" is forbidden: node requested token not bound to a pod"));
    assert_eq!(token("n2", "one", bound).await.0, 403);
}

#[tokio::test]
async fn namespaces_that_are_not_there_or_going_take_nothing() {
    let server = Server::new().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    let nowhere = server.send(Who::Bearer(TOKEN), Method::POST, "/api/v1/namespaces/nowhere/configmaps", &map).await;
    assert_eq!(told(&nowhere), (404, "namespaces \"nowhere\" not found"));
    let pod = pod("p", "", "default", "s");
    let nowhere = server.send(Who::Bearer(TOKEN), Method::POST, "/api/v1/namespaces/nowhere/pods", &pod).await;
    assert_eq!(told(&nowhere), (404, "namespaces \"nowhere\" not found"), "and not that its account is missing");
    let (code, _) =
        server.send(Who::Bearer(TOKEN), Method::DELETE, "/api/v1/namespaces/kube-system", &Value::Null).await;
    assert_eq!(code, 403);

    server
        .create("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "brief"}}))
        .await;
    server.create("/api/v1/namespaces/brief/configmaps", map.clone()).await;
    server.admin(Method::DELETE, "/api/v1/namespaces/brief", Value::Null).await;
    // However far behind the cache may be: the write itself is bound to the namespace as it was.
    let late = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "late"}});
    let late = server.send(Who::Bearer(TOKEN), Method::POST, "/api/v1/namespaces/brief/configmaps", &late).await;
    let words = "configmaps \"late\" is forbidden: unable to create new content in namespace brief because it is being terminated";
    assert_eq!(told(&late), (403, words));
}

#[tokio::test]
async fn pods_are_completed_by_admission() {
    let server = Server::new().await;
    server.create(ACCOUNTS, account("default")).await;
    let plain = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pod = server.create("/api/v1/namespaces/default/pods", plain).await;
    let spec = &pod["spec"];
    assert_eq!((&spec["serviceAccountName"], &spec["priority"]), (&json!("default"), &json!(0)));
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    let sources = spec["volumes"][0]["projected"]["sources"].as_array().unwrap();
    assert_eq!((sources.len(), &sources[0]["serviceAccountToken"]["path"]), (3, &json!("token")));
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], spec["volumes"][0]["name"]);
    let node =
        server.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})).await;
    assert_eq!(node["spec"]["taints"], json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]));
}

#[tokio::test]
async fn others_can_check_tokens_by_themselves() {
    let server = Server::new().await;
    let (code, configuration) = server.get(Who::Bearer(TOKEN), "/.well-known/openid-configuration").await;
    assert_eq!((code, &configuration["issuer"]), (200, &json!("https://kubernetes.default.svc.cluster.local")));
    assert_eq!(server.get(Who::Bearer(TOKEN), "/openid/v1/jwks").await.1["keys"][0]["alg"], "ES256");
    assert_eq!(server.get(Who::Nobody, "/openid/v1/jwks").await.0, 403);
    let authentication = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";
    let map = server.admin(Method::GET, authentication, Value::Null).await;
    assert!(map["data"]["client-ca-file"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
}

#[tokio::test]
async fn a_restart_repairs_the_default_roles() {
    let store = Arc::new(MemoryStore::new(RealWorld::shared()));
    let uri = "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:discovery";
    let first = Server::on(store.clone()).await;
    let whole = first.admin(Method::GET, uri, Value::Null).await;
    let mut broken = whole.clone();
    broken["rules"] = json!([]);
    first.admin(Method::PUT, uri, broken).await;
    let second = Server::on(store.clone()).await;
    assert_eq!(second.admin(Method::GET, uri, Value::Null).await["rules"].as_array().unwrap().len(), 11);
    let revision = skiff_store::Store::revision(&*store).await.unwrap();
    Server::on(store.clone()).await;
    // Each of these servers has an authority of its own, which it publishes; nothing else is written.
    let all = skiff_store::RangeQuery { keys: skiff_store::KeyRange::prefix("/registry/"), limit: 0, at: None };
    let written = skiff_store::Store::range(&*store, all).await.unwrap().items;
    let written: Vec<_> = written.iter().filter(|pair| pair.modified > revision).map(|pair| &pair.key[..]).collect();
    let authority: &[u8] = b"/registry/configmaps/kube-system/extension-apiserver-authentication";
    assert_eq!(written, [authority], "nothing to repair");
}
