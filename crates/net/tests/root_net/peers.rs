//! Nodes on one wire and on another: plain routes to the first, an overlay to the others.

use std::net::{IpAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::json;
use skiff_client::Client;
use skiff_meta::world::RealWorld;
use skiff_net::netlink::{Namespace, Netlink, Route, Tunnel, Via};
use skiff_net::peers::{self, Mac, Own, RealKernel};

use crate::machine::{Machine, NODE, WORLD, block_on, fetch, new_namespace, on_a_machine, path_of, run_in, serve};
use crate::whole::{Cluster, patiently};

/// Name, address and pods of three nodes: the first two are on one wire.
const NODES: [(&str, &str, &str); 3] = [
    ("node", "192.0.2.2", "10.42.0.0/24"),
    ("near", "192.0.2.3", "10.42.1.0/24"),
    ("far", "198.51.100.2", "10.42.2.0/24"),
];

/// Keeps the way to the others from node `index`, in this thread's namespace, until the test's process ends.
fn keep_ways(index: usize) {
    let cluster = Arc::new(Cluster::default());
    for (name, address, range) in NODES {
        cluster.put(
            "nodes",
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDR": range},
                "status": {"addresses": [{"type": "InternalIP", "address": address}]}}),
        );
    }
    let (name, address, range) = NODES[index];
    let (local, range): (IpAddr, IpNet) = (address.parse().unwrap(), range.parse().unwrap());
    let source = range.hosts().next().unwrap();
    let mut netlink = Netlink::open().unwrap();
    let loopback = netlink.link("lo").unwrap().unwrap().index;
    netlink.set_up(loopback).unwrap();
    netlink.add_address(loopback, source.into()).unwrap();
    let tunnel =
        Tunnel { number: 7, port: 8472, local, mac: Mac::of(range).0, mtu: 1_350, addresses: vec![range.network()] };
    let own = Own {
        name: name.to_owned(),
        pod_cidrs: vec![range],
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        sources: vec![source],
        device: "overlay".to_owned(),
        tunnel,
        direct: true,
    };
    let (_keep, losses) = tokio::sync::watch::channel(());
    block_on(peers::run(own, Client::new(cluster), RealWorld::shared(), RealKernel, losses));
}

fn said(words: &[&str]) -> String {
    String::from_utf8(Command::new(words[0]).args(&words[1..]).output().unwrap().stdout).unwrap()
}

/// The other wire, behind the world, and a machine on it.
fn far_machine(machine: &Machine) -> std::fs::File {
    let file = new_namespace();
    let far = Namespace::open(&path_of(&file)).unwrap();
    let inner = file.try_clone().unwrap();
    run_in(&machine.world, move || {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        let far = Namespace::open(&path_of(&inner)).unwrap();
        let mut here = Netlink::open().unwrap();
        here.add_veth("second", "uplink", std::os::fd::AsFd::as_fd(&far), 1_400).unwrap();
        crate::machine::wire(&mut here, "second", "198.51.100.1".parse().unwrap(), 24);
    });
    run_in(&far, || {
        let mut there = Netlink::open().unwrap();
        let device = crate::machine::wire(&mut there, "uplink", "198.51.100.2".parse().unwrap(), 24);
        let via = Via::Gateway(device, "198.51.100.1".parse().unwrap());
        there.set_route(&Route { destination: "0.0.0.0/0".parse().unwrap(), via, source: None }).unwrap();
        #[allow(clippy::disallowed_methods, reason = "a node in a test; it ends with the process")]
        std::thread::spawn(|| keep_ways(2));
    });
    file
}

#[test]
fn nodes_on_another_wire_are_reached_through_the_overlay_and_others_directly() {
    on_a_machine(|machine| {
        let file = far_machine(machine);
        let far = Namespace::open(&path_of(&file)).unwrap();
        #[allow(clippy::disallowed_methods, reason = "a node in a test; it ends with the process")]
        std::thread::spawn(|| keep_ways(0));
        let route = |range: &str| said(&["ip", "route", "show", range]);
        patiently("a plain route", || route("10.42.1.0/24").contains("via 192.0.2.3 dev uplink"));
        patiently("a route through the overlay", || route("10.42.2.0/24").contains("via 10.42.2.0 dev overlay"));
        let server = run_in(&far, || {
            patiently("the far node's address", || TcpListener::bind(("10.42.2.1", 80)).is_ok());
            TcpListener::bind(("10.42.2.1", 80)).unwrap()
        });
        serve(server, "far".to_owned());
        let pod: IpAddr = "10.42.2.1".parse().unwrap();
        patiently("the far node", || fetch(pod, 80).is_ok_and(|said| said == "far 10.42.0.1"));
        // The wire's own machines are no pods: they go as they are.
        assert_eq!(
            said(&["ip", "route", "get", &WORLD.to_string(), "from", &NODE.to_string()]).matches("overlay").count(),
            0
        );
    });
}
