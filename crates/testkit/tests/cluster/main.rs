//! A real cluster on real containers, as its users meet it: our kubectl, the real kubectl, the Python client.
//!
//! Needs root and what `cargo xtask test cluster` prepares. One server is shared by all cases, which run in order.

mod clients;
mod network;
mod node;
mod plugins;
mod refusals;
mod rollout;
mod support;

use skiff_testkit::cases;
use support::Cluster;

fn main() {
    let code = cases::run_with(
        Cluster::start(),
        &[
            ("the_example_is_reached_by_address_port_and_name", network::example_is_reached),
            ("host_ports_lead_to_pods", network::host_ports),
            ("logs_and_exec_reach_a_container", node::logs_and_exec),
            ("volumes_and_environment_arrive", node::volumes_and_environment),
            ("claims_keep_what_is_written", node::claims),
            ("volumes_of_a_driver_come_and_go", plugins::drivers_volumes),
            ("devices_of_a_plugin_are_given_and_kept", plugins::devices),
            ("claims_of_devices_are_made_ready", plugins::claims_of_devices),
            ("a_file_becomes_a_pod", node::static_pods),
            ("a_killed_process_is_restarted", node::killed_process_is_restarted),
            ("init_containers_and_jobs_run_to_their_end", node::init_and_job),
            ("a_failing_probe_restarts_a_container", node::failing_probe),
            ("a_deleted_pod_is_replaced", rollout::deleted_pod_is_replaced),
            ("cordon_keeps_new_pods_away", rollout::cordon),
            ("scaling_to_ten_and_to_none", rollout::scaling),
            ("a_rolling_update_is_never_felt", rollout::rolling_update),
            ("recreate_stops_all_before_it_starts_any", rollout::recreate),
            ("undo_brings_the_old_template_back", rollout::undo),
            ("resources_change_in_place", clients::resize),
            ("the_real_kubectl_works", clients::kubectl),
            ("the_python_client_works", clients::python),
            ("a_killed_server_finds_its_containers_again", node::server_killed),
            ("kills_amid_churn_are_survived", node::kills_amid_churn),
            ("wrong_starts_say_what_to_do", refusals::starts),
            ("a_deleted_deployment_leaves_nothing", rollout::nothing_is_left),
        ],
    );
    std::process::exit(code);
}
