//! Tokens of another issuer, found by discovery over HTTPS.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::convert::Infallible;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use skiff_client::Body;
use skiff_meta::world::RealWorld;
use skiff_server::auth::AuthenticationConfig;
use skiff_server::chain::{Identity, Peer};
use skiff_server::pki::Pki;
use skiff_server::{Api, Live, ServerConfig};
use skiff_store::MemoryStore;
use tokio::net::TcpListener;

fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// An issuer that publishes the key; its address and its authority's certificate.
async fn issuer(key: &KeyPair) -> (String, String) {
    let own = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&own).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::from_pem_slice(own.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let point = key.der_bytes();
    let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
    let jwk = json!({"kty": "EC", "crv": "P-256", "kid": "k", "use": "sig", "x": part(1..33), "y": part(33..65)});
    let discovery = json!({"issuer": url, "jwks_uri": format!("{url}/keys")});
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let (acceptor, jwk, discovery) = (acceptor.clone(), jwk.clone(), discovery.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    let document = match request.uri().path() {
                        "/.well-known/openid-configuration" => discovery.clone(),
                        _ => json!({"keys": [jwk]}),
                    };
                    async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(document.to_string())))) }
                });
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (url, certificate.pem())
}

fn sign(key: &KeyPair, claims: &Value) -> String {
    let random = SystemRandom::new();
    let der = key.serialize_der();
    let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random).unwrap();
    let signed = format!("{}.{}", encoded(&json!({"alg": "ES256", "kid": "k"})), encoded(claims));
    let signature = signer.sign(&random, signed.as_bytes()).unwrap();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A server that believes what the file says, and what time it is.
async fn believing(file: &Value) -> (Arc<Api>, i64) {
    let (api, now, _) = following(file).await;
    (api, now)
}

/// The same, and where it may be told something else.
async fn following(file: &Value) -> (Arc<Api>, i64, Arc<Live<AuthenticationConfig>>) {
    let world = RealWorld::shared();
    let store = Arc::new(MemoryStore::new(world.clone()));
    let pki = Pki::in_memory(world.now()).unwrap();
    let live = Live::shared(AuthenticationConfig::read(&file.to_string()).unwrap());
    let config = ServerConfig { authentication: Some(live.clone()), ..ServerConfig::default() };
    let now = world.now().as_second();
    (Api::new(config, &pki, store, world).await.unwrap(), now, live)
}

async fn ask(api: &Arc<Api>, request: http::request::Builder, body: String) -> (u16, Bytes) {
    let body: Body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
    let response = api.handle(request.body(body).unwrap(), Identity::Peer(Arc::new(Peer::default()))).await;
    let code = response.status().as_u16();
    (code, response.into_body().collect().await.unwrap().to_bytes())
}

/// Who bears the token.
async fn who(api: &Arc<Api>, token: String) -> (u16, Value) {
    let question = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json");
    let (code, bytes) = ask(api, request, question.to_string()).await;
    (code, serde_json::from_slice::<Value>(&bytes).unwrap()["status"]["userInfo"].clone())
}

#[tokio::test]
async fn another_issuers_tokens_are_believed_as_far_as_they_go() {
    let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let (url, authority) = issuer(&key).await;
    let file = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "jwt": [{
            "issuer": {"url": url, "audiences": ["skiff"], "certificateAuthority": authority},
            "claimValidationRules": [{"claim": "hd", "requiredValue": "example.com"}],
            "claimMappings": {
                "username": {"claim": "sub", "prefix": "oidc:"}, "groups": {"claim": "groups", "prefix": "oidc:"},
                "uid": {"claim": "id"},
            },
        }],
    });
    let (api, now) = believing(&file).await;
    let who = |token: String| who(&api, token);
    let claims = json!({
        "iss": url, "aud": ["x", "skiff"], "sub": "jane", "groups": ["devs"], "id": "7", "exp": now + 600, "hd": "example.com",
    });
    let (code, user) = who(sign(&key, &claims)).await;
    assert_eq!((code, &user["username"], &user["uid"]), (201, &json!("oidc:jane"), &json!("7")));
    assert_eq!(user["groups"], json!(["oidc:devs", "system:authenticated"]));
    assert_eq!(who(sign(&other, &claims)).await.0, 401, "signed by somebody else");
    let unsigned = format!("{}.{}.", encoded(&json!({"alg": "none"})), encoded(&claims));
    assert_eq!(who(unsigned).await.0, 401, "signed by nobody");
    for (claim, value) in [
        ("exp", json!(now - 1)),
        ("aud", json!("x")),
        ("hd", json!("y")),
        ("sub", json!("")),
        ("nbf", json!(now + 9_000)),
    ] {
        let mut changed = claims.clone();
        changed[claim] = value;
        assert_eq!(who(sign(&key, &changed)).await.0, 401, "{claim}");
    }
}

