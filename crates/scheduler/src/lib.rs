//! The scheduler: queue, snapshot, plugins
