//! What the eBPF programs and the agent share.
//!
//! - [`abi`]: the layout of every map, proven at compile time;
//! - [`addr`]: addresses and ports in network byte order, IPv4 kept as v4-mapped IPv6;
//! - [`select`]: one file per algorithm that chooses a backend;
//! - [`health`]: whether a backend is to be spared, from what became of connects to it;
//! - [`translate`]: the whole decision that a `connect()` meets.
//!
//! The crate is `no_std`, allocates nothing, and touches no kernel: the functions are generic over the
//! [`tables`] that they read. The eBPF programs hand them BPF maps, `balancer explain` hands them the
//! pinned maps, and the tests hand them plain vectors, so all three run the same code.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod abi;
pub mod addr;
pub mod health;
pub mod select;
pub mod tables;
pub mod translate;
