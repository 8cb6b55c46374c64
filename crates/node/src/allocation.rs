//! What a pod gets of the node for itself when it is let in: processors, memory and devices, container by container, as near
//! to each other as the policy wants it (`pkg/kubelet/cm/topologymanager` upstream). One pod at a time.

use k8s_openapi::api::core::v1::Pod;

use crate::devices::{DeviceError, Reusable};
use crate::node::Node;
use crate::pinning::{Lack, Serving};
use crate::pod::facts::{self, Role};
use crate::pod::status::Ending;

/// Gives a pod what it is to have for itself.
///
/// # Errors
/// When there is too little, it lies too far apart, or a plugin refuses: the pod is refused, and has what it was given until
/// it is forgotten.
pub(crate) async fn give(node: &Node, pod: &Pod) -> Result<(), Ending> {
    if node.pinning.gives() || node.devices.concern(pod) {
        Box::pin(give_all(node, pod)).await?;
    }
    Ok(())
}

async fn give_all(node: &Node, pod: &Pod) -> Result<(), Ending> {
    let _turn = node.allocating.lock().await;
    let (files, uid) = (&*node.config.os.files, facts::uid(pod));
    let (pins, known) = (node.pinning.pins(), node.pinning.nodes());
    // Where another agent has given it all of this already, only what that one did not come to is missing.
    let served = pins.contains_key(uid);
    let begin = || Serving::begin(node.pinning.machine(), pod, &pins, &node.devices.hints_of_all(pod, known));
    let mut serving = (!served).then(begin).transpose().map_err(lacks)?;
    let mut reusable = Reusable::new();
    for (role, container) in facts::containers(pod).iter().filter(|(role, _)| *role != Role::Ephemeral) {
        let near = match &mut serving {
            Some(serving) => {
                let hints = node.devices.hints(pod, container, &reusable, known);
                serving.next(*role, container, &hints).map_err(lacks)?
            }
            None => None,
        };
        node.devices.give(pod, *role, container, near, &mut reusable).await.map_err(refused)?;
    }
    if !reusable.is_empty() {
        node.devices.save(files).map_err(|error| refused(error.into()))?;
    }
    if let Some(serving) = serving {
        node.pinning.give(files, uid, serving.given());
    }
    Ok(())
}

fn unexpected(why: String) -> Ending {
    let message = format!("Pod was rejected: Allocate failed due to {why}, which is unexpected");
    Ending::refusal("UnexpectedAdmissionError", message)
}

fn refused(error: DeviceError) -> Ending {
    unexpected(error.to_string())
}

fn lacks(lack: Lack) -> Ending {
    match lack {
        Lack::Alignment => Ending::refusal(
            "TopologyAffinityError",
            "Pod was rejected: Resources cannot be allocated with Topology locality",
        ),
        Lack::Cpus { wanted, left } => {
            unexpected(format!("not enough cpus available to satisfy request: requested={wanted}, available={left}"))
        }
        Lack::Memory { wanted } => unexpected(format!("no memory nodes with {wanted} bytes left")),
    }
}
