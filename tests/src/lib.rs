//! What integration tests, the demo and the benchmark share: a small cluster node made of network
//! namespaces and cgroups, processes that dial and answer in it, the agent, and its manifests.
//!
//! Nothing here can reach a network outside the machine: the namespaces have no link to it.
//!
//! - [`topology`]: namespaces, cgroups, processes, and their removal whatever happens;
//! - [`peer`]: clients and servers that do exactly what a test asks, in a pod;
//! - [`agent`]: the real balancer, started, killed and asked;
//! - [`manifests`]: what it reads;
//! - [`kubeproxy`]: a real kube-proxy, and what its rules say;
//! - [`ipvs`]: kube-proxy's IPVS mode, in its shape;
//! - [`apiserver`]: what else it follows: a real API server, and one that fails on command;
//! - [`clients`]: whether moving idle connections hurts a request, with real client libraries;
//! - [`scenarios`]: known situations, in every arm;
//! - [`soak`]: everything at random, and what must hold meanwhile;
//! - [`program`]: the demo, the benchmark and the like, run from outside;
//! - [`input`]: what such programs are told on standard input;
//! - [`kernel`]: what a machine must offer, checked with a clear failure.

pub mod agent;
pub mod apiserver;
pub mod bench;
pub mod clients;
pub mod input;
pub mod ipvs;
pub mod kernel;
pub mod kubeproxy;
pub mod manifests;
pub mod peer;
pub mod program;
pub mod scenarios;
pub mod soak;
pub mod topology;
