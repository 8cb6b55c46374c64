//! What the proxy knows, and the table that follows from it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use skiff_client::Event;
use skiff_meta::Object;

use super::announce::announced;
use super::health::HealthCheck;
use super::plan::{NodeFacts, UdpFlow, plan, skeleton, stale_flows, udp_flows};
use crate::nft::{Assembly, Batch, Table};

/// Names the Service a slice belongs to.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Namespace and name.
type Key = (String, String);

/// What must be done to the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// To the table.
    pub batch: Batch,
    /// What connection tracking must forget.
    pub stale_flows: BTreeSet<UdpFlow>,
    /// Whether the ports for load balancers' health checks say something else now ([`State::health_checks`]).
    pub health_checks: bool,
}

/// Services, their slices, and the table of one family assembled from them. Events mark Services as dirty; [`State::changes`] plans
/// the dirty ones anew.
pub struct State {
    node: NodeFacts,
    services: BTreeMap<Key, Arc<Service>>,
    slices: BTreeMap<Key, BTreeMap<String, Arc<EndpointSlice>>>,
    owners: HashMap<Key, Key>,
    flows: BTreeMap<Key, BTreeSet<UdpFlow>>,
    checks: BTreeMap<Key, (u16, HealthCheck)>,
    announced: BTreeMap<Key, Vec<IpAddr>>,
    assembly: Assembly<Key>,
    dirty: BTreeSet<Key>,
}

impl State {
    /// Nothing known yet.
    pub fn new(table: &str, node: NodeFacts) -> Self {
        Self {
            assembly: Assembly::new(skeleton(table, &node)),
            node,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            owners: HashMap::new(),
            flows: BTreeMap::new(),
            checks: BTreeMap::new(),
            announced: BTreeMap::new(),
            dirty: BTreeSet::new(),
        }
    }

    /// Takes an event about Services.
    pub fn service_event(&mut self, event: &Event) {
        match event {
            Event::Replace(objects) => {
                let named: BTreeSet<Key> = objects.iter().map(|object| key(object)).collect();
                let gone: Vec<Key> = self.services.keys().filter(|key| !named.contains(*key)).cloned().collect();
                gone.iter().for_each(|key| self.remove_service(key));
                objects.iter().for_each(|object| self.set_service(object));
            }
            Event::Apply(object) => self.set_service(object),
            Event::Delete(object) => self.remove_service(&key(object)),
        }
    }

    /// Takes an event about EndpointSlices.
    pub fn slice_event(&mut self, event: &Event) {
        match event {
            Event::Replace(objects) => {
                let named: BTreeSet<Key> = objects.iter().map(|object| key(object)).collect();
                let gone: Vec<Key> = self.owners.keys().filter(|key| !named.contains(*key)).cloned().collect();
                gone.iter().for_each(|key| self.remove_slice(key));
                objects.iter().for_each(|object| self.set_slice(object));
            }
            Event::Apply(object) => self.set_slice(object),
            Event::Delete(object) => self.remove_slice(&key(object)),
        }
    }

    /// Plans all dirty Services anew and says what changes. The state assumes that it will be done.
    pub fn changes(&mut self) -> Changes {
        let mut fragments = BTreeMap::new();
        let mut stale = BTreeSet::new();
        let mut checks_changed = false;
        for key in std::mem::take(&mut self.dirty) {
            let slices: Vec<&EndpointSlice> = self.slices.get(&key).into_iter().flatten().map(|(_, s)| &**s).collect();
            let service = self.services.get(&key);
            let flows = service.map(|service| udp_flows(service, &slices, &self.node)).unwrap_or_default();
            let fragment = service.map(|service| plan(service, &slices, &self.node));
            let check = service.and_then(|service| HealthCheck::of(service, &slices, &self.node));
            checks_changed |= match check {
                Some(check) => self.checks.insert(key.clone(), check.clone()) != Some(check),
                None => self.checks.remove(&key).is_some(),
            };
            match service.map(|service| announced(service, &self.node)).unwrap_or_default() {
                none if none.is_empty() => drop(self.announced.remove(&key)),
                addresses => drop(self.announced.insert(key.clone(), addresses)),
            }
            let before = self.flows.remove(&key).unwrap_or_default();
            stale.extend(stale_flows(&before, &flows));
            if !flows.is_empty() {
                self.flows.insert(key.clone(), flows);
            }
            fragments.insert(key, fragment);
        }
        Changes { batch: self.assembly.update(fragments), stale_flows: stale, health_checks: checks_changed }
    }

    /// What the ports for load balancers' health checks say.
    pub fn health_checks(&self) -> impl Iterator<Item = &(u16, HealthCheck)> {
        self.checks.values()
    }

    /// The addresses of load balancers that the node answers for.
    pub fn announced(&self) -> impl Iterator<Item = IpAddr> {
        self.announced.values().flatten().copied()
    }

    /// The whole table as last planned.
    pub fn table(&self) -> Table {
        self.assembly.table()
    }

    fn set_service(&mut self, object: &Object) {
        let key = key(object);
        match object.typed::<Service>() {
            Ok(service) => {
                // Many updates of a Service (its events, its managed fields) mean nothing to us; the plan finds out.
                self.services.insert(key.clone(), service);
                self.dirty.insert(key);
            }
            Err(error) => tracing::warn!(namespace = key.0, name = key.1, "service is left as it was: {error}"),
        }
    }

    fn remove_service(&mut self, key: &Key) {
        if self.services.remove(key).is_some() {
            self.dirty.insert(key.clone());
        }
    }

    fn set_slice(&mut self, object: &Object) {
        let key = key(object);
        let service = object.meta().labels.get(SERVICE_LABEL).map(|name| (key.0.clone(), name.clone()));
        if self.owners.get(&key) != service.as_ref() {
            self.remove_slice(&key);
        }
        let Some(service) = service else { return };
        match object.typed::<EndpointSlice>() {
            Ok(slice) => {
                self.slices.entry(service.clone()).or_default().insert(key.1.clone(), slice);
                self.owners.insert(key, service.clone());
                self.dirty.insert(service);
            }
            Err(error) => tracing::warn!(namespace = key.0, name = key.1, "slice is left as it was: {error}"),
        }
    }

    fn remove_slice(&mut self, key: &Key) {
        let Some(service) = self.owners.remove(key) else { return };
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(&key.1);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
        self.dirty.insert(service);
    }
}

fn key(object: &Object) -> Key {
    (object.meta().namespace.clone(), object.meta().name.clone())
}
