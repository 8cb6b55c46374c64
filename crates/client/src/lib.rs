//! The way every component sees the cluster.
//!
//! Controllers, scheduler, node agent, proxy, DNS and CLI know the API and nothing behind it. A [`Client`] stands on a
//! [`Backend`], of which there are two: over HTTPS, and in the same process (made by the server, bound to one user, so
//! that authorization holds there as well). Neither the typed calls nor the informers know which one they stand on.
//!
//! From bottom to top: [`Backend`] (requests and one list-watch source), [`Client`] and [`Api`] (typed calls),
//! [`Informers`] (shared caches fed by list-watch), [`WorkQueue`] and [`runner`] (keys in, reconciled objects out),
//! [`leader`] (one active copy of many), [`Recorder`] (events for people).

pub mod api;
pub mod backend;
mod certificate;
mod client;
pub mod config;
pub mod discovery;
pub mod http;
pub mod informer;
pub mod leader;
mod queue;
mod recorder;
pub mod runner;
pub mod trace;
pub mod ws;

pub use api::{Api, DeleteOptions, Kind, List, Patch};
pub use backend::{Backend, Body, BodyError, ClientError, Event, ListTarget, Selection};
pub use certificate::Renewable;
pub use client::{Call, Client};
pub use discovery::{ApiResource, Discovery};
pub use informer::{Change, Index, Informer, Informers, Key, Store, Synced};
pub use queue::WorkQueue;
pub use recorder::{Involved, Recorder, involved};
pub use runner::{After, Expected, Workers};
