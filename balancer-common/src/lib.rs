//! What the eBPF programs and the agent share.
//!
//! - [`abi`]: the layout of every map, proven at compile time;
//! - [`addr`]: addresses and ports in network byte order, IPv4 kept as v4-mapped IPv6;
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod addr;
