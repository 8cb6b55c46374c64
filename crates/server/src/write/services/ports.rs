//! Node ports.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skiff_meta::Status;
use skiff_meta::field::{FieldError, FieldPath};

use super::{Claims, claims, invalid, may_have_ports, needs_health_port, needs_ports, port_key, service_ports};
use crate::call::Call;
use crate::tree;

/// Random tries before all candidates are walked through.
const TRIES: usize = 64;

/// Gives the Service its node ports.
pub(super) async fn give(call: &Call, service: &mut Value, before: &Claims) -> Result<(), Status> {
    let mut wanted = claims(service).ports;
    for (at, port) in service_ports(service).enumerate().filter(|_| may_have_ports(service)) {
        let Some(number) = tree::number(port, &["nodePort"]).filter(|p| *p > 0) else { continue };
        if let Some(why) = unusable_port(call, number, before).await? {
            let path = FieldPath::new("spec.ports").index(at).child("nodePort");
            return Err(invalid(service, &[FieldError::invalid(&path, number, &why)]));
        }
    }
    if needs_ports(service) {
        let mut list = tree::at(service, &["spec", "ports"]).cloned().unwrap_or_default();
        // One number serves all protocols of the same port.
        let mut by_port: Vec<(Value, i64)> = Vec::new();
        for port in list.as_array_mut().into_iter().flatten() {
            let number = port.get("port").cloned().unwrap_or_default();
            let node = match tree::number(port, &["nodePort"]).filter(|p| *p > 0) {
                Some(node) => node,
                None => match by_port.iter().find(|(p, _)| *p == number) {
                    Some((_, node)) => *node,
                    None => free_port(call, &wanted).await?,
                },
            };
            wanted.insert(node);
            by_port.push((number, node));
            tree::map(port).insert("nodePort".to_owned(), json!(node));
        }
        tree::child(service, "spec").insert("ports".to_owned(), list);
    }
    if needs_health_port(service) {
        match tree::number(service, &["spec", "healthCheckNodePort"]).filter(|p| *p > 0) {
            Some(port) => {
                if let Some(why) = unusable_port(call, port, before).await? {
                    let why = format!("failed to allocate requested HealthCheck NodePort {port}: {why}");
                    return Err(Status::internal(why));
                }
            }
            None => {
                let port = free_port(call, &wanted).await?;
                tree::child(service, "spec").insert("healthCheckNodePort".to_owned(), json!(port));
            }
        }
    }
    Ok(())
}

async fn port_is_taken(call: &Call, port: i64) -> Result<bool, Status> {
    let found = call.api.store.get(&port_key(port), None).await.map_err(|e| crate::error::store(&e))?;
    Ok(found.0.is_some())
}

async fn unusable_port(call: &Call, port: i64, before: &Claims) -> Result<Option<String>, Status> {
    if before.ports.contains(&port) {
        return Ok(None);
    }
    let (first, last) = call.api.config.node_ports;
    if port < i64::from(first) || port > i64::from(last) {
        let why = format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
        return Ok(Some(why));
    }
    Ok(port_is_taken(call, port).await?.then(|| "provided port is already allocated".to_owned()))
}

async fn free_port(call: &Call, wanted: &BTreeSet<i64>) -> Result<i64, Status> {
    let (first, last) = call.api.config.node_ports;
    let (first, size) = (i64::from(first), i64::from(last) - i64::from(first) + 1);
    let reserved = if size <= 16 { 0 } else { (size / 32).clamp(16, 128) };
    let span = (size - reserved).max(1) as u64;
    for _ in 0..TRIES {
        let port = first + reserved + (call.api.world.random() % span) as i64;
        if !wanted.contains(&port) && !port_is_taken(call, port).await? {
            return Ok(port);
        }
    }
    for port in (first + reserved..first + size).chain(first..first + reserved) {
        if !wanted.contains(&port) && !port_is_taken(call, port).await? {
            return Ok(port);
        }
    }
    Err(Status::internal("failed to allocate a nodePort: range is full"))
}
