//! Black-box suite over the wire, runnable against any Kubernetes
