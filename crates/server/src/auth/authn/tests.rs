//! Tokens, certificates, and what revokes them.

use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use skiff_meta::World;

use super::*;
use crate::auth::testing::{Frozen, TestView, block_on};
use crate::chain::{TokenIssuer, View};
use crate::pki::Pki;

const START: i64 = 1_800_000_000;
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

struct Setup {
    view: Arc<TestView>,
    world: Arc<Frozen>,
    pki: Pki,
    accounts: Arc<Accounts>,
    authenticators: Authenticators,
}

impl Setup {
    fn new() -> Self {
        let (view, world) = (TestView::shared(), Frozen::at(START));
        let pki = Pki::in_memory(world.now()).unwrap();
        let accounts = Arc::new(Accounts::new(pki.account_key(), ISSUER.to_owned(), view.clone(), world.clone()));
        let certificates = Certificates::new(pki.client_verifier().unwrap());
        let authenticators = Authenticators::new(certificates, accounts.clone(), Some("s3cret"));
        view.put("serviceaccounts", json!({"metadata": {"name": "robot", "namespace": "a", "uid": "robot-1"}}));
        view.put(
            "pods",
            json!({
                "metadata": {"name": "web", "namespace": "a", "uid": "web-1"},
                "spec": {"serviceAccountName": "robot", "nodeName": "n1", "containers": []},
            }),
        );
        view.put("nodes", json!({"metadata": {"name": "n1", "uid": "n1-1"}}));
        Self { view, world, pki, accounts, authenticators }
    }

    fn issue(&self, spec: Value) -> Result<Value, Status> {
        let account = self.view.get(&skiff_meta::GroupResource::new("", "serviceaccounts"), "a", "robot").unwrap();
        block_on(self.accounts.issue(&account, json!({"spec": spec}), &*self.view))
    }

    fn token(&self, spec: Value) -> String {
        self.issue(spec).unwrap()["status"]["token"].as_str().unwrap().to_owned()
    }

    fn who(&self, token: &str) -> Result<Arc<User>, u16> {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
        block_on(self.authenticators.authenticate("/api", &headers, &Peer::default())).map_err(|status| status.code)
    }

    fn who_by(&self, certificates: Vec<CertificateDer<'static>>) -> Result<Arc<User>, u16> {
        let peer = Peer { certificates, ..Peer::default() };
        block_on(self.authenticators.authenticate("/api", &HeaderMap::new(), &peer)).map_err(|status| status.code)
    }
}

#[test]
fn only_front_proxies_speak_for_others() {
    let setup = Setup::new();
    let front = FrontProxy::new(Certificates::new(setup.pki.front_proxy_verifier().unwrap()));
    let authenticators =
        Authenticators::new(Certificates::new(setup.pki.client_verifier().unwrap()), setup.accounts.clone(), None)
            .behind(front);
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-remote-user", "bob"),
        ("x-remote-group", "devs"),
        ("x-remote-uid", "7"),
        ("x-remote-extra-example.com%2fscope", "all"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let who = |headers: &HeaderMap, certificate: Option<CertificateDer<'static>>| {
        let certificates = certificate.into_iter().collect();
        let peer = Peer { certificates, ..Peer::default() };
        block_on(authenticators.authenticate("/api", headers, &peer)).map_err(|status| status.code)
    };
    let now = setup.world.now();
    let proxy = || setup.pki.front_proxy_client(now).unwrap().certificate();
    let bob = who(&headers, proxy()).unwrap();
    assert_eq!((&*bob.name, &*bob.uid, bob.groups.clone()), ("bob", "7", vec!["devs".into(), AUTHENTICATED.into()]));
    assert_eq!(bob.extra["example.com/scope"], ["all"]);
    // Nobody else: neither without a certificate, nor with one of the cluster's own, whatever its name.
    assert_eq!(who(&headers, None).unwrap().name, "system:anonymous");
    let forged = setup.pki.issue_client("front-proxy-client", "", now).unwrap();
    assert_eq!(who(&headers, forged.certificate_der().ok()).unwrap().name, "front-proxy-client");
    // And a front proxy is nobody by itself.
    assert_eq!(who(&HeaderMap::new(), proxy()).map(|user| user.name.clone()), Err(401));
}

