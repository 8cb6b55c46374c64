//! The node agent: pod workers, probes, volumes, images, status, streaming
