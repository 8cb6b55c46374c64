//! placeholder
use std::sync::Arc;
use crate::config::{NodeError, ServerConfig};
use crate::node::Node;
use crate::pod::manager::Manager;
pub(crate) struct Listener;
impl Listener {
    pub(crate) fn bind(_: &ServerConfig) -> Result<Self, NodeError> { Ok(Self) }
    pub(crate) fn port(&self) -> u16 { 0 }
    pub(crate) async fn serve(self, _: Arc<Node>, _: Arc<Manager>) {}
}
