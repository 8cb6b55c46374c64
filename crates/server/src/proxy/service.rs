//! Which endpoint a request for `services/NAME/proxy` goes to.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skiff_meta::{GroupResource, Object, Status};

use super::location::{Location, Wanted};
use crate::chain::View;

/// One ready endpoint, chosen by `random`.
pub(super) fn location(
    view: &dyn View,
    namespace: &str,
    wanted: &Wanted<'_>,
    path: String,
    random: u64,
) -> Result<Location, Status> {
    let services = GroupResource::new("", "services");
    let service = view.get(&services, namespace, wanted.name);
    let service = service.ok_or_else(|| Status::not_found(&services, wanted.name))?;
    let service = service.typed::<Service>().map_err(Status::internal)?;
    let port = port_name(&service, wanted)?;
    let slices = view.list(&GroupResource::new("discovery.k8s.io", "endpointslices"), namespace);
    let of_service = slices
        .iter()
        .filter(|slice| slice.meta().labels.get("kubernetes.io/service-name").is_some_and(|name| name == wanted.name));
    let ready: Vec<(String, i32)> = of_service.flat_map(|slice| ready(slice, &port)).collect();
    let nobody = || Status::unavailable(format!("no endpoints available for service {:?}", wanted.name));
    let count = u64::try_from(ready.len()).unwrap_or(u64::MAX);
    let index = random.checked_rem(count).and_then(|i| usize::try_from(i).ok());
    let (address, port) = index.and_then(|i| ready.get(i)).ok_or_else(nobody)?;
    wanted.at(address, &port.to_string(), path)
}

/// Host and port of somebody who answers for a Service's `port`.
pub(crate) fn endpoint(
    view: &dyn View,
    namespace: &str,
    name: &str,
    port: u16,
    random: u64,
) -> Result<(String, u16), Status> {
    let id = GroupResource::new("", "services");
    // Upstream names it in the singular here.
    let missing = || Status::not_found(&GroupResource::new("", "service"), name);
    let service = view.get(&id, namespace, name).ok_or_else(missing)?;
    let service = service.typed::<Service>().map_err(Status::internal)?;
    let spec = service.spec.as_ref();
    if let Some(elsewhere) = spec.filter(|spec| spec.type_.as_deref() == Some("ExternalName")) {
        return Ok((elsewhere.external_name.clone().unwrap_or_default(), port));
    }
    let wanted = Wanted { scheme: "https", name, port: &port.to_string() };
    location(view, namespace, &wanted, String::new(), random).map(|found| (found.host, found.port))
}

/// A port is asked for by name or by number.
fn port_name(service: &Service, wanted: &Wanted<'_>) -> Result<String, Status> {
    let Ok(number) = wanted.port.parse::<i32>() else { return Ok(wanted.port.to_owned()) };
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let found = ports.iter().find(|port| port.port == number);
    found
        .map(|port| port.name.clone().unwrap_or_default())
        .ok_or_else(|| Status::unavailable(format!("no service port {number} found for service {:?}", wanted.name)))
}

fn ready(slice: &Arc<Object>, port: &str) -> Vec<(String, i32)> {
    let Ok(slice) = slice.typed::<EndpointSlice>() else { return Vec::new() };
    let ports = slice.ports.iter().flatten();
    let number = ports.filter(|p| p.name.as_deref().unwrap_or_default() == port).find_map(|p| p.port);
    let Some(number) = number else { return Vec::new() };
    let ready = slice
        .endpoints
        .iter()
        .flatten()
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true));
    ready.filter_map(|endpoint| endpoint.addresses.first().cloned()).map(|address| (address, number)).collect()
}
