//! What a pod is promised, on real containers, against the cluster of `CONFORMANCE_KUBECONFIG`, whose nodes must have the
//! images `busybox:1.35`, `probe:1` and `python:3.11` (`cargo xtask image`), or against a node that is started for it.
//!
//! Most promises are rows of tables: a pod that runs to its end, and what it must have said. The pods of a table run at
//! once. Who serves is a `probe`, asked through the API server's proxy.

#[path = "wire_pods/environment.rs"]
mod environment;
#[path = "wire_pods/lives.rs"]
mod lives;
#[path = "wire_pods/names.rs"]
mod names;
#[path = "wire_pods/resize.rs"]
mod resize;
#[path = "wire_pods/services.rs"]
mod services;
#[path = "wire_pods/streams.rs"]
mod streams;
mod support;
#[path = "wire_pods/table.rs"]
mod table;
#[path = "wire_pods/updates.rs"]
mod updates;
#[path = "wire_pods/volumes.rs"]
mod volumes;
#[path = "wire_pods/webhooks.rs"]
mod webhooks;

use std::process::Command;

use skiff_testkit::cases::{self, Case};
use support::Api as Run;

/// Set once inside a network namespace of our own.
const INSIDE: &str = "SKIFF_PODS_INSIDE";

fn main() {
    if std::env::var_os("CONFORMANCE_KUBECONFIG").is_none() && std::env::var_os(INSIDE).is_none() {
        // The node's ports and addresses are not the machine's.
        let own = std::env::current_exe().expect("this test's own file");
        let mut command = Command::new("unshare");
        command.args(["--net", "--"]).arg(own).args(std::env::args().skip(1)).env(INSIDE, "1");
        let status = command.status().expect("the program unshare");
        std::process::exit(status.code().unwrap_or(1));
    }
    if std::env::var_os(INSIDE).is_some() {
        for words in [
            "link set lo up",
            "link add skiff-up type veth peer name skiff-peer",
            "address add 192.0.2.58/24 dev skiff-up",
            "link set skiff-up up",
            "link set skiff-peer up",
            "route add default via 192.0.2.1",
        ] {
            let done = Command::new("ip").args(words.split(' ')).status();
            assert!(done.is_ok_and(|status| status.success()), "ip {words}");
        }
    }
    std::process::exit(cases::run_with(Run::start_with_a_node(58, &["busybox", "probe", "python"]), CASES));
}

const CASES: &[Case<Run>] = &[
    ("volumes_hold_what_they_are_made_of", volumes::contents),
    ("directories_have_their_medium_and_modes", volumes::directories),
    ("environment_and_arguments_are_put_together", environment::variables),
    ("containers_run_as_they_are_told", environment::security),
    ("volumes_follow_their_sources", updates::followed),
    ("what_is_immutable_stays", updates::immutable),
    ("what_is_declared_is_counted", updates::generations),
    ("a_subpath_that_names_nothing_can_be_mended", updates::subpath_mended),
    ("containers_end_as_their_policy_says", lives::ends),
    ("init_containers_go_first", lives::init_containers),
    ("hooks_are_called", lives::hooks),
    ("probes_decide_who_is_ready_and_who_starts_again", lives::probes),
    ("a_pod_lives_by_its_spec", lives::by_the_spec),
    ("resources_change_in_place", resize::in_place),
    ("commands_and_terminals_are_talked_to", streams::commands),
    ("logs_are_read_whole_and_in_part", streams::logs),
    ("ports_lead_into_a_pod", streams::ports),
    ("classes_of_runtimes_are_asked", lives::runtime_classes),
    ("a_taint_drives_out_whom_it_does_not_suit", lives::taints),
    ("names_lead_to_services_and_pods", names::resolved),
    ("files_of_names_are_the_pods_own", names::files),
    ("services_lead_to_their_pods", services::endpoints),
    ("a_service_changes_its_type", services::types),
    ("a_client_stays_where_it_was", services::affinity),
    ("the_proxy_passes_everything_on", services::proxy),
    ("ports_of_the_node_are_shared", services::host_ports),
    ("webhooks_judge_from_within_the_cluster", webhooks::within),
];
