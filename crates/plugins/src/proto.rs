//! Messages, clients and servers compiled from `proto/`.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated from proto/*.proto")]

/// How a plugin makes itself known, version 1.
pub mod registration {
    tonic::include_proto!("pluginregistration");
}

/// The Container Storage Interface v1, as far as nodes speak it.
pub mod csi {
    tonic::include_proto!("csi.v1");
}

/// Device plugins, version v1beta1.
pub mod devices {
    tonic::include_proto!("v1beta1");
}

/// Drivers of dynamic resources, version v1.
pub mod dra {
    tonic::include_proto!("k8s.io.kubelet.pkg.apis.dra.v1");
}

/// Which pod has which devices, version 1.
pub mod podresources {
    tonic::include_proto!("v1");
}
