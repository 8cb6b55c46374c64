//! Several real nodes on one machine: they join, their pods reach each other, and what fails comes back.
//!
//! Needs root and what `cargo xtask test cluster` prepares. The test runs in a network namespace of its own, so that the
//! wire between the nodes is not the machine's. One cluster is shared by all cases of a mode, which run in order.

mod both;
mod faults;
mod foreign;
mod traffic;

use std::path::PathBuf;
use std::process::Command;

use skiff_testkit::cases;
use skiff_testkit::nodes::Nodes;

/// Addresses on the wire between the nodes, for load balancers.
const POOL: [&str; 2] = ["172.30.0.200", "fd00:5c1f:172:30::200"];
/// Set once inside the namespace.
const INSIDE: &str = "SKIFF_NODES_INSIDE";

fn main() {
    if std::env::var_os(INSIDE).is_none() {
        let own = std::env::current_exe().expect("this test's own file");
        let mut command = Command::new("unshare");
        command.args(["--net", "--"]).arg(own).args(std::env::args().skip(1)).env(INSIDE, "1");
        let status = command.status().expect("the program unshare");
        std::process::exit(status.code().unwrap_or(1));
    }
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().is_ok_and(|status| status.success()));
    let common: &[cases::Case<Nodes>] = &[
        ("pods_reach_pods_on_every_node", traffic::pods_to_pods),
        ("services_and_names_work_from_every_node", traffic::services_and_names),
    ];
    let policies: &[cases::Case<Nodes>] = &[("policies_hold_between_nodes", traffic::policies)];
    let faults: &[cases::Case<Nodes>] = &[
        ("a_partition_heals", faults::partition),
        ("a_killed_agent_comes_back_and_its_pods_never_went", faults::killed_agent),
        ("a_node_leaves_and_joins_again", faults::leave_and_rejoin),
    ];
    let both: &[cases::Case<Nodes>] = &[
        ("pods_have_addresses_of_both_families", both::pods),
        ("a_service_of_both_families_is_reached_at_both", both::services),
    ];
    let pool: &[cases::Case<Nodes>] = &[("a_load_balancer_has_addresses_from_the_pool", both::pool)];
    let foreign: &[cases::Case<Nodes>] = &[
        ("a_daemon_set_brings_the_network", foreign::install),
        ("pods_services_and_names_work_on_it", foreign::traffic),
        ("policies_hold_on_it", foreign::policies),
    ];
    let ranges = ["--cluster-cidr", "10.42.0.0/16,fd42::/56", "--service-cidr", "10.43.0.0/16,fd43::/112"];
    let mut code = run(&["--network", "vxlan"], &[common, policies, faults].concat());
    let renewed: &[cases::Case<Nodes>] = &[("certificates_are_renewed_before_they_end", faults::renewal)];
    let short = ["--network", "routed", "--cluster-signing-duration", "30s"];
    code |= run(&short, &[common, renewed].concat());
    let balanced = ["--network", "vxlan", "--load-balancer-pool", &POOL.join(",")];
    code |= run(&[&balanced[..], &ranges].concat(), &[common, both, pool].concat());
    code |= run(&[&["--network", "routed"][..], &ranges].concat(), both);
    code |= run_on(start(1, "cni-plugins", &["--network", "none"]), "--network none", foreign);
    let few = ["--network", "bridge", "--cluster-cidr", "10.42.0.0/24", "--node-cidr-mask-size-ipv4", "29"];
    code |=
        run_on(start(1, "busybox", &few), &few.join(" "), &[("a_node_without_addresses_says_so", faults::exhaustion)]);
    std::process::exit(code);
}

fn run(flags: &[&str], cases: &[cases::Case<Nodes>]) -> i32 {
    let nodes = start(3, "busybox", flags).and_then(|nodes| traffic::prepare(&nodes).map(|()| nodes));
    run_on(nodes, &flags.join(" "), cases)
}

fn run_on(nodes: Result<Nodes, String>, how: &str, cases: &[cases::Case<Nodes>]) -> i32 {
    println!("--- {how} ---");
    cases::run_with(nodes, cases)
}

fn start(count: u8, image: &str, flags: &[&str]) -> Result<Nodes, String> {
    let images = std::env::var_os("SKIFF_IMAGES")
        .map(PathBuf::from)
        .ok_or("SKIFF_IMAGES is not set; run `cargo xtask test cluster`")?;
    let mut archives = vec![images.join("busybox.tar")];
    if image != "busybox" {
        archives.push(images.join(format!("{image}.tar")));
    }
    Nodes::start(count, &archives, flags)
}

/// Fails with `what` when it does not hold.
fn holds(what: &str, it: bool) -> Result<(), String> {
    if it { Ok(()) } else { Err(what.to_owned()) }
}
