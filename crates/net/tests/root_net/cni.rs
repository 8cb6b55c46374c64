//! The plugin's commands on real namespaces.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::Command;

use serde_json::{Value, json};
use skiff_net::netlink::Netlink;

use crate::machine::{NODE, NODE6, WORLD, WORLD6, fetch, on_a_machine, run_in, serve};

#[test]
fn pods_reach_each_other_the_node_and_the_world() {
    on_a_machine(|machine| {
        let (one, two) = (machine.pod("one"), machine.pod("two"));
        two.serve(80);
        serve(TcpListener::bind((NODE, 8080)).unwrap(), "node".to_owned());
        let world = run_in(&machine.world, || TcpListener::bind((WORLD, 8080)).unwrap());
        serve(world, "world".to_owned());

        assert_eq!(one.fetch(two.address, 80).unwrap(), format!("two {}", one.address));
        assert_eq!(two.fetch(two.address, 80).unwrap(), format!("two {}", two.address));
        assert_eq!(one.fetch(NODE, 8080).unwrap(), format!("node {}", one.address));
        assert_eq!(one.fetch(WORLD, 8080).unwrap(), format!("world {NODE}"), "masqueraded");
        assert_eq!(fetch(two.address, 80).unwrap(), format!("two {}", machine.gateway(0)));
        let gone = Ipv4Addr::new(10, 42, 0, 200);
        assert_eq!(one.fetch(gone, 80), Err(std::io::ErrorKind::HostUnreachable));
    });
}

#[test]
fn a_pod_cannot_reach_the_nodes_loopback() {
    on_a_machine(|machine| {
        let pod = machine.pod("one");
        serve(TcpListener::bind("127.0.0.1:8080").unwrap(), "secret".to_owned());
        let route = format!("ip route add 127.0.0.0/8 via {} dev eth0 table local", machine.gateway(0));
        let reached = pod.run(move || {
            let sysctl = std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1");
            sysctl.unwrap();
            assert!(
                Command::new("sh")
                    .args(["-c", "ip addr flush dev lo; ip link set lo down"])
                    .status()
                    .unwrap()
                    .success()
            );
            assert!(Command::new("sh").args(["-c", &route]).status().unwrap().success());
            fetch(Ipv4Addr::LOCALHOST, 8080)
        });
        assert!(reached.is_err(), "{reached:?}");
    });
}

#[test]
fn check_sees_what_is_missing_and_del_leaves_nothing() {
    on_a_machine(|machine| {
        let pod = machine.pod("one");
        let previous = json!({"prevResult": {"cniVersion": "1.0.0"}});
        let check = || machine.plugin("CHECK", Some(("one", &pod.namespace)), previous.clone());
        assert_eq!(check(), (0, Value::Null));
        pod.run(|| assert!(Command::new("ip").args(["route", "del", "default"]).status().unwrap().success()));
        let (code, answer) = check();
        assert_eq!((code, &answer["msg"]), (1, &json!("the pod has lost its default route")));

        machine.delete(&pod);
        machine.delete(&pod);
        let device = machine.instance().pod_device("one", "eth0");
        assert_eq!(Netlink::open().unwrap().link(&device).unwrap(), None);
        let (code, answer) = check();
        assert_eq!((code, answer["code"].as_u64()), (1, Some(101)));
    });
}

#[test]
fn add_after_a_killed_add_and_gc_after_lost_pods() {
    on_a_machine(|machine| {
        let first = machine.pod("one");
        let again = machine.pod("one");
        assert_eq!(first.address, again.address, "the booking was found");
        let (two, lost) = (machine.pod("two"), machine.pod("lost"));
        let valid = json!({"cniVersion": "1.1.0",
            "cni.dev/valid-attachments": [{"containerID": "one", "ifname": "eth0"}, {"containerID": "two", "ifname": "eth0"}]});
        assert_eq!(machine.plugin("GC", None, valid), (0, Value::Null));
        let device = |id: &str| Netlink::open().unwrap().link(&machine.instance().pod_device(id, "eth0")).unwrap();
        assert!(device("one").is_some() && device("two").is_some() && device("lost").is_none());
        two.serve(80);
        assert!(again.fetch(two.address, 80).is_ok());
        assert!(again.fetch(lost.address, 80).is_err());
    });
}

#[test]
fn host_ports_lead_to_the_pod_and_survive_a_restart() {
    on_a_machine(|machine| {
        let mappings = json!([
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
            {"hostPort": 8081, "containerPort": 80, "protocol": "TCP", "hostIP": "192.0.2.2"},
        ]);
        let (pod, other) = (machine.pod_with_ports("one", mappings.clone()), machine.pod("other"));
        pod.serve(80);
        let from_world = |port| run_in(&machine.world, move || fetch(NODE, port));
        for _ in 0..2 {
            assert_eq!(from_world(8080).unwrap(), format!("one {WORLD}"));
            assert_eq!(from_world(8081).unwrap(), format!("one {WORLD}"));
            assert!(fetch(NODE, 8080).is_ok(), "from the node itself");
            assert!(fetch(Ipv4Addr::LOCALHOST, 8080).is_ok(), "by its loopback address");
            assert!(other.fetch(NODE, 8080).is_ok());
            assert!(pod.fetch(NODE, 8080).is_ok(), "the pod itself");
            machine.up();
        }
        let (code, answer) = {
            let namespace = crate::machine::new_namespace();
            machine.plugin("ADD", Some(("thief", &namespace)), json!({"runtimeConfig": {"portMappings": mappings}}))
        };
        assert_eq!(code, 1, "the port is taken: {answer}");
        machine.delete(&pod);
        assert!(from_world(8080).is_err());
        machine.pod_with_ports("next", mappings);
    });
}