#[tokio::test]
async fn expressions_name_users_and_judge_them() {
    let key = KeyPair::generate().unwrap();
    let (url, authority) = issuer(&key).await;
    let file = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]},
        "jwt": [{
            "issuer": {"url": url, "audiences": ["skiff"], "certificateAuthority": authority},
            "claimValidationRules": [{"expression": "claims.exp - claims.iat <= 3600", "message": "lives too long"}],
            "claimMappings": {
                "username": {"expression": "claims.?email_verified.orValue(false) ? claims.email : 'id:' + claims.sub"},
                "groups": {"expression": "claims.roles.split(',').map(role, 'team:' + role)"},
                "uid": {"expression": "string(claims.id)"},
                "extra": [{"key": "example.com/tenant", "valueExpression": "claims.tenant"},
                    {"key": "example.com/none", "valueExpression": "''"}],
            },
            "userValidationRules": [
                {"expression": "!user.username.startsWith('id:system:')", "message": "reserved"},
                {"expression": "user.groups.all(group, group != 'team:root')"},
            ],
        }],
    });
    let (api, now) = believing(&file).await;
    let claims = json!({"iss": url, "aud": "skiff", "sub": "jane", "id": 7, "roles": "a,b", "iat": now, "exp": now + 600,
        "tenant": ["t"], "email": "jane@example.com"});
    let (code, user) = who(&api, sign(&key, &claims)).await;
    let extra = json!({"example.com/tenant": ["t"]});
    let wanted = json!({"username": "id:jane", "uid": "7", "groups": ["team:a", "team:b", "system:authenticated"],
        "extra": extra});
    assert_eq!((code, user), (201, wanted));
    for (claim, value, name) in [
        ("email_verified", json!(true), Some("jane@example.com")),
        ("exp", json!(now + 4_000), None),
        ("sub", json!("system:admin"), None),
        ("sub", json!(1), None),
        ("roles", json!("root"), None),
        ("roles", json!(null), None),
        ("tenant", json!([1]), None),
    ] {
        let mut changed = claims.clone();
        changed[claim] = value;
        let (code, user) = who(&api, sign(&key, &changed)).await;
        let expected = if name.is_some() { 201 } else { 401 };
        assert_eq!((code, user["username"].as_str()), (expected, name), "{claim}: {user}");
    }
    for (path, code) in [("/livez", 200), ("/readyz", 401), ("/version", 401), ("/livez/ping", 401)] {
        assert_eq!(ask(&api, Request::get(path), String::new()).await.0, code, "{path}");
    }
}

#[tokio::test]
async fn issuers_come_and_go_while_the_server_runs() {
    let key = KeyPair::generate().unwrap();
    let (url, authority) = issuer(&key).await;
    let jwt = json!({
        "issuer": {"url": url, "audiences": ["skiff"], "certificateAuthority": authority},
        "claimMappings": {"username": {"claim": "sub", "prefix": ""}},
    });
    let file = |jwt: Value, anonymous: bool| {
        json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": jwt,
            "anonymous": {"enabled": anonymous}})
    };
    let (api, now, live) = following(&file(json!([]), true)).await;
    let token = sign(&key, &json!({"iss": url, "aud": "skiff", "sub": "jane", "exp": now + 600}));
    let first = live.get();
    for (issuers, expected) in [(json!([]), 401), (json!([jwt]), 201), (json!([]), 401)] {
        let text = file(issuers, true).to_string();
        live.replace(AuthenticationConfig::read_again(&text, &first).unwrap());
        assert_eq!(who(&api, token.clone()).await.0, expected, "{text}");
    }
    let refused = AuthenticationConfig::read_again(&file(json!([]), false).to_string(), &first).unwrap_err();
    assert!(refused.to_string().ends_with("anonymous: cannot change while it runs"), "{refused}");
}
