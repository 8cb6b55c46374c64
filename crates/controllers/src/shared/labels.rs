//! Label selectors as controllers use them: a faulty selector matches nothing.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
pub(crate) use skiff_meta::LabelSelector as Selector;

/// From an object's selector; an empty one matches everything, a missing or faulty one nothing.
pub(crate) fn selector(selector: Option<&LabelSelector>) -> Selector {
    skiff_api::labels::compile(selector).unwrap_or_else(|_| Selector::nothing())
}

/// From the plain maps of Services and ReplicationControllers; an empty map matches nothing there.
pub(crate) fn map_selector(map: Option<&BTreeMap<String, String>>) -> Selector {
    map.filter(|map| !map.is_empty()).map_or_else(Selector::nothing, Selector::from_map)
}

/// Whether an object with these labels is selected.
pub(crate) fn selects(selector: &Selector, labels: Option<&BTreeMap<String, String>>) -> bool {
    match labels {
        Some(labels) => selector.matches(labels),
        None => selector.matches(&BTreeMap::new()),
    }
}
