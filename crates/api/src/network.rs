//! What control plane and nodes agree on about the network.

use k8s_openapi::api::core::v1::Service;

/// A condition in the status of a Service: its message is the name of the node that answers on the wire for the
/// addresses its load balancer has from the pool. It stands in the status because those who may write Services may not
/// write that.
pub const ANNOUNCED: &str = "skiff.io/Announced";

/// Whether a Service is balanced by Skiff: of type LoadBalancer, and of no class that somebody else serves.
pub fn is_balanced(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
}

/// Which node answers for the Service's addresses.
pub fn announcer(service: &Service) -> Option<&str> {
    let conditions = service.status.as_ref()?.conditions.iter().flatten();
    let announced = conditions.filter(|condition| condition.type_ == ANNOUNCED && condition.status == "True");
    announced.map(|condition| condition.message.as_str()).next()
}
