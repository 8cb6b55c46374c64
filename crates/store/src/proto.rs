//! etcd v3's messages and stubs, compiled from `proto/`: for the engine that is etcd's client, and for the face with
//! which the embedded one answers etcd's clients.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated from proto/*.proto")]

/// Keys, values and events.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// Requests, answers, clients and servers.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}
