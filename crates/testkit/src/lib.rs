//! Starts clusters in tests: in-process, hollow nodes, simulation
