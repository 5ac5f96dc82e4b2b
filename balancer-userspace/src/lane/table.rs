//! The lane of one address family: a table of its own, and what is in it.
//!
//! ```text
//! table ip balancer-1d-2a4 {
//!   set alive     { type inet_proto; flags timeout }                    # tcp and udp, for as long as the lease
//!   set endpoints { type ipv4_addr . inet_proto . inet_service }
//!   chain prerouting { type nat hook prerouting priority -101;
//!     meta l4proto @alive ip daddr . meta l4proto . th dport @endpoints fib daddr type != local dnat to ip daddr
//!   }
//!   chain output     { type nat hook output priority -101; … }          # the same rule
//! }
//! ```
//!
//! `dnat to` the address that is there already is what the kernel does by itself behind the last chain, with the
//! same range and therefore the same result (`__nf_nat_alloc_null_binding` in `net/netfilter/nf_nat_core.c`). Done
//! earlier, it ends the walk over the chains of this hook.

use std::{collections::BTreeSet, path::Path, time::Duration};

use super::{
    Endpoint, LaneError,
    answer::Answer,
    endpoint::{KEY_V4, KEY_V6},
    message::{Attributes, Batch, Query, SetSpec, family_number},
    netlink::Channel,
};
use crate::model::{Family, Protocol};

/// The sets.
const ALIVE: &str = "alive";
const ENDPOINTS: &str = "endpoints";

/// The chains, with their hooks (`NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_OUT`).
const CHAINS: [(&str, u32); 2] = [("prerouting", 0), ("output", 3)];

/// Just before `NF_IP_PRI_NAT_DST`, where kube-proxy's rules are, iptables' and everybody's.
const PRIORITY: i32 = -101;

/// What `nft list ruleset` shows beside the rules. It names their form too: one that changes gets another number.
const NOTE: &str = "balancer express lane 1: to a pod by its own address, no Service to look for";

/// `NFT_SET_TIMEOUT`.
const SET_TIMEOUT: u32 = 0x10;
/// `NFT_REG32_00`, the first of the registers that hold a word each.
const REGISTER: u32 = 8;
/// `NFT_META_L4PROTO`.
const META_L4PROTO: u32 = 16;
/// `NFT_FIB_RESULT_ADDRTYPE`, `NFTA_FIB_F_DADDR`.
const FIB_ADDRESS_TYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;
/// `RTN_LOCAL`.
const LOCAL: u32 = 2;
/// `NFT_CMP_NEQ`.
const UNEQUAL: u32 = 1;
/// `NFT_NAT_DNAT`.
const DNAT: u32 = 1;
/// Types of keys as nft numbers them, joined by six bits each.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;

/// The name of the table that goes with pins: after the directory, by device and inode, since a container calls it
/// otherwise than the host does.
///
/// # Errors
/// [`LaneError::Pins`] if there is no such directory.
pub fn table_name(pins: &Path) -> Result<String, LaneError> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(pins).map_err(|source| LaneError::Pins { source })?;
    Ok(format!("balancer-{:x}-{:x}", metadata.dev(), metadata.ino()))
}

/// How `nft` calls a table of this family.
pub(super) fn describe(family: Family, name: &str) -> String {
    match family {
        Family::V4 => format!("table ip {name}"),
        Family::V6 => format!("table ip6 {name}"),
    }
}

/// How much of the lane is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Structure {
    /// The chains with their rules.
    Whole,
    /// Something of it, or of another version.
    Broken,
    /// No such table.
    Absent,
}

/// Looks whether the chains have their rules, and no others.
pub(super) fn inspect(channel: &mut Channel, family: Family, name: &str) -> Result<Structure, LaneError> {
    if !channel.ask(family, Query::Table(name), |_| {})? {
        return Ok(Structure::Absent);
    }
    let mut rules = Vec::new();
    channel.ask(family, Query::Rules(name), |answer| {
        if let Answer::Rule { chain, note: found } = answer {
            rules.push((chain, found == note()));
        }
    })?;
    rules.sort_unstable();
    let expected = ["output", "prerouting"].map(|chain| (chain.to_owned(), true));
    Ok(if rules == expected { Structure::Whole } else { Structure::Broken })
}

/// Makes the table anew, without endpoints, and without life.
pub(super) fn create(channel: &mut Channel, family: Family, name: &str) -> Result<(), LaneError> {
    let (address_type, key_length) = match family {
        Family::V4 => (TYPE_IPV4, KEY_V4),
        Family::V6 => (TYPE_IPV6, KEY_V6),
    };
    let mut batch = channel.batch(family);
    // A table can only be removed if it is there.
    batch.new_table(name);
    batch.delete_table(name);
    batch.new_table(name);
    batch.new_set(
        name,
        &SetSpec { name: ALIVE, flags: SET_TIMEOUT, key_type: TYPE_PROTOCOL, key_length: 1, id: 1 },
    );
    let key_type = address_type << 12 | TYPE_PROTOCOL << 6 | TYPE_PORT;
    batch.new_set(
        name,
        &SetSpec { name: ENDPOINTS, flags: 0, key_type, key_length: key_length as u32, id: 2 },
    );
    for (chain, hook) in CHAINS {
        batch.new_nat_chain(name, chain, hook, PRIORITY);
        batch.new_rule(name, chain, &note(), |it| rule(it, family));
    }
    channel.commit(batch)
}