#[test]
fn cleanup_leaves_no_trace() {
    on_a_machine(|machine| {
        let of =
            |family| String::from_utf8(Command::new("ip").args([family, "route"]).output().unwrap().stdout).unwrap();
        let routes = || of("-4") + &of("-6");
        let _pod = machine.pod("one");
        assert!(!machine.traces().is_empty());
        assert!(routes().contains("10.42.0.0/24") && routes().contains("fd42::/64"));
        let config = &machine.config;
        let cleanup = || skiff_net::network::cleanup(&config.data_dir, &config.cni_bin_dir, &config.cni_conf_dir);
        cleanup().unwrap();
        assert_eq!(machine.traces(), Vec::<String>::new());
        assert!(!routes().contains("10.4") && !routes().contains("fd4"), "{}", routes());
        assert!(!config.data_dir.join("net").exists());
        cleanup().unwrap();
    });
}

#[test]
fn pods_have_ipv6_too() {
    on_a_machine(|machine| {
        let ports = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]);
        let (one, two) = (machine.pod("one"), machine.pod_with_ports("two", ports));
        two.serve(80);
        serve(TcpListener::bind((NODE6, 9090)).unwrap(), "node".to_owned());
        let world = run_in(&machine.world, || TcpListener::bind((WORLD6, 9090)).unwrap());
        serve(world, "world".to_owned());

        assert_eq!(one.fetch(two.address6, 80).unwrap(), format!("two {}", one.address6));
        assert_eq!(two.fetch(two.address6, 80).unwrap(), format!("two {}", two.address6));
        assert_eq!(one.fetch(NODE6, 9090).unwrap(), format!("node {}", one.address6));
        assert_eq!(one.fetch(WORLD6, 9090).unwrap(), format!("world {NODE6}"), "masqueraded");
        assert_eq!(fetch(two.address6, 80).unwrap(), format!("two {}", machine.gateway(1)));
        assert_eq!(run_in(&machine.world, || fetch(NODE6, 8080)).unwrap(), format!("two {WORLD6}"), "a host port");

        let previous = json!({"prevResult": {"cniVersion": "1.0.0"}});
        let check = || machine.plugin("CHECK", Some(("one", &one.namespace)), previous.clone());
        assert_eq!(check(), (0, Value::Null));

        // What a pod sends in another's name goes nowhere.
        let theft = format!("ip -6 addr add {}/128 dev eth0 nodad", two.address6);
        one.run(move || assert!(Command::new("sh").args(["-c", &theft]).status().unwrap().success()));
        let node = UdpSocket::bind((NODE6, 9091)).unwrap();
        node.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        for (from, arrives) in [(one.address6, true), (two.address6, false), (one.address6, true)] {
            one.run(move || UdpSocket::bind((from, 0)).unwrap().send_to(b"x", (NODE6, 9091)).unwrap());
            assert_eq!(node.recv_from(&mut [0; 8]).is_ok(), arrives, "{from}");
        }
        one.run(|| assert!(Command::new("ip").args(["-6", "route", "del", "default"]).status().unwrap().success()));
        assert_eq!(check().1["msg"], "the pod has lost its default route");
        machine.delete(&one);
        machine.delete(&two);
        assert_eq!(machine.plugin("CHECK", Some(("two", &two.namespace)), previous.clone()).0, 1);
    });
}

#[test]
fn pods_talk_no_faster_than_they_may() {
    on_a_machine(|machine| {
        let namespace = crate::machine::new_namespace();
        let bandwidth =
            json!({"ingressRate": 8_000_000, "ingressBurst": 2_147_483_647, "egressRate": 40_000_000_000u64});
        let limits = json!({"runtimeConfig": {"bandwidth": bandwidth}});
        let (code, answer) = machine.plugin("ADD", Some(("one", &namespace)), limits);
        assert_eq!(code, 0, "{answer}");
        let shape = |device: &str| {
            let said = Command::new("tc").args(["qdisc", "show", "dev", device]).output().unwrap();
            String::from_utf8(said.stdout).unwrap()
        };
        let host = shape(&machine.instance().pod_device("one", "eth0"));
        assert!(host.contains("tbf") && host.contains("rate 8Mbit burst"), "{host}");
        let inside = skiff_net::netlink::Namespace::open(&crate::machine::path_of(&namespace)).unwrap();
        let pod = run_in(&inside, move || shape("eth0"));
        assert!(pod.contains("tbf") && pod.contains("rate 40Gbit burst"), "{pod}");
    });
}
