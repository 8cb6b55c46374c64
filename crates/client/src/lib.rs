//! The way every component sees the cluster.
//!
//! Controllers, scheduler, node agent, proxy, DNS and CLI know the API and nothing behind it. A [`Client`] stands on a
//! [`Backend`], of which there are two: over HTTPS, and in the same process (made by the server, bound to one user, so
//! that authorization holds there as well). Neither the typed calls nor the informers know which one they stand on.

pub mod backend;
pub mod config;

pub use backend::{Backend, Body, BodyError, ClientError, Event, ListTarget, Selection};
