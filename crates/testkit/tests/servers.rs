//! Several servers on one real etcd, and an etcd that upstream has written to.
#![allow(clippy::expect_used, reason = "a test may")]

#[path = "../../store/tests/support/etcd.rs"]
#[allow(dead_code, reason = "each test binary uses its part")]
mod etcd;

use std::time::Duration;

use etcd::{Cluster, block_on};
use futures::StreamExt;
use skiff_client::config::Kubeconfig;
use skiff_client::http::HttpBackend;
use skiff_client::{Backend, Event, ListTarget, Selection};
use skiff_meta::GroupVersionResource;
use skiff_meta::world::{RealWorld, WorldExt};
use skiff_store::{Store, Transaction, Write};
use skiff_testkit::process::{Process, Setup, eventually};

fn setup(etcd: &Cluster, number: u8, address: &str) -> Setup {
    let endpoints = etcd.urls().collect::<Vec<_>>().join(",");
    let flags = ["--datastore-endpoint", &endpoints, "--node-ip", address, "--disable", "agent,proxy,dns"];
    Setup { number, flags: flags.map(str::to_owned).to_vec(), images: Vec::new() }
}

/// What `kubectl` says; the test fails if it refuses.
fn kubectl(server: &Process, words: &str) -> String {
    let words: Vec<&str> = words.split(' ').collect();
    server.kubectl(&words).unwrap_or_else(|error| panic!("{error}\n{}", server.log_end()))
}

fn leader(server: &Process, name: &str) -> String {
    let lease = format!("get lease {name} -n kube-system -o jsonpath={{.spec.holderIdentity}}");
    server.kubectl(&lease.split(' ').collect::<Vec<_>>()).unwrap_or_default()
}

fn addresses(server: &Process) -> String {
    kubectl(server, "get endpoints kubernetes -o jsonpath={.subsets[*].addresses[*].ip}")
}

fn config_maps() -> ListTarget {
    let resource = GroupVersionResource::new("", "v1", "configmaps");
    ListTarget { resource, namespace: "default".to_owned(), selection: Selection::default() }
}

#[test]
fn two_servers_share_one_etcd() {
    let etcd = Cluster::start(1);
    let mut one = Process::start(&setup(&etcd, 80, "192.0.2.1")).expect("the first server starts");
    let names = ["kube-controller-manager", "kube-scheduler"];
    let minute = Duration::from_secs(60);
    assert!(eventually(minute, || names.iter().all(|name| !leader(&one, name).is_empty())), "{}", one.log_end());
    let first = names.map(|name| leader(&one, name));
    let other = Process::start_beside(&one, &setup(&etcd, 80, "192.0.2.2")).expect("the second server starts");

    // What one writes the other knows at once, and tells those who watch there.
    kubectl(&one, "create configmap a --from-literal=k=v");
    assert_eq!(kubectl(&other, "get configmap a -o jsonpath={.data.k}"), "v");
    block_on(async {
        let world = RealWorld::shared();
        let remote = Kubeconfig::load(&other.kubeconfig()).expect("a kubeconfig").remote(None).expect("an address");
        let backend = HttpBackend::new(remote, world.clone(), "test").expect("good certificates");
        let mut watch = backend.list_watch(config_maps());
        assert!(matches!(watch.next().await, Some(Event::Replace(_))));
        let begun = world.elapsed();
        kubectl(&one, "create configmap b --from-literal=k=v");
        let told = async {
            while let Some(event) = watch.next().await {
                if matches!(&event, Event::Apply(object) if object.meta().name == "b") {
                    return world.elapsed() - begun;
                }
            }
            panic!("a watch has no end");
        };
        let took = world.timeout(minute, told).await.expect("the write is told");
        println!("the other server's watcher heard of it within {took:?}, our kubectl's start included");
    });

    // Both give out what there is only one of: nothing is given out twice.
    std::thread::scope(|scope| {
        for (server, letter) in [(&one, 'x'), (&other, 'y')] {
            scope.spawn(move || {
                let file = server.data_dir().join("services.json");
                let services = (0..5).map(|number| service(&format!("{letter}{number}"))).collect::<Vec<_>>();
                let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": services});
                std::fs::write(&file, list.to_string()).expect("room");
                kubectl(server, &format!("apply -f {}", file.display()));
            });
        }
    });
    let given =
        kubectl(&other, "get services -o jsonpath={.items[*].spec.clusterIP}/{.items[*].spec.ports[*].nodePort}");
    let mut given: Vec<&str> = given.split([' ', '/']).collect();
    given.sort_unstable();
    let all = given.len();
    assert_eq!(all, 11 + 10, "addresses of all Services and ports of ours: {given:?}");
    given.dedup();
    assert_eq!(all, given.len(), "{given:?}");

    assert_eq!(addresses(&one), "192.0.2.1 192.0.2.2");
    assert_eq!(names.map(|name| leader(&other, name)), first, "the first one leads on");
    kubectl(&other, "create deployment web --image=web --replicas=2");
    let pods = |server: &Process| kubectl(server, "get pods -l app=web -o name").lines().count();
    assert!(eventually(minute, || pods(&other) == 2), "{}", one.log_end());

    // The leader dies without a word.
    one.kill();
    assert!(
        eventually(minute, || names.iter().zip(&first).all(|(name, was)| {
            let now = leader(&other, name);
            !now.is_empty() && now != *was
        })),
        "{}",
        other.log_end()
    );
    kubectl(&other, "scale deployment web --replicas=3");
    assert!(eventually(minute, || pods(&other) == 3), "{}", other.log_end());
    assert!(eventually(minute, || addresses(&other) == "192.0.2.2"), "{}", addresses(&other));
}

