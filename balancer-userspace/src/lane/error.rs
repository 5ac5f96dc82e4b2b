//! What can go wrong with the lane, each with its remedy. Nothing of it keeps connects from being balanced.

use std::io;

use thiserror::Error;

/// An error of the lane. Its text is whole: causes are in it, not behind it.
#[derive(Debug, Error)]
pub enum LaneError {
    /// There is no nf_tables to talk to.
    #[error(
        "the kernel has no nf_tables ({source}): the express lane takes CONFIG_NF_TABLES, NFT_NAT, NFT_FIB_IPV4 and \
         NFT_FIB_IPV6 (modprobe nf_tables); without it connects go through kube-proxy's rules as before"
    )]
    NoNfTables {
        /// What the kernel says.
        source: io::Error,
    },
    /// The right to change the ruleset is missing.
    #[error(
        "{what}: {source}: the express lane takes CAP_NET_ADMIN in the user namespace that owns the node's network \
         namespace"
    )]
    Permission {
        /// What was tried.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel did not carry out a change.
    #[error("{what} in nf_tables: {source}{}", hint(.source))]
    Refused {
        /// What was tried.
        what: &'static str,
        /// What the kernel says.
        source: io::Error,
    },
    /// The kernel could not be asked.
    #[error("netlink: {source}")]
    Netlink {
        /// What the kernel says.
        source: io::Error,
    },
    /// Others change the ruleset all the time.
    #[error(
        "nf_tables changed under each of {attempts} listings: something changes rules without pause; it is tried again"
    )]
    Unstable {
        /// How often it was listed.
        attempts: u32,
    },
    /// An answer is none.
    #[error("an answer of nf_tables cannot be read ({what}): please report it, with the kernel's version")]
    Malformed {
        /// What is wrong with it.
        what: String,
    },
    /// The rules of iptables-legacy cannot be looked at.
    #[error(
        "the rules of iptables-legacy cannot be read: {source}: that takes CAP_NET_ADMIN, and user 0 for /proc/net"
    )]
    Legacy {
        /// What the kernel says.
        source: io::Error,
    },
    /// The pins, after which the table is named, are not there.
    #[error("the directory of the pins cannot be looked at: {source}")]
    Pins {
        /// What the kernel says.
        source: io::Error,
    },
}

/// What helps against an error number.
fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::EOPNOTSUPP) => {
            " (if it comes again, the kernel lacks a part: NFT_NAT, NFT_FIB_IPV4 or NFT_FIB_IPV6)"
        }
        Some(libc::ENOMEM | libc::ENOBUFS) => " (the kernel is short of memory; it is tried again)",
        _ => "",
    }
}

impl LaneError {
    /// From an answer to what was tried.
    pub(super) fn refused(what: &'static str, errno: i32) -> Self {
        let source = io::Error::from_raw_os_error(errno);
        match errno {
            libc::EPERM | libc::EACCES => Self::Permission { what, source },
            libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT => Self::NoNfTables { source },
            _ => Self::Refused { what, source },
        }
    }

    /// Whether an object was not there, or another one was: what is believed of the ruleset is wrong.
    pub(super) fn is_stale(&self) -> bool {
        let Self::Refused { source, .. } = self else { return false };
        matches!(source.raw_os_error(), Some(libc::ENOENT | libc::EEXIST | libc::EBUSY))
    }

    /// The kernel's error number, where a request was refused.
    pub(super) fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::Permission { source, .. } | Self::NoNfTables { source } => {
                source.raw_os_error()
            }
            _ => None,
        }
    }
}