#[test]
fn a_pods_token_tells_whose_it_is() {
    let setup = Setup::new();
    let bound = json!({"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": "web-1"});
    let answer = setup.issue(json!({"boundObjectRef": bound, "expirationSeconds": 3_607})).unwrap();
    assert_eq!(answer["status"]["expirationTimestamp"], "2027-01-15T09:00:07Z");
    assert_eq!(answer["spec"]["audiences"], json!([ISSUER]));
    let user = setup.who(answer["status"]["token"].as_str().unwrap()).unwrap();
    assert_eq!(user.name, "system:serviceaccount:a:robot");
    assert_eq!(user.uid, "robot-1");
    assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]);
    let extra = |key: &str| user.extra[&format!("authentication.kubernetes.io/{key}")][0].clone();
    assert_eq!((extra("pod-name"), extra("pod-uid")), ("web".to_owned(), "web-1".to_owned()));
    assert_eq!((extra("node-name"), extra("node-uid")), ("n1".to_owned(), "n1-1".to_owned()));
    assert!(extra("credential-id").starts_with("JTI="));
}

#[test]
fn tokens_end_with_what_they_are_bound_to() {
    let pod = json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web"}});
    type Break = fn(&Setup);
    let breaks: [(&str, Break); 7] = [
        ("nothing", |_| {}),
        ("pod gone", |s| s.view.remove("pods", "a", "web")),
        ("pod made anew", |s| {
            s.view.put("pods", json!({"metadata": {"name": "web", "namespace": "a", "uid": "web-2"}}));
        }),
        ("account gone", |s| s.view.remove("serviceaccounts", "a", "robot")),
        ("account made anew", |s| {
            s.view.put("serviceaccounts", json!({"metadata": {"name": "robot", "namespace": "a", "uid": "robot-2"}}));
        }),
        ("long deleted", |s| {
            let deleted = Timestamp::from_second(START - 100).unwrap().to_string();
            let meta = json!({"name": "web", "namespace": "a", "uid": "web-1", "deletionTimestamp": deleted});
            s.view.put("pods", json!({"metadata": meta}));
        }),
        ("expired", |s| s.world.advance(3_600 + 61)),
    ];
    for (what, damage) in breaks {
        let setup = Setup::new();
        let token = setup.token(pod.clone());
        assert!(setup.who(&token).is_ok(), "{what}: good at first");
        damage(&setup);
        let expected = if what == "nothing" { None } else { Some(401) };
        assert_eq!(setup.who(&token).err(), expected, "{what}");
    }
}

#[test]
fn audiences_keep_tokens_apart() {
    let setup = Setup::new();
    let token = setup.token(json!({"audiences": ["vault", "db"]}));
    assert_eq!(setup.who(&token).err(), Some(401));
    let check = |audience: &str| block_on(setup.authenticators.bearer(&token, &[audience.to_owned(), "x".to_owned()]));
    assert_eq!(check("vault").unwrap().audiences, ["vault"]);
    let refusal = check("other").unwrap_err().to_string();
    assert!(refusal.contains(r#"token audiences ["vault", "db"] is invalid"#), "{refusal}");
}

#[test]
fn bad_requests_for_tokens_are_told() {
    let setup = Setup::new();
    let bound = |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name, "uid": uid}});
    setup.view.put("pods", json!({"metadata": {"name": "other", "namespace": "a"}, "spec": {"containers": []}}));
    let cases = [
        (json!({"expirationSeconds": 599}), 422, "may not specify a duration less than 10 minutes"),
        (json!({"expirationSeconds": 1u64 << 33}), 422, "may not specify a duration larger than 2^32 seconds"),
        (bound("Pod", "nowhere", ""), 404, "pods \"nowhere\" not found"),
        (bound("Pod", "web", "web-0"), 409, "the UID in the bound object reference (web-0) does not match"),
        (
            bound("Pod", "other", ""),
            400,
            "cannot bind token for serviceaccount \"robot\" to pod running with different",
        ),
        (bound("ConfigMap", "x", ""), 400, "cannot bind token to object of type /v1, Kind=ConfigMap"),
    ];
    for (spec, code, words) in cases {
        let status = setup.issue(spec).unwrap_err();
        assert_eq!(status.code, code, "{status}");
        assert!(status.message.contains(words), "{status}");
    }
}

