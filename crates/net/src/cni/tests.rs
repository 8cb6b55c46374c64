//! The plugin's protocol, on a machine that is a list of devices.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::netlink::Link;

/// Devices by name, and the scripts nftables was given.
#[derive(Default)]
struct Machine {
    devices: BTreeMap<String, Option<PodLink>>,
    scripts: Vec<String>,
    refuse_attach: bool,
}

struct Fake(Arc<Mutex<Machine>>);

impl Effects for Fake {
    fn attach(&mut self, link: &PodLink) -> Result<Ends, PluginError> {
        let mut machine = self.0.lock();
        if machine.refuse_attach {
            return Err(PluginError::Check("made to fail".to_owned()));
        }
        machine.devices.insert(link.host_device.clone(), Some(link.clone()));
        let end = |name: &str| Link { name: name.to_owned(), mac: vec![2, 0, 0, 0, 0, 1], ..Link::default() };
        Ok(Ends { host: end(&link.host_device), pod: end(&link.interface) })
    }
    fn detach(&mut self, host_device: &str) -> Result<(), PluginError> {
        self.0.lock().devices.remove(host_device);
        Ok(())
    }
    fn check(&mut self, link: &PodLink) -> Result<(), PluginError> {
        match self.0.lock().devices.get(&link.host_device) {
            Some(Some(found)) if found == link => Ok(()),
            other => Err(PluginError::Check(format!("found {other:?}"))),
        }
    }
    fn devices(&mut self, prefix: &str) -> Result<Vec<String>, PluginError> {
        Ok(self.0.lock().devices.keys().filter(|name| name.starts_with(prefix)).cloned().collect())
    }
    fn nft(&mut self, script: &str) -> Result<(), PluginError> {
        self.0.lock().scripts.push(script.to_owned());
        Ok(())
    }
}

/// A node whose network is up.
struct Node {
    machine: Arc<Mutex<Machine>>,
    state: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let machine = Machine {
            devices: ["skaaaaabr", "skaaaaavx"].map(|name| (name.to_owned(), None)).into(),
            ..Machine::default()
        };
        Self { machine: Arc::new(Mutex::new(machine)), state: tempfile::tempdir().unwrap() }
    }

    fn config(&self) -> Value {
        json!({"cniVersion": "1.0.0", "name": "skiff", "type": "skiff-cni", "instance": "aaaaa",
            "stateDir": self.state.path(), "podCIDRs": ["10.42.0.0/24"],
            "clusterCIDRs": ["10.42.0.0/16"], "gateways": ["10.42.0.1"], "mtu": 1400})
    }

    fn call(&self, env: &[(&str, &str)], input: &Value) -> (i32, Value) {
        let get = |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let mut output = Vec::new();
        let machine = self.machine.clone();
        let code = run(get, input.to_string().as_bytes(), &mut output, || Ok(Box::new(Fake(machine))));
        (code, if output.is_empty() { Value::Null } else { serde_json::from_slice(&output).unwrap() })
    }

    fn pod(&self, command: &str, container: &str, input: &Value) -> (i32, Value) {
        let env = [("CNI_COMMAND", command), ("CNI_CONTAINERID", container), ("CNI_IFNAME", "eth0")];
        self.call(&[&env[..], &[("CNI_NETNS", "/run/netns/x")]].concat(), input)
    }

    fn addresses(&self) -> usize {
        Bookings::open(self.state.path()).unwrap().owners().unwrap().len()
    }
}

