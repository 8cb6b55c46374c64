//! The cluster's names, indexed, kept in step with Services, EndpointSlices and namespaces by the event.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use skiff_client::Event;
use skiff_meta::{Object, ObjectError};

/// Names the Service a slice belongs to.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Namespace and name.
pub(super) type Key = (String, String);

/// A named port, as SRV records tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    /// `http`; empty ports have no SRV record.
    pub(super) name: String,
    /// `tcp`.
    pub(super) protocol: String,
    pub(super) number: u16,
}

/// What a Service means to DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// One or two addresses of its own.
    ClusterIps(Vec<IpAddr>, Vec<Port>),
    /// The addresses of its endpoints.
    Headless,
    /// Another name.
    External(Name),
}

/// One ready endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EndpointEntry {
    /// Its hostname, or its address with dashes.
    pub(super) label: String,
    pub(super) address: IpAddr,
    /// Index of its slice's ports.
    pub(super) slice: usize,
}

/// The endpoints of one slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Slice {
    endpoints: Vec<(String, IpAddr)>,
    ports: Vec<Port>,
}

/// The cluster's zone.
#[derive(Debug)]
pub struct Zone {
    /// Its labels in lower case, from the left.
    pub(super) origin: Vec<Vec<u8>>,
    /// Its name.
    pub(super) name: Name,
    /// Where the zone's own name server is.
    pub(super) server: IpAddr,
    /// Counts changes; the serial number.
    pub(super) serial: u32,
    namespaces: HashSet<String>,
    services: HashMap<Key, Entry>,
    slices: HashMap<Key, BTreeMap<String, Slice>>,
    owners: HashMap<Key, Key>,
    by_address: HashMap<IpAddr, BTreeMap<Key, usize>>,
}

impl Zone {
    /// An empty zone for `domain` (`cluster.local`), whose name server answers at `server`. A domain that is no DNS name
    /// is taken as `cluster.local`.
    pub fn new(domain: &str, server: IpAddr) -> Self {
        let labels = |domain: &str| -> Vec<Vec<u8>> {
            domain.trim_end_matches('.').split('.').map(|label| label.to_ascii_lowercase().into_bytes()).collect()
        };
        let name = |labels: &[Vec<u8>]| Name::from_labels(labels.iter().map(Vec::as_slice)).ok();
        let mut origin = labels(domain);
        let mut parsed = name(&origin);
        if parsed.is_none() {
            origin = labels("cluster.local");
            parsed = name(&origin);
        }
        Self {
            origin,
            name: parsed.unwrap_or_default(),
            server,
            serial: 1,
            namespaces: HashSet::new(),
            services: HashMap::new(),
            slices: HashMap::new(),
            owners: HashMap::new(),
            by_address: HashMap::new(),
        }
    }

    /// Takes an event about namespaces.
    pub fn namespace_event(&mut self, event: Event) {
        self.serial = self.serial.wrapping_add(1);
        match event {
            Event::Replace(objects) => {
                self.namespaces = objects.iter().map(|object| object.meta().name.clone()).collect();
            }
            Event::Apply(object) => drop(self.namespaces.insert(object.meta().name.clone())),
            Event::Delete(object) => drop(self.namespaces.remove(&object.meta().name)),
        }
    }

    /// Takes an event about Services.
    pub fn service_event(&mut self, event: Event) {
        self.serial = self.serial.wrapping_add(1);
        match event {
            Event::Replace(objects) => {
                for key in absent(self.services.keys(), &objects) {
                    self.set_service(key, None);
                }
                objects.iter().for_each(|object| self.apply_service(object));
            }
            Event::Apply(object) => self.apply_service(&object),
            Event::Delete(object) => self.set_service(key(&object), None),
        }
    }

    /// Takes an event about EndpointSlices.
    pub fn slice_event(&mut self, event: Event) {
        self.serial = self.serial.wrapping_add(1);
        match event {
            Event::Replace(objects) => {
                absent(self.owners.keys(), &objects).iter().for_each(|key| self.remove_slice(key));
                objects.iter().for_each(|object| self.apply_slice(object));
            }
            Event::Apply(object) => self.apply_slice(&object),
            Event::Delete(object) => self.remove_slice(&key(&object)),
        }
    }

    pub(super) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    pub(super) fn service(&self, key: &Key) -> Option<&Entry> {
        self.services.get(key)
    }

