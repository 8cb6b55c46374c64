//! Pods on this node: one worker each, which looks, plans and acts until specification and runtime agree.

pub(crate) mod backoff;
pub(crate) mod facts;
pub(crate) mod plan;
pub(crate) mod state;
pub(crate) mod status;