#[test]
fn without_a_majority_writes_are_refused_and_the_cache_answers() {
    let (mut etcd, world) = (Cluster::start(3), RealWorld::shared());
    let server = Process::start(&setup(&etcd, 84, "192.0.2.1")).expect("the server starts");
    kubectl(&server, "create configmap a --from-literal=k=v");
    let listed = || {
        let list = kubectl(&server, "get --raw /api/v1/namespaces/default/configmaps?resourceVersion=0");
        ["a", "b"].map(|name| list.contains(&format!("\"name\":\"{name}\"")))
    };
    let create = || server.kubectl(&["create", "configmap", "b", "--from-literal=k=v"]);
    assert!(eventually(Duration::from_secs(30), || listed()[0]));
    etcd.kill(0);
    etcd.kill(2);
    let begun = world.elapsed();
    let refused = create().expect_err("nothing can be made durable");
    let took = world.elapsed() - begun;
    println!("refused after {took:?}: {refused}");
    assert!(refused.contains("the store is unavailable"), "{refused}");
    // A request may take a minute before it is cut off; this one was answered.
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(listed(), [true, false], "what was written is read on");
    etcd.revive(0);
    etcd.revive(2);
    let made = || create().map_or_else(|error| error.contains("already exists"), |_| true);
    assert!(eventually(Duration::from_secs(60), made), "{}", server.log_end());
    assert!(eventually(Duration::from_secs(30), || listed() == [true, true]), "{}", server.log_end());
}

fn service(name: &str) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"type": "NodePort", "ports": [{"port": 80}]},
    })
}

/// A field of a protobuf message: text, bytes or a message, all shorter than 128 bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).ok().filter(|length| *length < 128).expect("something short");
    [&[number << 3 | 2, length], content].concat()
}

/// A ConfigMap as upstream writes it: an envelope with type and message.
fn as_upstream(name: &str) -> Vec<u8> {
    let metadata = [field(1, name.as_bytes()), field(3, b"default"), field(5, b"uid-1"), field(8, &[8, 1])].concat();
    let data = [field(1, b"key"), field(2, b"from upstream")].concat();
    let message = [field(1, &metadata), field(2, &data)].concat();
    let kind = [field(1, b"v1"), field(2, b"ConfigMap")].concat();
    [b"k8s\0".to_vec(), field(1, &kind), field(2, &message), field(3, b""), field(4, b"")].concat()
}