/// Puts endpoints in and takes others out; one that is put in may be there. Not all of it at once, if it is much.
///
/// # Errors
/// What the kernel refuses, above all to take out what is not there.
pub(super) fn change(
    channel: &mut Channel,
    family: Family,
    name: &str,
    added: impl Iterator<Item = Endpoint>,
    removed: impl Iterator<Item = Endpoint>,
) -> Result<(), LaneError> {
    let put = |batch: &mut Batch, keys: &mut dyn Iterator<Item = Vec<u8>>| {
        batch.add_elements(name, ENDPOINTS, keys);
    };
    let take = |batch: &mut Batch, keys: &mut dyn Iterator<Item = Vec<u8>>| {
        batch.delete_elements(name, ENDPOINTS, keys);
    };
    let mut batch = channel.batch(family);
    batch = in_batches(channel, family, batch, removed, take)?;
    batch = in_batches(channel, family, batch, added, put)?;
    channel.commit(batch)
}

fn in_batches(
    channel: &mut Channel,
    family: Family,
    mut batch: Batch,
    endpoints: impl Iterator<Item = Endpoint>,
    step: impl Fn(&mut Batch, &mut dyn Iterator<Item = Vec<u8>>),
) -> Result<Batch, LaneError> {
    let mut keys = endpoints.map(|endpoint| endpoint.key()).peekable();
    while keys.peek().is_some() {
        step(&mut batch, &mut keys);
        if batch.is_full() {
            channel.commit(batch)?;
            batch = channel.batch(family);
        }
    }
    Ok(batch)
}

/// How long the rules are to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// Not any more.
    Over,
    /// For so long, to the millisecond; the kernel looks at its clock tick, of 1 to 10 ms, for each connection.
    For(Duration),
}

/// Says how long the rules hold from now on.
pub(super) fn renew(channel: &mut Channel, family: Family, name: &str, life: Life) -> Result<(), LaneError> {
    let mut batch = channel.batch(family);
    // Kernels before 6.12 do not change the time-out of what is there.
    batch.flush_set(name, ALIVE);
    let timeout = match life {
        Life::Over => return channel.commit(batch),
        Life::For(time) => (time.as_millis() as u64).max(1),
    };
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        batch.add_element(name, ALIVE, &[protocol.number()], timeout);
    }
    channel.commit(batch)
}

/// Whether the rules hold now; a table that is not there holds nothing.
pub(super) fn is_alive(channel: &mut Channel, family: Family, name: &str) -> Result<bool, LaneError> {
    let mut count = 0;
    channel.ask(family, Query::Elements(name, ALIVE), |answer| {
        if let Answer::Elements(keys) = answer {
            count += keys.len();
        }
    })?;
    Ok(count > 0)
}

/// The endpoints that it holds, and how many keys are none.
pub(super) fn endpoints(
    channel: &mut Channel,
    family: Family,
    name: &str,
) -> Result<(BTreeSet<Endpoint>, usize), LaneError> {
    let (mut found, mut strange) = (BTreeSet::new(), 0);
    channel.ask(family, Query::Elements(name, ENDPOINTS), |answer| {
        if let Answer::Elements(keys) = answer {
            for key in keys {
                match Endpoint::from_key(&key) {
                    Some(endpoint) => _ = found.insert(endpoint),
                    None => strange += 1,
                }
            }
        }
    })?;
    Ok((found, strange))
}

/// Removes the table. Whether it was there.
pub(super) fn remove(channel: &mut Channel, family: Family, name: &str) -> Result<bool, LaneError> {
    if !channel.ask(family, Query::Table(name), |_| {})? {
        return Ok(false);
    }
    let mut batch = channel.batch(family);
    batch.delete_table(name);
    match channel.commit(batch) {
        Ok(()) => Ok(true),
        // Somebody else was faster.
        Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A comment as nft keeps it: its type, its length, its text.
fn note() -> Vec<u8> {
    let mut note = vec![0, NOTE.len() as u8 + 1];
    note.extend_from_slice(NOTE.as_bytes());
    note.push(0);
    note
}

/// The rule, expression by expression, each working on registers.
fn rule(it: &mut Attributes<'_>, family: Family) {
    let (offset, length) = match family {
        Family::V4 => (16, 4),
        Family::V6 => (24, 16),
    };
    let words = length / 4;
    let (protocol, port) = (REGISTER + words, REGISTER + words + 1);
    expression(it, "meta", |it| _ = it.number(1, REGISTER).number(2, META_L4PROTO));
    expression(it, "lookup", |it| _ = it.text(1, ALIVE).number(2, REGISTER));
    // Base 1 is the network header, 2 the transport header.
    let destination = |it: &mut Attributes<'_>| {
        expression(it, "payload", |it| {
            it.number(1, REGISTER).number(2, 1).number(3, offset).number(4, length);
        });
    };
    destination(it);
    expression(it, "meta", |it| _ = it.number(1, protocol).number(2, META_L4PROTO));
    expression(it, "payload", |it| _ = it.number(1, port).number(2, 2).number(3, 2).number(4, 2));
    expression(it, "lookup", |it| _ = it.text(1, ENDPOINTS).number(2, REGISTER));
    expression(it, "fib", |it| {
        it.number(1, REGISTER).number(2, FIB_ADDRESS_TYPE).number(3, FIB_DESTINATION);
    });
    expression(it, "cmp", |it| {
        it.number(1, REGISTER).number(2, UNEQUAL);
        // A number of the machine's, not of the network's.
        it.nest(3, |data| _ = data.put(1, &LOCAL.to_ne_bytes()));
    });
    destination(it);
    expression(it, "nat", |it| {
        it.number(1, DNAT).number(2, family_number(family).into()).number(3, REGISTER);
    });
}

fn expression(it: &mut Attributes<'_>, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
    it.nest(1, |expression| {
        expression.text(1, name).nest(2, fill);
    });
}
