//! Resources from CustomResourceDefinitions.

use std::sync::Arc;

use skiff_meta::Object;

use super::Resource;

/// The resource a definition defines; `None` when it is not (yet) fit to be served. `old` is what an earlier state of
/// the definition defined, whose cache goes on.
pub(crate) fn resource(_definition: &Object, _old: Option<Arc<Resource>>) -> Option<Resource> {
    None
}
