//! nftables: a table as a plain value, what changed between two of them, and the program that loads it.
//!
//! Everything goes through `nft -f -`, one script per change set: the kernel takes a script whole or not at all, so no
//! packet ever meets half a change.

mod assembly;
mod batch;
mod diff;
mod lookup;
mod program;
mod table;

pub use assembly::{Assembly, Fragment};
pub use batch::Batch;
pub(crate) use lookup::Tables;
pub use program::{Nft, NftError, Program, run_blocking};
#[cfg(test)]
pub(crate) use table::element;
pub(crate) use table::removal;
pub use table::{Chain, Set, Table};

#[cfg(test)]
pub(crate) mod model;
