//! The pod network: CNI plugin, services on nftables, cluster DNS