    /// The ready endpoints of a Service, each name and address once, and the ports of their slices.
    pub(super) fn endpoints(&self, key: &Key) -> (Vec<EndpointEntry>, Vec<&[Port]>) {
        let (mut found, mut ports, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for (index, slice) in self.slices.get(key).into_iter().flat_map(BTreeMap::values).enumerate() {
            ports.push(slice.ports.as_slice());
            for (label, address) in &slice.endpoints {
                if seen.insert((label, address)) {
                    found.push(EndpointEntry { label: label.clone(), address: *address, slice: index });
                }
            }
        }
        (found, ports)
    }

    /// The Services that have `address` as their own or their endpoints'.
    pub(super) fn services_at(&self, address: &IpAddr) -> impl Iterator<Item = &Key> {
        self.by_address.get(address).into_iter().flat_map(BTreeMap::keys)
    }

    fn apply_service(&mut self, object: &Object) {
        let key = key(object);
        match object.typed::<Service>() {
            Ok(service) => self.set_service(key, Entry::of(&service)),
            Err(error) => complain(&key, &error),
        }
    }

    fn set_service(&mut self, key: Key, entry: Option<Entry>) {
        let old = match entry {
            Some(entry) => {
                entry.addresses().for_each(|address| self.index(address, &key));
                self.services.insert(key.clone(), entry)
            }
            None => self.services.remove(&key),
        };
        old.iter().flat_map(Entry::addresses).for_each(|address| self.unindex(address, &key));
    }

    fn apply_slice(&mut self, object: &Object) {
        let key = key(object);
        let service = object.meta().labels.get(SERVICE_LABEL).map(|name| (key.0.clone(), name.clone()));
        let slice = match object.typed::<EndpointSlice>() {
            Ok(slice) => Slice::of(&slice),
            Err(error) => return complain(&key, &error),
        };
        self.remove_slice(&key);
        let Some(service) = service else { return };
        slice.endpoints.iter().for_each(|(_, address)| self.index(*address, &service));
        self.slices.entry(service.clone()).or_default().insert(key.1.clone(), slice);
        self.owners.insert(key, service);
    }

    fn remove_slice(&mut self, key: &Key) {
        let Some(service) = self.owners.remove(key) else { return };
        let Some(slices) = self.slices.get_mut(&service) else { return };
        let slice = slices.remove(&key.1).unwrap_or_default();
        if slices.is_empty() {
            self.slices.remove(&service);
        }
        slice.endpoints.iter().for_each(|(_, address)| self.unindex(*address, &service));
    }

    fn index(&mut self, address: IpAddr, key: &Key) {
        *self.by_address.entry(address).or_default().entry(key.clone()).or_default() += 1;
    }

    fn unindex(&mut self, address: IpAddr, key: &Key) {
        let Some(keys) = self.by_address.get_mut(&address) else { return };
        if let Some(count) = keys.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                keys.remove(key);
            }
        }
        if keys.is_empty() {
            self.by_address.remove(&address);
        }
    }
}

impl Entry {
    fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            let name = spec.external_name.as_deref()?.trim_end_matches('.').split('.').map(str::as_bytes);
            return Name::from_labels(name).ok().map(Self::External);
        }
        let all =
            spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.as_ref().filter(|_| spec.cluster_ips.is_none()));
        let all: Vec<&String> = all.collect();
        if all.iter().any(|address| *address == "None") {
            return Some(Self::Headless);
        }
        let addresses: Vec<IpAddr> = all.iter().filter_map(|address| address.parse().ok()).collect();
        let ports = spec.ports.iter().flatten();
        let ports = ports.filter_map(|p| Port::of(p.name.as_deref(), p.protocol.as_deref(), p.port)).collect();
        // A Service that has not got its address yet has no name yet either.
        (!addresses.is_empty()).then_some(Self::ClusterIps(addresses, ports))
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        match self {
            Self::ClusterIps(addresses, _) => addresses.clone(),
            Self::Headless | Self::External(_) => Vec::new(),
        }
        .into_iter()
    }
}

impl Port {
    fn of(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<Self> {
        let (name, protocol) = (name.unwrap_or("").to_owned(), protocol.unwrap_or("TCP").to_ascii_lowercase());
        Some(Self { name, protocol, number: u16::try_from(number).ok()? })
    }
}

impl Slice {
    fn of(slice: &EndpointSlice) -> Self {
        let ready = |e: &&Endpoint| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
        let named = |e: &Endpoint| {
            let address: IpAddr = e.addresses.first()?.parse().ok()?;
            let hostname = e.hostname.clone().filter(|hostname| !hostname.is_empty());
            Some((hostname.map_or_else(|| dashed(address), |h| h.to_ascii_lowercase()), address))
        };
        let ports = slice.ports.iter().flatten();
        let ports = ports.filter_map(|p| Port::of(p.name.as_deref(), p.protocol.as_deref(), p.port?));
        Self {
            endpoints: slice.endpoints.iter().flatten().filter(ready).filter_map(named).collect(),
            ports: ports.collect(),
        }
    }
}

/// An address as one label.
pub(super) fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

fn key(object: &Object) -> Key {
    (object.meta().namespace.clone(), object.meta().name.clone())
}

/// Those of `known` that a fresh list does not have.
fn absent<'a>(known: impl Iterator<Item = &'a Key>, objects: &[std::sync::Arc<Object>]) -> Vec<Key> {
    let named: HashSet<Key> = objects.iter().map(|object| key(object)).collect();
    known.filter(|key| !named.contains(*key)).cloned().collect()
}

fn complain(key: &Key, error: &ObjectError) {
    tracing::warn!(namespace = key.0, name = key.1, "names are left as they were: {error}");
}
