//! The agent beside a real kube-proxy, both at a real API server: they must agree about which pods may receive a connection, and what the
//! agent leaves alone must be answered by kube-proxy.
//!
//! All of it needs `kube-apiserver`, `etcd` and `kube-proxy` in `KUBEBUILDER_ASSETS`.

mod beside;
mod cluster;
mod differential;
mod random;
mod tables;
