//! Who asks, and may they.

mod authz;
mod containers;
mod names;
#[cfg(test)]
mod testing;

pub use authz::forbidden;
