//! Whether the nat table of iptables-legacy jumps to kube-proxy's rules.
//!
//! Read is only as much as the first chain needs: all of it is tens of megabytes on a large cluster, and the kernel
//! gives it in one piece. It is given memory that ends where what is wanted ends, and stops there.

use std::{fs, io, mem::offset_of, net::UdpSocket, os::fd::AsRawFd, ptr};

use bytemuck::{Pod, Zeroable};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::LaneError;
use crate::model::Family;

/// `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES`; those of IPv6 have the same numbers.
const GET_INFO: i32 = 64;
const GET_ENTRIES: i32 = 65;

/// How much is read: PREROUTING comes first, and each rule takes 200 to 500 bytes.
const WINDOW: usize = 128 << 10;
/// What lies behind it and is not to be written.
const GUARD: usize = 64 << 10;

/// How often a table is read that changes its size meanwhile.
const ATTEMPTS: u32 = 5;

/// What kube-proxy writes beside the jump to its rules.
const COMMENT: &[u8] = b"kubernetes service portals";

/// `struct ipt_getinfo`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
struct Info {
    name: [u8; 32],
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    entries: u32,
    size: u32,
}

/// `struct ipt_get_entries`, without what follows it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Request {
    name: [u8; 32],
    size: u32,
    padding: u32,
}

/// What was found last, and in which table.
#[derive(Debug)]
pub(super) struct Legacy {
    seen: Option<(Info, bool)>,
}

impl Legacy {
    pub(super) const fn new() -> Self {
        Self { seen: None }
    }

    /// Whether kube-proxy's rules are there. The rules are read again only if their number or size is another one.
    pub(super) fn has_services(&mut self, family: Family) -> Result<bool, LaneError> {
        let names = match family {
            Family::V4 => "/proc/thread-self/net/ip_tables_names",
            Family::V6 => "/proc/thread-self/net/ip6_tables_names",
        };
        // To ask for a table that is not there would make it.
        let there = match fs::read_to_string(names) {
            Ok(text) => text.lines().any(|name| name == "nat"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(source) => return Err(LaneError::Legacy { source }),
        };
        if !there {
            self.seen = None;
            return Ok(false);
        }
        let look = || -> io::Result<(Info, bool)> {
            let (socket, level) = socket(family)?;
            let info = info(&socket, level)?;
            if let Some(seen) = self.seen.filter(|(seen, _)| *seen == info) {
                return Ok(seen);
            }
            let found = entries(&socket, level, &info, |bytes| jumps_to_services(bytes, family))?;
            Ok((info, found))
        };
        let mut result = look();
        for _ in 1..ATTEMPTS {
            // Replaced between the two questions.
            if !result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EAGAIN)) {
                break;
            }
            result = look();
        }
        let seen = result.map_err(|source| LaneError::Legacy { source })?;
        self.seen = Some(seen);
        Ok(seen.1)
    }
}

/// Any socket of the family will do: netfilter listens on all of them.
fn socket(family: Family) -> io::Result<(UdpSocket, i32)> {
    Ok(match family {
        Family::V4 => (UdpSocket::bind("0.0.0.0:0")?, libc::SOL_IP),
        Family::V6 => (UdpSocket::bind("[::]:0")?, libc::SOL_IPV6),
    })
}

fn name() -> [u8; 32] {
    let mut name = [0; 32];
    name[..3].copy_from_slice(b"nat");
    name
}

