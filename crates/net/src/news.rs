//! What people should know about a node's network: events of the Node object.

use async_trait::async_trait;
use skiff_client::{Client, Involved, Recorder};
use skiff_meta::WorldRef;

use crate::nft::{Nft, NftError, Program};

/// Tells events of one node. Cheap to clone.
#[derive(Clone)]
pub(crate) struct News {
    recorder: Recorder,
    node: Involved,
}

impl News {
    /// About node `name`, told by its own client.
    pub(crate) fn of(name: &str, uid: &str, client: Client, world: WorldRef) -> Self {
        let node = Involved {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(name.to_owned()),
            uid: Some(uid.to_owned()),
            ..Involved::default()
        };
        Self { recorder: Recorder::new(client, world, "skiff-network", name), node }
    }

    /// Something that is ours was taken away, and is put back.
    pub(crate) fn repaired(&self, what: &str) {
        tracing::warn!(what, "was removed by somebody; it is put back");
        self.recorder.warning(&self.node, "NetworkRepaired", format!("{what} was removed by somebody and is put back"));
    }
}

/// The program `nft`, whose refusals are told.
#[async_trait]
impl Nft for News {
    async fn run(&self, script: String) -> Result<(), NftError> {
        let done = Program.run(script).await;
        if let Err(error) = &done {
            self.recorder.warning(&self.node, "NetworkRulesRefused", error.to_string());
        }
        done
    }
}
