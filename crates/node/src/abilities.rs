//! What the runtime says it can do.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures};
use parking_lot::Mutex;
use skiff_cri::v1::{RuntimeHandlerFeatures, StatusResponse};

/// As it was told last.
#[derive(Default)]
pub(crate) struct Abilities {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// By the name of a runtime class's handler.
    handlers: BTreeMap<String, RuntimeHandlerFeatures>,
    strict_groups: bool,
}

impl Abilities {
    /// The runtime says so.
    pub(crate) fn tell(&self, status: &StatusResponse) {
        let handlers = status.runtime_handlers.iter();
        let handlers = handlers.map(|handler| (handler.name.clone(), handler.features.unwrap_or_default())).collect();
        let strict_groups = status.features.is_some_and(|features| features.supplemental_groups_policy);
        *self.known.lock() = Known { handlers, strict_groups };
    }

    /// What a handler can do; nothing, where the runtime does not say.
    pub(crate) fn of(&self, handler: &str) -> RuntimeHandlerFeatures {
        self.known.lock().handlers.get(handler).copied().unwrap_or_default()
    }

    /// Whether containers may have no other groups than those they ask for.
    pub(crate) fn knows_strict_groups(&self) -> bool {
        self.known.lock().strict_groups
    }

    /// What the node's status says of handlers.
    pub(crate) fn handlers(&self) -> Option<Vec<NodeRuntimeHandler>> {
        let known = self.known.lock();
        let handler = |(name, features): (&String, &RuntimeHandlerFeatures)| NodeRuntimeHandler {
            name: Some(name.clone()),
            features: Some(NodeRuntimeHandlerFeatures {
                recursive_read_only_mounts: Some(features.recursive_read_only_mounts),
                user_namespaces: Some(features.user_namespaces),
            }),
        };
        Some(known.handlers.iter().map(handler).collect::<Vec<_>>()).filter(|handlers| !handlers.is_empty())
    }

    /// What the node's status says of the rest.
    pub(crate) fn features(&self) -> Option<NodeFeatures> {
        Some(NodeFeatures { supplemental_groups_policy: Some(self.knows_strict_groups()) })
    }
}