#[test]
fn add_check_and_del() {
    let node = Node::new();
    let (code, result) = node.pod("ADD", "c1", &node.config());
    assert_eq!(code, 0, "{result}");
    let device = Instance::from_id("aaaaa").unwrap().pod_device("c1", "eth0");
    let expected = json!({
        "cniVersion": "1.0.0",
        "interfaces": [{"name": device, "mac": "02:00:00:00:00:01"},
            {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"}],
        "ips": [{"address": "10.42.0.2/32", "gateway": "10.42.0.1", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.42.0.1"}],
        "dns": {},
    });
    assert_eq!(result, expected);
    let mut check = node.config();
    check["prevResult"] = result;
    assert_eq!(node.pod("CHECK", "c1", &check), (0, Value::Null));
    assert_eq!(node.pod("DEL", "c1", &node.config()), (0, Value::Null));
    assert_eq!(node.pod("DEL", "c1", &node.config()), (0, Value::Null), "twice is fine");
    assert_eq!(node.pod("CHECK", "c1", &check).0, 1);
    assert_eq!((node.addresses(), node.machine.lock().devices.len()), (0, 2));
}

#[test]
fn a_failed_add_keeps_nothing() {
    let node = Node::new();
    node.machine.lock().refuse_attach = true;
    assert_eq!(node.pod("ADD", "c1", &node.config()).0, 1);
    assert_eq!(node.addresses(), 0);
}

#[test]
fn host_ports_are_added_once_recorded_and_removed() {
    let node = Node::new();
    let mut config = node.config();
    config["runtimeConfig"] = json!({"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"HostPort": 53, "ContainerPort": 53, "Protocol": "UDP", "HostIP": "192.0.2.1"},
        {"hostPort": 0, "containerPort": 9},
    ]});
    assert_eq!(node.pod("ADD", "c1", &config).0, 0);
    let scripts = std::mem::take(&mut node.machine.lock().scripts);
    assert_eq!(
        scripts,
        ["add element ip skiff-aaaaa-pods host-ports { tcp . 8080 : 10.42.0.2 . 80 }\n\
        add element ip skiff-aaaaa-pods host-address-ports { 192.0.2.1 . udp . 53 : 10.42.0.2 . 53 }\n\
        add element ip skiff-aaaaa-pods own { 10.42.0.2 . 10.42.0.2 }\n"]
    );
    assert_eq!(Bookings::open(node.state.path()).unwrap().records().unwrap()[0].ports.len(), 2);
    assert_eq!(node.pod("DEL", "c1", &node.config()).0, 0);
    let scripts = &node.machine.lock().scripts;
    assert_eq!(scripts.len(), 3);
    assert!(scripts.iter().all(|script| script.contains("\ndelete element ")), "{scripts:?}");
}

#[test]
fn gc_takes_bookings_and_devices_that_nobody_uses() {
    let node = Node::new();
    for pod in ["c1", "c2"] {
        assert_eq!(node.pod("ADD", pod, &node.config()).0, 0);
    }
    node.machine.lock().devices.insert("skaaaaa00000000".to_owned(), None);
    node.machine.lock().devices.insert("skother00000000".to_owned(), None);
    let mut config = node.config();
    config["cniVersion"] = json!("1.1.0");
    assert_eq!(node.call(&[("CNI_COMMAND", "GC")], &config).0, 1, "without a list it would take everything");
    config["cni.dev/valid-attachments"] = json!([{"containerID": "c2", "ifname": "eth0"}]);
    assert_eq!(node.call(&[("CNI_COMMAND", "GC")], &config), (0, Value::Null));
    let kept = Instance::from_id("aaaaa").unwrap().pod_device("c2", "eth0");
    let devices: Vec<String> = node.machine.lock().devices.keys().cloned().collect();
    assert!(devices.len() == 4 && devices.contains(&kept), "{devices:?}");
    assert!(devices.contains(&"skaaaaavx".to_owned()), "the way to other nodes stays: {devices:?}");
    assert_eq!(node.addresses(), 1);
}

#[test]
fn version_needs_no_configuration() {
    let answer = json!({"cniVersion": "1.0.0", "supportedVersions": ["1.0.0", "1.1.0"]});
    assert_eq!(Node::new().call(&[("CNI_COMMAND", "VERSION")], &json!({"cniVersion": "1.0.0"})), (0, answer));
}

#[test]
fn refusals_have_the_specifications_codes() {
    let node = Node::new();
    let change = |key: &str, value: Value| {
        let mut config = node.config();
        config[key] = value;
        config
    };
    let code = |(code, answer): (i32, Value)| {
        assert_eq!(code, 1, "{answer}");
        assert!(answer["cniVersion"] == "1.0.0" && answer["msg"].is_string(), "{answer}");
        answer["code"].as_u64().unwrap()
    };
    assert_eq!(code(node.pod("ADD", "c1", &change("cniVersion", json!("0.3.0")))), 1);
    assert_eq!(code(node.call(&[], &node.config())), 4);
    assert_eq!(code(node.call(&[("CNI_COMMAND", "ADD")], &node.config())), 4);
    assert_eq!(code(node.pod("DANCE", "c1", &node.config())), 4);
    assert_eq!(code(node.pod("ADD", "../c1", &node.config())), 4);
    assert_eq!(code(node.pod("ADD", "c1", &json!(7))), 6);
    assert_eq!(code(node.pod("ADD", "c1", &change("podCIDRs", json!(["10.43.0.0/24"])))), 7);
    assert_eq!(code(node.pod("ADD", "c1", &change("gateways", json!([])))), 7);
    assert_eq!(code(node.pod("ADD", "c1", &change("instance", json!("../..")))), 7);
    let mut small = change("podCIDRs", json!(["10.42.0.0/30"]));
    assert_eq!(node.pod("ADD", "c1", &small).0, 0);
    assert_eq!(code(node.pod("ADD", "c2", &small)), 11);
    small["runtimeConfig"] = json!({"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "icmp"}]});
    assert_eq!(code(node.pod("ADD", "c1", &small)), 7);
    node.machine.lock().devices.clear();
    assert_eq!(code(node.pod("ADD", "c3", &node.config())), 50);
    assert_eq!(code(node.call(&[("CNI_COMMAND", "STATUS")], &node.config())), 50);
}

#[test]
fn the_configuration_appears_whole_and_goes() {
    let node = Node::new();
    let (bin, conf) = (node.state.path().join("bin"), node.state.path().join("conf"));
    let config: PluginConfig = serde_json::from_value(node.config()).unwrap();
    for _ in 0..2 {
        install(&bin, &conf, &config).unwrap();
    }
    assert_eq!(std::fs::read_dir(&conf).unwrap().count(), 1);
    let text = std::fs::read_to_string(conf.join("00-skiff.conflist")).unwrap();
    let list: Value = serde_json::from_str(&text).unwrap();
    let plugin = json!({"type": "skiff-cni", "instance": "aaaaa", "stateDir": node.state.path(),
        "podCIDRs": ["10.42.0.0/24"], "clusterCIDRs": ["10.42.0.0/16"], "gateways": ["10.42.0.1"], "mtu": 1400, "capabilities": {"portMappings": true, "bandwidth": true}});
    assert_eq!(list, json!({"cniVersion": "1.0.0", "name": "skiff", "plugins": [plugin]}));
    assert_eq!(std::fs::read_link(bin.join("skiff-cni")).unwrap(), std::env::current_exe().unwrap());
    assert_eq!(installed(&conf).unwrap().pod_cidrs, config.pod_cidrs);
    uninstall(&bin, &conf).unwrap();
    uninstall(&bin, &conf).unwrap();
    assert!(installed(&conf).is_none());
}

#[test]
fn rates_are_in_bytes_and_bursts_within_reason() {
    let shapes = |bandwidth: Value| serde_json::from_value::<protocol::Bandwidth>(bandwidth).unwrap().shapes();
    let shape = |rate, burst| Some(crate::netlink::Shape { rate, burst });
    assert_eq!(shapes(json!({})), [None, None]);
    let largest = i64::from(i32::MAX);
    let old = json!({"IngressRate": 8_000_000, "IngressBurst": largest, "EgressRate": 80, "EgressBurst": largest});
    assert_eq!(shapes(old), [shape(1_000_000, 1_000_000), shape(10, 65_536)]);
    assert_eq!(
        shapes(json!({"egressRate": 80_000_000_000u64, "egressBurst": 0})),
        [None, shape(10_000_000_000, 65_536)]
    );
}