#[test]
fn what_upstream_has_written_is_served() {
    let etcd = Cluster::start(1);
    let key = |name: &str| bytes::Bytes::from(format!("/registry/configmaps/default/{name}"));
    let set = |name: &str, value: Vec<u8>| {
        let write = Write::Put { key: key(name), value: value.into(), lease: 0 };
        block_on(commit(&etcd, vec![write]));
    };
    set("before", as_upstream("before"));
    let mut held = service("held");
    held["metadata"]["namespace"] = "default".into();
    held["metadata"]["uid"] = "uid-2".into();
    held["spec"]["clusterIP"] = "10.85.0.77".into();
    held["spec"]["clusterIPs"] = serde_json::json!(["10.85.0.77"]);
    held["spec"]["ports"][0]["nodePort"] = 31_999.into();
    let key_of_service = "/registry/services/specs/default/held".into();
    let put = Write::Put { key: key_of_service, value: held.to_string().into(), lease: 0 };
    block_on(commit(&etcd, vec![put]));
    let gadget = serde_json::json!({
        "kind": "CustomResourceDefinition", "apiVersion": "apiextensions.k8s.io/v1beta1",
        "metadata": {"name": "gadgets.example.org", "uid": "uid-3"},
        "spec": {"group": "example.org", "version": "v1", "scope": "Namespaced", "preserveUnknownFields": false,
            "names": {"plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList"},
            "validation": {"openAPIV3Schema": {"type": "object", "properties": {"size": {"type": "integer"}}}},
            "versions": [{"name": "v1", "served": true, "storage": true}], "conversion": {"strategy": "None"}},
        "status": {"storedVersions": ["v1"], "acceptedNames": {"plural": "gadgets", "singular": "gadget",
            "kind": "Gadget", "listKind": "GadgetList"},
            "conditions": [{"type": "NamesAccepted", "status": "True"}, {"type": "Established", "status": "True"}]},
    });
    let one = serde_json::json!({"apiVersion": "example.org/v1", "kind": "Gadget", "size": 3,
        "metadata": {"name": "one", "namespace": "default", "uid": "uid-4"}});
    let custom = [
        ("apiextensions.k8s.io/customresourcedefinitions/gadgets.example.org", gadget),
        ("example.org/gadgets/default/one", one),
    ];
    let write = |(key, value): (&str, serde_json::Value)| Write::Put {
        key: format!("/registry/{key}").into(),
        value: format!("{value}\n").into(),
        lease: 0,
    };
    block_on(commit(&etcd, custom.map(write).into()));
    let server = Process::start(&setup(&etcd, 84, "127.0.0.1")).expect("the server starts");
    assert_eq!(kubectl(&server, "get gadget one -o jsonpath={.size}"), "3");
    let schema =
        "get crd gadgets.example.org -o jsonpath={.spec.versions[0].schema.openAPIV3Schema.properties.size.type}";
    assert_eq!(kubectl(&server, schema), "integer");
    set("after", as_upstream("after"));
    for name in ["before", "after"] {
        assert_eq!(kubectl(&server, &format!("get configmap {name} -o jsonpath={{.data.key}}")), "from upstream");
    }
    // Once changed it is JSON, which upstream reads.
    kubectl(&server, "label configmap before changed=yes");
    let stored = block_on(async { etcd.store().await.get(&key("before"), None).await.expect("etcd answers").0 });
    let stored: serde_json::Value = serde_json::from_slice(&stored.expect("it is there").value).expect("JSON");
    assert_eq!((&stored["data"]["key"], &stored["metadata"]["uid"]), (&"from upstream".into(), &"uid-1".into()));

    // What upstream has given out is taken.
    for (name, member, value) in
        [("p", "ports", r#"[{"port":80,"nodePort":31999}]"#), ("a", "clusterIP", "\"10.85.0.77\"")]
    {
        let mut wanted = service(name);
        wanted["spec"][member] = serde_json::from_str(value).expect("JSON");
        let file = server.data_dir().join(name);
        std::fs::write(&file, wanted.to_string()).expect("room");
        let told = server.kubectl(&["apply", "-f", &file.display().to_string()]).expect_err("it is taken");
        assert!(told.contains("already allocated"), "{told}");
    }

    // What cannot be read is told to whoever would miss it, and to nobody else.
    set("broken", b"k8s:enc:aescbc:v1:key1:xyz".to_vec());
    let refusal = |words: &[&str]| server.kubectl(words).expect_err("it is unreadable");
    for words in [&["get", "configmap", "broken"][..], &["get", "configmaps"]] {
        let told = refusal(words);
        assert!(told.contains("/registry/configmaps/default/broken") && told.contains("encrypted"), "{told}");
    }
    kubectl(&server, "get configmap after");
    kubectl(&server, "get configmaps -n kube-system");
    block_on(commit(&etcd, vec![Write::Delete { key: key("broken") }]));
    assert!(kubectl(&server, "get configmaps").contains("after"));
}

async fn commit(etcd: &Cluster, writes: Vec<Write>) {
    let transaction = Transaction { writes, ..Transaction::default() };
    etcd.store().await.commit(transaction).await.expect("etcd answers");
}

#[test]
fn no_secret_is_in_the_log() {
    const PLAIN: &str = "a-value-that-nobody-may-read";
    const ENCODED: &str = "YS12YWx1ZS10aGF0LW5vYm9keS1tYXktcmVhZA==";
    let flags = ["--log-level", "trace", "--disable", "agent,scheduler,controller-manager,proxy,dns"];
    let setup = Setup { number: 84, flags: flags.map(str::to_owned).to_vec(), images: Vec::new() };
    let server = Process::start(&setup).expect("the server starts");
    let file = server.data_dir().join("secret.yaml");
    let write = |more: &str| {
        let text = format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\nstringData: {{k: {PLAIN}}}\n{more}");
        std::fs::write(&file, text).expect("a file");
        server.kubectl(&["apply", "--server-side", "-f", file.to_str().expect("a path")])
    };
    write("").expect("a good Secret");
    // Refusals must not tell it either.
    write("immutable: 7\n").expect_err("a bad Secret");
    write("data: {k: nonsense!}\n").expect_err("another one");
    assert_eq!(kubectl(&server, "get secret s -o jsonpath={.data.k}"), ENCODED);
    kubectl(&server, "create serviceaccount robot");
    let token = kubectl(&server, "create token robot");
    kubectl(&server, &format!("auth whoami --token {}", token.trim()));
    let log = std::fs::read_to_string(server.data_dir().join("server.log")).expect("a log");
    assert!(log.contains("DEBUG"), "it logs all there is");
    for secret in [PLAIN, ENCODED, token.trim().rsplit('.').next().expect("a signature")] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is in the log");
    }
}