fn info(socket: &UdpSocket, level: i32) -> io::Result<Info> {
    let mut info = Info { name: name(), ..Info::zeroed() };
    let mut length = size_of::<Info>() as libc::socklen_t;
    // SAFETY: `info` is plain memory of `length` bytes, which the call reads and writes within.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            GET_INFO,
            ptr::from_mut(&mut info).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

/// Hands the beginning of the table's rules to `look`.
fn entries(
    socket: &UdpSocket,
    level: i32,
    info: &Info,
    look: impl FnOnce(&[u8]) -> bool,
) -> io::Result<bool> {
    let head = size_of::<Request>();
    let whole = head + info.size as usize;
    let length = libc::socklen_t::try_from(whole).map_err(io::Error::other)?;
    // SAFETY: a new mapping, which nothing refers to yet.
    let memory = unsafe {
        mmap_anonymous(ptr::null_mut(), WINDOW + GUARD, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
    }?;
    let result = (|| {
        // SAFETY: within the mapping, of which no reference exists.
        unsafe { mprotect(memory.byte_add(WINDOW), GUARD, MprotectFlags::empty()) }?;
        let request = Request { name: name(), size: info.size, padding: 0 };
        // SAFETY: the mapping begins with WINDOW writable bytes, aligned to a page.
        unsafe { memory.cast::<Request>().write(request) };
        let mut length = length;
        // SAFETY: the kernel writes to the mapping alone: what does not fit meets the guard, where it stops with
        // EFAULT. A table that is larger than window and guard together is no different, for it is written from its
        // beginning on, entry by entry, and none is larger than the guard (64 KiB, the most that its length can say).
        let result =
            unsafe { libc::getsockopt(socket.as_raw_fd(), level, GET_ENTRIES, memory, &raw mut length) };
        if result != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(libc::EFAULT) || whole <= WINDOW {
                return Err(error);
            }
        }
        // SAFETY: these bytes are readable, were zero or were written by the kernel, and are not written any more.
        let bytes = unsafe { std::slice::from_raw_parts(memory.cast::<u8>(), WINDOW.min(whole)) };
        Ok(look(&bytes[head..]))
    })();
    // SAFETY: this mapping is ours, and nothing refers to it any more.
    unsafe { munmap(memory, WINDOW + GUARD) }?;
    result
}

/// Where things are in `struct ipt_entry` and `struct ip6t_entry`.
struct Layout {
    target_offset: usize,
    next_offset: usize,
    matches: usize,
}

const fn layout(family: Family) -> Layout {
    match family {
        Family::V4 => Layout { target_offset: 88, next_offset: 90, matches: 112 },
        Family::V6 => Layout { target_offset: 140, next_offset: 142, matches: 168 },
    }
}

/// `struct xt_entry_match` and `struct xt_entry_target`: a length, a name, and what follows them.
const PART: usize = 32;

/// Whether a rule among the first ones jumps to a chain with kube-proxy's comment. Never panics, whatever the bytes
/// are; those that end early are taken as far as they go.
fn jumps_to_services(bytes: &[u8], family: Family) -> bool {
    let layout = layout(family);
    let mut rest = bytes;
    loop {
        let (Some(target), Some(next)) =
            (number(rest, layout.target_offset), number(rest, layout.next_offset))
        else {
            return false;
        };
        if next < layout.matches || target > next || next > rest.len() {
            return false;
        }
        let jumps = rest.get(target..next).and_then(verdict).is_some_and(|verdict| verdict > 0);
        if jumps && rest.get(layout.matches..target).is_some_and(is_commented) {
            return true;
        }
        rest = &rest[next..];
    }
}

/// Where the standard target goes: to a chain if it is positive.
fn verdict(target: &[u8]) -> Option<i32> {
    let standard = target.get(2)? == &0;
    let verdict = i32::from_ne_bytes(*target.get(PART..)?.first_chunk()?);
    standard.then_some(verdict)
}

fn is_commented(mut matches: &[u8]) -> bool {
    while let (Some(size), Some(name)) = (number(matches, 0), matches.get(2..PART)) {
        if size < PART || size > matches.len() {
            return false;
        }
        if name.starts_with(b"comment\0") && text(&matches[PART..size]) == COMMENT {
            return true;
        }
        matches = &matches[size..];
    }
    false
}

fn text(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes).into())
}

const _: () = {
    assert!(size_of::<Info>() == 84);
    assert!(size_of::<Request>() == 40);
    assert!(offset_of!(Request, size) == 32);
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A rule with a comment, and a standard target.
    fn rule(family: Family, comment: &str, target: &str, verdict: i32) -> Vec<u8> {
        let layout = layout(family);
        let mut bytes = vec![0; layout.matches];
        if !comment.is_empty() {
            bytes.extend(((PART + 256) as u16).to_ne_bytes());
            bytes.extend(part("comment"));
            let mut text = comment.as_bytes().to_vec();
            text.resize(256, 0);
            bytes.extend(text);
        }
        let at = bytes.len() as u16;
        bytes.extend(40u16.to_ne_bytes());
        bytes.extend(part(target));
        bytes.extend(verdict.to_ne_bytes());
        bytes.extend([0; 4]);
        let end = bytes.len() as u16;
        bytes[layout.target_offset..][..2].copy_from_slice(&at.to_ne_bytes());
        bytes[layout.next_offset..][..2].copy_from_slice(&end.to_ne_bytes());
        bytes
    }

    fn part(name: &str) -> Vec<u8> {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(PART - 2, 0);
        bytes
    }

    #[test]
    fn the_jump_is_known_by_its_comment() {
        for family in [Family::V4, Family::V6] {
            let portals = "kubernetes service portals";
            let jump = rule(family, portals, "", 4096);
            assert!(jumps_to_services(&jump, family));
            let others = [rule(family, "", "", -1), rule(family, "cali:6gwbT8clXdHdC1b1", "", 176)].concat();
            assert!(!jumps_to_services(&others, family));
            assert!(jumps_to_services(&[others.clone(), jump.clone()].concat(), family));
            assert!(!jumps_to_services(&rule(family, portals, "", -1), family), "no jump");
            assert!(!jumps_to_services(&rule(family, portals, "DNAT", 4096), family), "no jump");
            assert!(!jumps_to_services(&rule(family, "kubernetes service portals 2", "", 4096), family));
            for length in 0..jump.len() {
                assert!(!jumps_to_services(&jump[..length], family), "{length}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_stay(bytes in prop::collection::vec(any::<u8>(), 0..600), v6 in any::<bool>()) {
            let family = if v6 { Family::V6 } else { Family::V4 };
            jumps_to_services(&bytes, family);
        }

        #[test]
        fn nor_do_changed_ones(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
            let mut bytes = [rule(Family::V4, "x", "", -1), rule(Family::V4, "kubernetes service portals", "", 9)].concat();
            for (place, value) in changes {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            jumps_to_services(&bytes, Family::V4);
        }
    }
}