#[test]
fn strangers_and_nobody() {
    let setup = Setup::new();
    let foreign = Setup::new().token(json!({}));
    for bad in [foreign.as_str(), "", "rubbish", "a.b.c", "s3cre", "s3cret2"] {
        let expected = if bad.is_empty() { Ok("system:anonymous".to_owned()) } else { Err(401) };
        assert_eq!(setup.who(bad).map(|user| user.name.clone()), expected, "{bad}");
    }
    let admin = setup.who("s3cret").unwrap();
    assert!(admin.is_in("system:masters"));
    let nobody = setup.who_by(Vec::new()).unwrap();
    assert_eq!(
        (nobody.name.as_str(), nobody.groups.as_slice()),
        ("system:anonymous", &["system:unauthenticated".to_owned()][..])
    );
}

#[test]
fn certificates_name_users_until_they_end() {
    let setup = Setup::new();
    let now = setup.world.now();
    let chain = |pair: crate::pki::Pair| vec![pair.certificate_der().unwrap()];
    let own = chain(setup.pki.issue_client("alice", "ops", now).unwrap());
    let user = setup.who_by(own.clone()).unwrap();
    assert_eq!(user.name, "alice");
    assert_eq!(user.groups, ["ops", "system:authenticated"]);
    assert!(user.extra["authentication.kubernetes.io/credential-id"][0].starts_with("X509SHA256="));

    let foreign = chain(Pki::in_memory(now).unwrap().issue_client("alice", "system:masters", now).unwrap());
    assert_eq!(setup.who_by(foreign).err(), Some(401));
    let names = crate::pki::ServingNames::of(["kubernetes".to_owned()]);
    let serving = setup.pki.node_identity(&names, now).unwrap().certificate().into_iter().collect();
    assert_eq!(setup.who_by(serving).err(), Some(401), "a serving certificate is no client's");
    setup.world.advance(366 * 86_400);
    assert_eq!(setup.who_by(own).err(), Some(401), "ended, though seen before");
}

#[test]
fn a_good_token_makes_up_for_a_bad_certificate() {
    let setup = Setup::new();
    let now = setup.world.now();
    let foreign = Pki::in_memory(now).unwrap().issue_client("alice", "", now).unwrap();
    let peer = Peer { certificates: vec![foreign.certificate_der().unwrap()], ..Peer::default() };
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_static("bearer s3cret"));
    let user = block_on(setup.authenticators.authenticate("/api", &headers, &peer)).unwrap();
    assert!(user.is_in("system:masters"));
}

#[test]
fn tokens_of_old_are_those_of_their_secrets_and_only_these_are_in_use() {
    use base64::Engine as _;
    let setup = Setup::new();
    let claims = json!({"iss": legacy::ISSUER, "sub": "system:serviceaccount:a:robot",
        "kubernetes.io/serviceaccount/namespace": "a", "kubernetes.io/serviceaccount/secret.name": "old",
        "kubernetes.io/serviceaccount/service-account.name": "robot",
        "kubernetes.io/serviceaccount/service-account.uid": "robot-1"});
    let token = setup.pki.account_key().sign(&claims).unwrap();
    let put = |token: &str, labels: Value| {
        let data = json!({"token": base64::engine::general_purpose::STANDARD.encode(token)});
        let metadata = json!({"name": "old", "namespace": "a", "uid": "old-1", "labels": labels});
        setup.view.put("secrets", json!({"metadata": metadata, "data": data}));
    };
    let mut uses = setup.accounts.legacy_uses().unwrap();
    assert_eq!(setup.who(&token).map(|_| ()), Err(401), "without its Secret");
    put("another", json!({}));
    assert_eq!(setup.who(&token).map(|_| ()), Err(401), "with another one's");
    assert!(uses.try_recv().is_err(), "what is refused is not in use");
    put(&token, json!({}));
    assert_eq!(setup.who(&token).unwrap().name, "system:serviceaccount:a:robot");
    assert_eq!(uses.try_recv().unwrap(), ("a".to_owned(), "old".to_owned()));
    put(&token, json!({"kubernetes.io/legacy-token-last-used": legacy::day(setup.world.now())}));
    assert!(setup.who(&token).is_ok() && uses.try_recv().is_err(), "once a day is enough");
    put(&token, json!({"kubernetes.io/legacy-token-invalid-since": "2026-01-01"}));
    assert_eq!(setup.who(&token).map(|_| ()), Err(401), "marked as good no more");
}
