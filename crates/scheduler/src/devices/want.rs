//! A claim as the search sees it: read once, and asked on every node.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::resource::v1::{
    CapacityRequirements, DeviceClass, DeviceConstraint, DeviceSelector, DeviceToleration, ExactDeviceRequest,
    ResourceClaim,
};
use skiff_meta::Quantity;

use super::selectors::Selector;
use super::stock::Stock;
use super::taken::quantity;
use super::{Fault, shown};

/// A claim to be allocated.
pub struct Want {
    /// The claim.
    pub claim: Arc<ResourceClaim>,
    /// Its name in messages.
    pub(super) name: String,
    /// One of the alternatives of each request has to be had.
    pub(super) requests: Vec<Vec<Request>>,
}

/// A request, or one of the alternatives of one.
pub(super) struct Request {
    /// Its name in the claim.
    pub(super) base: String,
    /// Its own name, where it is an alternative.
    pub(super) alternative: Option<String>,
    pub(super) class: Arc<DeviceClass>,
    /// How many devices; `None`: all.
    pub(super) count: Option<usize>,
    pub(super) is_admin: bool,
    pub(super) tolerations: Vec<DeviceToleration>,
    pub(super) capacity: BTreeMap<String, Quantity>,
    /// The class's and its own: whose they are, and their number there.
    pub(super) selectors: Vec<(Arc<Selector>, bool, usize)>,
}

impl Want {
    /// Reads a claim.
    ///
    /// # Errors
    /// When a class is not there.
    pub fn new(claim: Arc<ResourceClaim>, stock: &Stock) -> Result<Self, Fault> {
        let name = shown(&claim);
        let mut requests = Vec::new();
        for request in claim.spec.devices.iter().flat_map(|devices| devices.requests.iter().flatten()) {
            let read = |exact: ExactDeviceRequest, alternative| {
                Request::new(&name, request.name.clone(), alternative, exact, stock)
            };
            let alternatives: Result<Vec<Request>, Fault> = match &request.exactly {
                Some(exactly) => Ok(vec![read(exactly.clone(), None)?]),
                None => {
                    let alternatives = request.first_available.iter().flatten();
                    let exact = alternatives.map(|sub| {
                        let exact = ExactDeviceRequest {
                            admin_access: None,
                            allocation_mode: sub.allocation_mode.clone(),
                            capacity: sub.capacity.clone(),
                            count: sub.count,
                            device_class_name: sub.device_class_name.clone(),
                            selectors: sub.selectors.clone(),
                            tolerations: sub.tolerations.clone(),
                        };
                        read(exact, Some(sub.name.clone()))
                    });
                    exact.collect()
                }
            };
            requests.push(alternatives?);
        }
        Ok(Self { name, requests, claim })
    }

    /// Whether any of its requests leaves a choice.
    pub fn has_alternatives(&self) -> bool {
        self.requests.iter().flatten().any(|request| request.alternative.is_some())
    }

    pub(super) fn constraints(&self) -> &[DeviceConstraint] {
        self.claim.spec.devices.as_ref().and_then(|devices| devices.constraints.as_deref()).unwrap_or_default()
    }
}

impl Request {
    fn new(
        claim: &str,
        base: String,
        alternative: Option<String>,
        exact: ExactDeviceRequest,
        stock: &Stock,
    ) -> Result<Self, Fault> {
        let ExactDeviceRequest { admin_access, allocation_mode, capacity, count, device_class_name, .. } = exact;
        let Some(class) = stock.class(&device_class_name).cloned() else {
            let request = alternative.unwrap_or(base);
            return Err(Fault::NoClass { claim: claim.to_owned(), request, class: device_class_name });
        };
        let compiled = |selectors: &Option<Vec<DeviceSelector>>, of_class: bool| {
            let all = selectors.iter().flatten().enumerate();
            all.map(|(number, selector)| (stock.selector(selector), of_class, number)).collect::<Vec<_>>()
        };
        let mut selectors = compiled(&class.spec.selectors, true);
        selectors.extend(compiled(&exact.selectors, false));
        let all = allocation_mode.as_deref() == Some("All");
        let asked = |capacity: CapacityRequirements| capacity.requests.unwrap_or_default();
        Ok(Self {
            base,
            alternative,
            class,
            count: (!all).then(|| usize::try_from(count.unwrap_or(1)).unwrap_or(usize::MAX)),
            is_admin: admin_access == Some(true),
            tolerations: exact.tolerations.unwrap_or_default(),
            capacity: capacity
                .map(asked)
                .unwrap_or_default()
                .iter()
                .map(|(name, n)| (name.clone(), quantity(n)))
                .collect(),
            selectors,
        })
    }

    /// Its own name.
    pub(super) fn name(&self) -> &str {
        self.alternative.as_deref().unwrap_or(&self.base)
    }

    /// The name by which results refer to it.
    pub(super) fn full_name(&self) -> String {
        match &self.alternative {
            Some(alternative) => format!("{}/{alternative}", self.base),
            None => self.base.clone(),
        }
    }

    /// Whether a list of requests has it, by its own name or by that of the request it is an alternative of. An empty
    /// list is about all.
    pub(super) fn is_among(&self, names: Option<&Vec<String>>) -> bool {
        let Some(names) = names.filter(|names| !names.is_empty()) else { return true };
        names.contains(&self.base) || (self.alternative.is_some() && names.contains(&self.full_name()))
    }
}
