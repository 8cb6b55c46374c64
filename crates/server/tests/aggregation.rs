//! An extension server behind the API: its own process in all but name, over TLS.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::convert::Infallible;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use skiff_server::chain::User;
use support::{Server, start};
use tokio::net::TcpListener;

const GROUP: &str = "wardle.example.com";
const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";

/// Says what it serves, and to whom.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let resources = json!([
        {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get", "list"]},
        {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
    ]);
    let (code, body) = match path.as_str() {
        "/apis/wardle.example.com/v1alpha1" => {
            let gv = format!("{GROUP}/v1alpha1");
            (200, json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv, "resources": resources}))
        }
        "/openapi/v3" => {
            let place = json!({"serverRelativeURL": "/openapi/v3/apis/wardle.example.com/v1alpha1?hash=1"});
            (200, json!({"paths": {"apis/wardle.example.com/v1alpha1": place}}))
        }
        "/openapi/v3/apis/wardle.example.com/v1alpha1" => (200, json!({"openapi": "3.0.0"})),
        "/openapi/v2" => {
            (200, json!({"swagger": "2.0", "paths": {}, "definitions": {"com.example.Flunder": {"type": "object"}}}))
        }
        path if path.contains("/flunders/") => {
            let all = |name: &str| -> Vec<String> {
                request.headers().get_all(name).iter().map(|v| v.to_str().unwrap().to_owned()).collect()
            };
            (
                200,
                json!({
                    "user": all("x-remote-user"), "groups": all("x-remote-group"), "token": all("authorization"),
                    "evil": all("x-remote-extra-evil"), "query": request.uri().query(),
                }),
            )
        }
        _ => (404, json!({"kind": "Status", "code": 404})),
    };
    let answer = Response::builder().status(code).header("content-type", "application/json");
    Ok(answer.body(Full::new(body.to_string().into())).unwrap())
}

/// Starts one that trusts only whom the cluster's ConfigMap names; its port and the authority of its certificate.
async fn extension(server: &Server) -> (u16, String) {
    let known = server.get("/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication").await.ok();
    assert_eq!(known["data"]["requestheader-allowed-names"], "[\"front-proxy-client\"]");
    let mut roots = RootCertStore::empty();
    let pem = known["data"]["requestheader-client-ca-file"].as_str().unwrap();
    roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();

    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "extension-ca");
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let own = KeyPair::generate().unwrap();
    let names = CertificateParams::new(vec!["sample-api.default.svc".to_owned()]).unwrap();
    let certificate = names.signed_by(&own, &issuer).unwrap();
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::from_pem_slice(own.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Who is not let in is the test's business.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(answer);
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (port, authority.pem())
}

fn api_service(version: &str, port: u16, bundle: Option<&str>) -> Value {
    let mut spec = json!({
        "group": GROUP, "version": version, "groupPriorityMinimum": 2000, "versionPriority": 200,
        "service": {"name": "sample-api", "namespace": "default", "port": port},
    });
    match bundle {
        Some(pem) => spec["caBundle"] = json!(base64::engine::general_purpose::STANDARD.encode(pem)),
        None => spec["insecureSkipTLSVerify"] = json!(true),
    }
    let name = format!("{version}.{GROUP}");
    json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": name}, "spec": spec})
}

/// The reason of an APIService's condition, once it is `reason`.
async fn until(server: &Server, name: &str, reason: &str) {
    let mut watch = server.watch(&format!("{SERVICES}?watch=true"), "application/json").await;
    loop {
        let event = watch.next().await.unwrap();
        let object = &event["object"];
        if object["metadata"]["name"] == name && object["status"]["conditions"][0]["reason"] == reason {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_server_becomes_a_part_of_the_api() {
    let server = start().await;
    let (port, authority) = extension(&server).await;
    let name = format!("v1alpha1.{GROUP}");
    server.post(SERVICES, &api_service("v1alpha1", port, Some(&authority))).await.ok();
    until(&server, &name, "ServiceNotFound").await;
    let root = format!("/apis/{GROUP}/v1alpha1");
    let away = server.get(&format!("{root}/namespaces/default/flunders/a")).await;
    assert_eq!((away.code, &*away.bytes), (503, &b"service unavailable\n"[..]));
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "sample-api"},
        "spec": {"type": "ExternalName", "externalName": "localhost"}});
    server.post("/api/v1/namespaces/default/services", &service).await.ok();
    until(&server, &name, "Passed").await;

    // Requests arrive with the user's name, and with nothing a client made up.
    let forged = [("x-remote-user", "evil"), ("x-remote-extra-evil", "x"), ("authorization", "Bearer t")];
    let uri = format!("{root}/namespaces/default/flunders/a?x=1");
    let told = server.send(Method::GET, &uri, &forged, "").await.ok();
    let groups = json!(["system:masters", "system:authenticated"]);
    assert_eq!(told, json!({"user": ["admin"], "groups": groups, "token": [], "evil": [], "query": "x=1"}));
    let alice = server.as_user(User::new("alice", &["system:authenticated"]));
    assert_eq!(alice.get(&uri).await.refusal().0, 403, "judged before it is passed on");

    // It is found wherever clients look.
    assert_eq!(server.get(&root).await.ok()["resources"][0]["name"], "flunders");
    let group = server.get(&format!("/apis/{GROUP}")).await.ok();
    assert_eq!(group["preferredVersion"]["version"], "v1alpha1");
    let groups = server.get("/apis").await.ok();
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == GROUP));
    let all = server.get_as("/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList").await.ok();
    let item = all["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == GROUP).unwrap().clone();
    assert_eq!(item["versions"][0]["freshness"], "Current");
    assert_eq!(item["versions"][0]["resources"][0]["subresources"][0]["subresource"], "status");
    let index = server.get("/openapi/v3").await.ok();
    let place = index["paths"][format!("apis/{GROUP}/v1alpha1")]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert_eq!(server.get(&place).await.ok()["openapi"], "3.0.0");
    let document = server.get("/openapi/v2").await.ok();
    assert!(document["definitions"].get("com.example.Flunder").is_some());
    assert!(document["definitions"].get("io.k8s.api.core.v1.Pod").is_some());

    // Its certificate is checked, unless its owner does not want that.
    let other = KeyPair::generate().unwrap();
    let stranger = CertificateParams::new(vec!["x".to_owned()]).unwrap().self_signed(&other).unwrap().pem();
    server.post(SERVICES, &api_service("v1beta1", port, Some(&stranger))).await.ok();
    until(&server, &format!("v1beta1.{GROUP}"), "FailedDiscoveryCheck").await;
    assert_eq!(server.get(&format!("/apis/{GROUP}/v1beta1/flunders")).await.code, 503);
    server.delete(&format!("{SERVICES}/{name}")).await.ok();
    server.post(SERVICES, &api_service("v1alpha1", port, None)).await.ok();
    until(&server, &name, "Passed").await;

    // Gone is gone; what the server serves itself is still there.
    for version in ["v1alpha1", "v1beta1"] {
        server.delete(&format!("{SERVICES}/{version}.{GROUP}")).await.ok();
    }
    while server.get(&root).await.code != 404 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.get("/apis/metrics.k8s.io/v1beta1/nodes").await.ok()["kind"], "NodeMetricsList");
}
