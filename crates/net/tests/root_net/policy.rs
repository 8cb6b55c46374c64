//! Network policies on real packets.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use serde_json::{Value, json};
use skiff_client::Event;
use skiff_meta::Object;
use skiff_net::Family;
use skiff_net::nft::Table;
use skiff_net::policy::{Source, State};

use crate::machine::{Machine, NODE, Pod, fetch, load, on_a_machine, run_in};

struct Policies {
    state: State,
    loaded: [Table; 2],
}

fn object(mut value: Value) -> Arc<Object> {
    value["metadata"]["uid"] = value["metadata"]["name"].clone();
    Arc::new(Object::from_wire(value).unwrap())
}

impl Policies {
    /// With the pods, each labelled with its name and having a port called `web`.
    fn new(machine: &Machine, pods: &[&Pod]) -> Self {
        let mut state = State::new(&machine.instance().policy_table(), "node");
        let space =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "labels": {"team": "x"}}});
        state.take(Source::Namespaces, Event::Apply(object(space)));
        for pod in pods {
            let pod = json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": pod.id, "namespace": "n", "labels": {"name": pod.id}},
                "spec": {"nodeName": "node", "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 80}]}]},
                "status": {"phase": "Running", "podIP": pod.address, "podIPs": [{"ip": pod.address}, {"ip": pod.address6}]}});
            state.take(Source::Pods, Event::Apply(object(pod)));
        }
        let loaded = [state.table(Family::V4), state.table(Family::V6)];
        load(&loaded.each_ref().map(Table::to_string).concat());
        Self { state, loaded }
    }

    /// Sets the one policy, and loads what changes.
    fn set(&mut self, spec: Value) {
        let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "p", "namespace": "n"}, "spec": spec});
        self.state.take(Source::Policies, Event::Apply(object(policy)));
        for (loaded, family) in self.loaded.iter_mut().zip(Family::ALL) {
            let table = self.state.table(family);
            load(&loaded.change_to(&table).to_string());
            *loaded = table;
        }
    }
}

fn may(from: &Pod, to: &Pod, port: u16) -> bool {
    let families = [IpAddr::V4(to.address), IpAddr::V6(to.address6)].map(|address| {
        let target = SocketAddr::new(address, port);
        // What is dropped is not answered; a second is long on a machine of one's own.
        from.run(move || TcpStream::connect_timeout(&target, std::time::Duration::from_millis(300)).is_ok())
    });
    assert_eq!(families[0], families[1], "IPv4 and IPv6 differ");
    families[0]
}

#[test]
fn packets_pass_where_policies_let_them() {
    on_a_machine(|machine| {
        let a = machine.pod_with_ports("a", json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]));
        let [b, c] = ["b", "c"].map(|id| machine.pod(id));
        for port in [80, 81, 90] {
            a.serve(port);
        }
        b.serve(80);
        let mut policies = Policies::new(machine, &[&a, &b, &c]);
        assert!(may(&b, &a, 80) && may(&c, &a, 80), "nobody is isolated");

        let established = b.run({
            let address = a.address;
            echo(&a);
            move || TcpStream::connect((address, 7)).unwrap()
        });
        policies.set(json!({"podSelector": {}}));
        assert!(!may(&b, &a, 80) && !may(&c, &a, 80), "nothing comes in");
        assert_eq!(answer(established), b"x", "what was established goes on");
        assert!(may(&a, &a, 80), "a pod reaches itself");
        let address = a.address;
        assert!(fetch(address, 80).is_ok(), "the node reaches its pods");
        assert!(run_in(&machine.world, || fetch(NODE, 8080)).is_err(), "the world does not");

        policies.set(json!({"podSelector": {"matchLabels": {"name": "a"}}, "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"name": "b"}}}], "ports": [{"port": "web"}, {"port": 85, "endPort": 95}]}]}));
        assert!(may(&b, &a, 80) && may(&b, &a, 90) && !may(&b, &a, 81));
        assert!(!may(&c, &a, 80) && may(&c, &b, 80), "only a is isolated");

        let (range, range6) = (format!("{}/32", c.address), format!("{}/128", c.address6));
        policies.set(json!({"podSelector": {"matchLabels": {"name": "a"}}, "ingress": [
            {"from": [{"namespaceSelector": {"matchLabels": {"team": "y"}}}, {"ipBlock": {"cidr": "0.0.0.0/0", "except": [range]}},
                {"ipBlock": {"cidr": "::/0", "except": [range6]}}]}]}));
        assert!(may(&b, &a, 81) && !may(&c, &a, 81));
        assert!(run_in(&machine.world, || fetch(NODE, 8080)).is_ok(), "the world is in the range");

        policies.set(json!({"podSelector": {"matchLabels": {"name": "c"}}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"name": "b"}}}]}]}));
        assert!(may(&c, &b, 80) && !may(&c, &a, 80) && may(&b, &a, 80));
        let node = machine.gateway(0);
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 7070)).unwrap();
        assert!(c.run(move || TcpStream::connect((node, 7070)).is_ok()), "a pod reaches its node");
        drop(listener);
    });
}

/// Sends back what comes, at port 7.
fn echo(pod: &Pod) {
    let address = pod.address;
    let listener = pod.run(move || TcpListener::bind((address, 7)).unwrap());
    #[allow(clippy::disallowed_methods, reason = "a server in a test; it ends with the process")]
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        }
    });
}

fn answer(mut stream: TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
    stream.write_all(b"x").unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    byte.to_vec()
}
