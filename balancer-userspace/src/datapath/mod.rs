//! The kernel's side as the agent and the command line see it: programs, maps, pins and links.
//!
//! The only user of aya, and of bpf(2). Everything that must outlive the agent is pinned:
//!
//! ```text
//! /sys/fs/bpf/balancer/          locked by the running agent
//!   v2/                          one directory per layout version
//!     maps/FRONTENDS …
//!     links/connect4 …           each holds its program
//! ```

pub(crate) mod assembler;
mod cgroup;
mod clock;
mod error;
mod install;
pub(crate) mod iterator;
mod kernel;
mod mapped;
mod mounts;
mod neighbours;
mod pins;
mod probe;
mod snapshot;
mod sys;
mod tables;
mod text;
pub(crate) mod vmlinux;

pub use cgroup::{
    Cgroup, ROOT_ID as ROOT_CGROUP, cgroup2_mounts, find_cgroup2, is_in as is_in_cgroup,
    reach as reach_cgroup,
};
pub use clock::{boot_ns, boot_offset_ns, thread_time};
pub use error::DatapathError;
pub use install::{Detached, Installation, Removal, Sizes, attachments, detach, detached_since, install};
pub use kernel::check_features;
pub use mapped::{Access, MappedArray};
pub use mounts::{find_bpffs, mount_bpffs};
pub use neighbours::{Neighbour, Product, neighbours, refuse_socket_load_balancer};
pub use pins::{AgentLock, Pins};
pub(crate) use probe::set_up as set_up_probe;
pub use probe::{ProbeOutcome, probe};
pub use snapshot::{read_lease, read_snapshot, snapshot};
pub use tables::Maps;
pub use text::{backend_meta, backend_names, from_text, to_text};
