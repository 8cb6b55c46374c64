//! Pods on this node: one worker each, which looks, plans and acts until specification and runtime agree.

pub(crate) mod admission;
pub(crate) mod backoff;
pub(crate) mod facts;
pub(crate) mod granted;
mod last_words;
pub(crate) mod mailbox;
pub(crate) mod manager;
pub(crate) mod plan;
mod resize;
mod start;
pub(crate) mod state;
pub(crate) mod status;
mod stop;
mod worker;
