//! What a rollout costs.

use std::time::Duration;

use skiff_testkit::Options;
use skiff_testkit::writes::Writes;

use crate::support::{LIMIT, apply, available, cluster};

/// Each pod is created, bound and told to run; a few writes more for Deployment and ReplicaSet.
#[test]
fn a_rollout_takes_three_writes_a_pod_and_five_more() {
    const PODS: usize = 100;
    // All at once, since whoever takes its time is owed to be told how far it is.
    let options = Options { slowest_container: Duration::ZERO, ..Options::default() };
    let (sim, cluster) = cluster(1, &options);
    // What a server that has just started still writes is not the rollout's.
    sim.run_for(Duration::from_secs(10));
    let before = sim.run_until(cluster.store().revision(), LIMIT).unwrap().unwrap();
    let rollout = async {
        apply(&cluster, PODS as i32, "nginx").await;
        available(&cluster, PODS as i32).await;
    };
    sim.run_until(rollout, LIMIT).unwrap();
    sim.run_for(Duration::from_secs(30));
    let writes = sim.run_until(Writes::since(&**cluster.store(), before), LIMIT).unwrap().unwrap();
    assert!(writes.total() <= 3 * PODS + 5, "{} writes:\n{writes}", writes.total());
    assert_eq!(writes.of("pods", "create"), PODS);
    assert_eq!(cluster.refused(), Vec::<String>::new());
}
