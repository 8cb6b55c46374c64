//! Questions and answers by table, then over sockets.

use std::net::Ipv4Addr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use serde_json::{Value, json};
use skiff_meta::world::RealWorld;

use futures::FutureExt;

use super::respond::{Step, Transport};
use super::*;
use crate::fake::{Cluster, Hurry, object};

const DOMAIN: &str = "cluster.local";

fn service(namespace: &str, name: &str, spec: Value) -> Arc<skiff_meta::Object> {
    let metadata = json!({"name": name, "namespace": namespace, "uid": format!("{namespace}/{name}")});
    object(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}))
}

fn slice(namespace: &str, service: &str, index: usize, endpoints: &Value) -> Arc<skiff_meta::Object> {
    let name = format!("{service}-{index}");
    let metadata = json!({"name": name, "namespace": namespace, "uid": format!("{namespace}/{name}"),
        "labels": {"kubernetes.io/service-name": service}});
    object(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints}))
}

fn zone() -> Zone {
    let mut zone = Zone::new(DOMAIN, IpAddr::V4(Ipv4Addr::new(10, 43, 0, 10)));
    let namespace = |name: &str| object(json!({"metadata": {"name": name, "uid": name}}));
    zone.namespace_event(Event::Replace(vec![namespace("default"), namespace("empty")]));
    let ports =
        json!([{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    zone.service_event(Event::Replace(vec![
        service("default", "web", json!({"clusterIPs": ["10.43.0.1"], "ports": ports})),
        service("default", "dual", json!({"clusterIPs": ["10.43.0.2", "fd00::2"], "ports": ports})),
        service("default", "db", json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": ports})),
        service("default", "idle", json!({"clusterIPs": ["None"]})),
        service("default", "out", json!({"type": "ExternalName", "externalName": "Example.com."})),
        service("default", "loop", json!({"type": "ExternalName", "externalName": "loop.default.svc.cluster.local"})),
        service("default", "inner", json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"})),
    ]));
    zone.slice_event(Event::Replace(vec![
        slice(
            "default",
            "db",
            1,
            &json!([
                {"addresses": ["10.42.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.42.0.6"]},
                {"addresses": ["10.42.0.7"], "hostname": "db-2", "conditions": {"ready": false, "serving": true}},
            ]),
        ),
        slice("default", "web", 1, &json!([{"addresses": ["10.42.0.8"]}])),
    ]));
    zone
}

fn name(text: &str) -> Name {
    let relative = !text.ends_with('.');
    Name::from_ascii(if relative { format!("{text}.{DOMAIN}.") } else { text.to_owned() }).unwrap()
}

/// The answer in a few words: its code, or the data of its records, sorted.
fn told(zone: &Zone, question: &str, record_type: RecordType) -> String {
    match zone.lookup(&name(question), record_type) {
        Lookup::Outside => "outside".to_owned(),
        Lookup::Found(answer) if answer.code == ResponseCode::NXDomain => "no such name".to_owned(),
        Lookup::Found(answer) if answer.records.is_empty() => "nothing".to_owned(),
        Lookup::Found(answer) => {
            let mut data: Vec<String> = answer.records.iter().map(|record| record.data.to_string()).collect();
            data.sort();
            data.join(", ")
        }
    }
}

#[test]
fn the_specification_by_table() {
    use RecordType::{A, AAAA, ANY, CNAME, MX, NS, PTR, SRV, TXT};
    let zone = zone();
    let cases = [
        // ClusterIP Services.
        ("web.default.svc", A, "10.43.0.1"),
        ("WeB.Default.SVC", A, "10.43.0.1"),
        ("web.default.svc", AAAA, "nothing"),
        ("web.default.svc", MX, "nothing"),
        ("dual.default.svc", AAAA, "fd00::2"),
        (
            "dual.default.svc",
            ANY,
            "0 50 53 dual.default.svc.cluster.local., 0 50 80 dual.default.svc.cluster.local., 10.43.0.2, fd00::2",
        ),
        ("_http._tcp.web.default.svc", SRV, "0 100 80 web.default.svc.cluster.local."),
        ("_dns._udp.web.default.svc", SRV, "0 100 53 web.default.svc.cluster.local."),
        ("_http._udp.web.default.svc", SRV, "no such name"),
        ("_tcp.web.default.svc", SRV, "nothing"),
        ("_sctp.web.default.svc", SRV, "no such name"),
        ("10-42-0-8.web.default.svc", A, "10.42.0.8"),
        ("none.default.svc", A, "no such name"),
        ("web.empty.svc", A, "no such name"),
        // Headless Services.
        ("db.default.svc", A, "10.42.0.5, 10.42.0.6"),
        ("db-0.db.default.svc", A, "10.42.0.5"),
        ("10-42-0-6.db.default.svc", A, "10.42.0.6"),
        ("db-2.db.default.svc", A, "no such name"),
        ("db.default.svc", AAAA, "nothing"),
        (
            "_http._tcp.db.default.svc",
            SRV,
            "0 50 8080 10-42-0-6.db.default.svc.cluster.local., 0 50 8080 db-0.db.default.svc.cluster.local.",
        ),
        ("idle.default.svc", A, "no such name"),
        // ExternalName.
        ("out.default.svc", CNAME, "Example.com."),
        ("out.default.svc", A, "Example.com."),
        // Pods.
        ("10-42-0-99.default.pod", A, "10.42.0.99"),
        ("10-42-0-99.nowhere.pod", A, "no such name"),
        ("web.default.pod", A, "no such name"),
        // Names in between.
        ("default.svc", A, "nothing"),
        ("nowhere.svc", A, "no such name"),
        ("svc", A, "nothing"),
        ("cluster.local.", NS, "ns.dns.cluster.local."),
        ("cluster.local.", A, "nothing"),
        ("ns.dns", A, "10.43.0.10"),
        ("dns-version", TXT, "1.1.0"),
        ("a.b.c.d.e.f", A, "no such name"),
        // Reverse names.
        ("1.0.43.10.in-addr.arpa.", PTR, "web.default.svc.cluster.local."),
        ("5.0.42.10.in-addr.arpa.", PTR, "db-0.db.default.svc.cluster.local."),
        ("8.0.42.10.in-addr.arpa.", PTR, "10-42-0-8.web.default.svc.cluster.local."),
        (
            "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
            PTR,
            "dual.default.svc.cluster.local.",
        ),
        ("1.0.43.10.in-addr.arpa.", A, "nothing"),
        ("9.9.9.9.in-addr.arpa.", PTR, "outside"),
        ("43.10.in-addr.arpa.", PTR, "outside"),
        // Others' names.
        ("example.com.", A, "outside"),
        ("local.", A, "outside"),
        ("xcluster.local.", A, "outside"),
    ];
    for (question, record_type, expected) in cases {
        assert_eq!(told(&zone, question, record_type), expected, "{question} {record_type}");
    }
}

#[test]
fn negative_answers_carry_the_soa_and_services_their_addresses() {
    let zone = zone();
    for question in ["none.default.svc", "default.svc"] {
        let Lookup::Found(answer) = zone.lookup(&name(question), RecordType::A) else { panic!("{question}") };
        let authority = answer.authority.expect("a SOA record");
        assert_eq!((authority.name, authority.ttl), (name("cluster.local."), 5));
    }
    let Lookup::Found(answer) = zone.lookup(&name("_http._tcp.db.default.svc"), RecordType::SRV) else { panic!() };
    let additionals: Vec<String> = answer.additionals.iter().map(|r| format!("{} {}", r.name, r.data)).collect();
    let expected =
        ["db-0.db.default.svc.cluster.local. 10.42.0.5", "10-42-0-6.db.default.svc.cluster.local. 10.42.0.6"];
    assert_eq!(additionals, expected);
    assert_eq!(answer.authority, None);
}

#[test]
fn the_zone_follows_events() {
    let mut zone = zone();
    let ask = |zone: &Zone, question: &str| told(zone, question, RecordType::A);
    let reverse = |zone: &Zone, question: &str| told(zone, question, RecordType::PTR);
    zone.service_event(Event::Apply(service("default", "web", json!({"clusterIPs": ["10.43.0.77"]}))));
    assert_eq!(ask(&zone, "web.default.svc"), "10.43.0.77");
    assert_eq!(reverse(&zone, "1.0.43.10.in-addr.arpa."), "outside");
    assert_eq!(reverse(&zone, "77.0.43.10.in-addr.arpa."), "web.default.svc.cluster.local.");
    // An endpoint moves from one slice to another: both have it for a while.
    let moved = json!([{"addresses": ["10.42.0.5"], "hostname": "db-0"}]);
    zone.slice_event(Event::Apply(slice("default", "db", 2, &moved)));
    assert_eq!(ask(&zone, "db.default.svc"), "10.42.0.5, 10.42.0.6");
    zone.slice_event(Event::Delete(slice("default", "db", 1, &json!([]))));
    assert_eq!(ask(&zone, "db.default.svc"), "10.42.0.5");
    assert_eq!(reverse(&zone, "5.0.42.10.in-addr.arpa."), "db-0.db.default.svc.cluster.local.");
    assert_eq!(reverse(&zone, "6.0.42.10.in-addr.arpa."), "outside");
    zone.slice_event(Event::Replace(Vec::new()));
    assert_eq!(ask(&zone, "db.default.svc"), "no such name");
    assert_eq!(reverse(&zone, "5.0.42.10.in-addr.arpa."), "outside");
    zone.service_event(Event::Replace(Vec::new()));
    zone.namespace_event(Event::Delete(object(json!({"metadata": {"name": "default", "uid": "u"}}))));
    assert_eq!(
        (ask(&zone, "web.default.svc"), ask(&zone, "default.svc")),
        ("no such name".into(), "no such name".into())
    );
}

fn responder(zone: Zone, world: WorldRef) -> Responder {
    let upstream = Arc::new(Upstream::new("/nonexistent/resolv.conf".into(), Vec::new(), world.clone()));
    Responder { zone: Arc::new(RwLock::new(zone)), upstream, metrics: Arc::default(), world }
}

fn question(name: Name, record_type: RecordType) -> Message {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, record_type));
    message
}

fn reply(responder: &Responder, message: &Message, transport: Transport) -> Message {
    let bytes = match responder.start(&message.to_vec().unwrap(), transport) {
        Step::Reply(bytes) => bytes,
        Step::Ask(pending) => responder.finish(*pending).now_or_never().expect("no resolver to wait for"),
        Step::Ignore => panic!("ignored"),
    };
    Message::from_vec(&bytes).unwrap()
}

#[test]
fn answers_repeat_the_question_and_say_who_they_are() {
    let responder = responder(zone(), Hurry::shared());
    let answer = reply(&responder, &question(name("WEB.default.svc"), RecordType::A), Transport::Udp);
    let header = answer.metadata;
    assert_eq!(
        (header.id, header.message_type, header.response_code),
        (7, MessageType::Response, ResponseCode::NoError)
    );
    assert!(header.authoritative && header.recursion_desired && header.recursion_available && !header.truncation);
    assert!(answer.answers[0].name.eq_case(&name("WEB.default.svc")), "in the letters of the question");
    assert_eq!(answer.edns, None);

    let mut asked = question(name("web.default.svc"), RecordType::A);
    asked.set_edns(Edns::new());
    assert_eq!(reply(&responder, &asked, Transport::Udp).edns.map(|edns| edns.max_payload()), Some(1_232));
}

#[test]
fn aliases_are_followed_within_reason() {
    let responder = responder(zone(), Hurry::shared());
    let ask = |text: &str| reply(&responder, &question(name(text), RecordType::A), Transport::Udp);
    let inner = ask("inner.default.svc");
    let data: Vec<String> = inner.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(data, ["web.default.svc.cluster.local.", "10.43.0.1"]);
    assert_eq!(ask("loop.default.svc").metadata.response_code, ResponseCode::ServFail);
    let out = ask("out.default.svc");
    assert_eq!((out.metadata.response_code, out.answers.len()), (ResponseCode::NoError, 1), "at least the alias");
    assert_eq!(ask("example.com.").metadata.response_code, ResponseCode::ServFail, "no resolver at all");
}

#[test]
fn what_the_administrator_says_goes_before_the_zone() {
    let responder = responder(zone(), Hurry::shared());
    let corefile = ". {\n hosts {\n 192.0.2.7 registry.example\n fallthrough\n }\n \
        rewrite name shop.example web.default.svc.cluster.local\n rewrite name mail.example registry.example\n}";
    let map = serde_json::from_value(json!({"data": {"Corefile": corefile}})).unwrap();
    responder.upstream.set(Settings::read(&map).unwrap());
    let ask = |text: &str, record_type| {
        let answer = reply(&responder, &question(name(text), record_type), Transport::Udp);
        let data = answer.answers.iter().map(|record| format!("{} {}", record.name, record.data));
        (answer.metadata.response_code, data.collect::<Vec<_>>().join(", "))
    };
    let found = |text: &str| (ResponseCode::NoError, text.to_owned());
    assert_eq!(ask("registry.example.", RecordType::A), found("registry.example. 192.0.2.7"));
    assert_eq!(ask("registry.example.", RecordType::AAAA), found(""), "the name is there");
    assert_eq!(ask("7.2.0.192.in-addr.arpa.", RecordType::PTR), found("7.2.0.192.in-addr.arpa. registry.example."));
    assert_eq!(ask("shop.example.", RecordType::A), found("shop.example. 10.43.0.1"));
    assert_eq!(ask("mail.example.", RecordType::A), found("mail.example. 192.0.2.7"));
    assert_eq!(ask("web.default.svc", RecordType::A), found("web.default.svc.cluster.local. 10.43.0.1"));
    responder.upstream.set(Settings::default());
    assert_eq!(ask("registry.example.", RecordType::A).0, ResponseCode::ServFail, "no resolver knows it");
}

#[test]
fn strange_questions_are_refused() {
    let responder = responder(zone(), Hurry::shared());
    let code = |change: &dyn Fn(&mut Message)| {
        let mut message = question(name("web.default.svc"), RecordType::A);
        change(&mut message);
        reply(&responder, &message, Transport::Udp).metadata.response_code
    };
    assert_eq!(code(&|m| m.metadata.op_code = OpCode::Status), ResponseCode::NotImp);
    assert_eq!(code(&|m| m.queries.clear()), ResponseCode::FormErr);
    assert_eq!(code(&|m| _ = m.queries[0].set_query_class(DNSClass::CH)), ResponseCode::Refused);
    assert_eq!(code(&|m| _ = m.queries[0].set_query_type(RecordType::AXFR)), ResponseCode::Refused);
    let badvers = code(&|m| {
        let mut edns = Edns::new();
        edns.set_version(1);
        m.set_edns(edns);
    });
    assert_eq!(badvers.high(), ResponseCode::BADVERS.high());

    let start = |bytes: &[u8]| responder.start(bytes, Transport::Udp);
    assert!(matches!(start(b""), Step::Ignore));
    assert!(matches!(start(&[0; 11]), Step::Ignore));
    let mut broken = question(name("web.default.svc"), RecordType::A).to_vec().unwrap();
    broken.truncate(20);
    let Step::Reply(bytes) = start(&broken) else { panic!("no answer") };
    assert_eq!(Message::from_vec(&bytes).unwrap().metadata.response_code, ResponseCode::FormErr);
    broken[2] |= 0x80;
    assert!(matches!(start(&broken), Step::Ignore), "answers are never answered");
}

#[test]
fn large_answers_are_cut_over_udp_and_whole_over_tcp() {
    let mut zone = zone();
    let endpoints: Vec<Value> = (0..200).map(|i| json!({"addresses": [format!("10.42.1.{i}")]})).collect();
    zone.slice_event(Event::Apply(slice("default", "db", 1, &json!(endpoints))));
    let responder = responder(zone, Hurry::shared());
    let plain = question(name("db.default.svc"), RecordType::A);
    let mut extended = plain.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(4_096);
    extended.set_edns(edns);
    for (message, transport, limit) in
        [(&plain, Transport::Udp, 512), (&extended, Transport::Udp, 1_232), (&plain, Transport::Tcp, 65_535)]
    {
        let answer = reply(&responder, message, transport);
        let (size, records) = (answer.to_vec().unwrap().len(), answer.answers.len());
        assert!(size <= limit && size > limit.min(3_000) / 2, "{size} of {limit}");
        assert_eq!(answer.metadata.truncation, records < 200, "{records}");
        assert_eq!(records == 200, transport == Transport::Tcp);
    }
}

#[tokio::test]
async fn sockets_speak_udp_and_tcp_and_ask_others() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = RealWorld::shared();
    // The "resolver of the machine" is a second server for another domain.
    let mut elsewhere = Zone::new("example", IpAddr::V4(Ipv4Addr::LOCALHOST));
    let spec = json!({"clusterIPs": ["192.0.2.80"]});
    elsewhere.service_event(Event::Apply(service("b", "a", spec)));
    let localhost: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let resolver = Sockets::bind(localhost).await.unwrap();
    let ours = Sockets::bind(localhost).await.unwrap();
    let at = ours.address().unwrap();
    let mut responder_ours = responder(zone(), world.clone());
    let resolver_at = resolver.address().unwrap();
    responder_ours.upstream = Arc::new(Upstream::with_servers(vec![resolver_at], world.clone()));
    let serve_elsewhere = resolver.serve(responder(elsewhere, world.clone()));
    let _tasks = [
        skiff_meta::world::AbortOnDrop(world.spawn("resolver", Box::pin(serve_elsewhere))),
        skiff_meta::world::AbortOnDrop(world.spawn("dns", Box::pin(ours.serve(responder_ours)))),
    ];

    let socket = tokio::net::UdpSocket::bind(localhost).await.unwrap();
    socket.connect(at).await.unwrap();
    let mut buffer = [0; 2_048];
    for (asked, expected) in
        [("web.default.svc", "10.43.0.1"), ("a.b.svc.example.", "192.0.2.80"), ("a.b.svc.example.", "192.0.2.80")]
    {
        socket.send(&question(name(asked), RecordType::A).to_vec().unwrap()).await.unwrap();
        let size = socket.recv(&mut buffer).await.unwrap();
        let answer = Message::from_vec(&buffer[..size]).unwrap();
        assert_eq!(answer.answers[0].data.to_string(), expected);
    }
    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
    for _ in 0..2 {
        let bytes = question(name("a.b.svc.example."), RecordType::A).to_vec().unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(Message::from_vec(&bytes).unwrap().answers.len(), 1);
    }
}

#[tokio::test]
async fn the_service_and_its_endpoint_are_published_even_if_not_at_once() {
    let cluster = Arc::new(Cluster::default());
    *cluster.refusals.lock() = 2;
    let config = DnsConfig {
        listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
        cluster_dns: "10.43.0.10".parse().unwrap(),
        cluster_domain: DOMAIN.to_owned(),
        node_name: "n1".to_owned(),
        node_uid: "u1".to_owned(),
        resolv_conf: PathBuf::new(),
    };
    publish(&config, &cluster.client(), &Hurry::shared(), "10.42.0.1:53".parse().unwrap()).await;
    let requests = cluster.requests.lock();
    let paths: Vec<&str> = requests.iter().map(|(path, _)| path.split('?').next().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "PATCH /api/v1/namespaces/kube-system/services/kube-dns",
            "PATCH /apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns-n1",
        ]
    );
    assert_eq!(requests[0].1["spec"]["clusterIP"], "10.43.0.10");
    assert_eq!(requests[1].1["endpoints"][0]["addresses"][0], "10.42.0.1");
    assert_eq!(requests[1].1["metadata"]["ownerReferences"][0]["uid"], "u1");
}
