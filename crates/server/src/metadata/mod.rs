//! `metadata`, which all kinds have in common: what the server fills in, what may not change. What is valid is told by
//! `skiff_rules::metadata`.

pub(crate) mod system;
