//! The choice of a backend: one file per algorithm.
//!
//! Every function takes the run of slots that the caller read once from the Service, so that a choice is
//! made within one revision of it even while the agent switches to the next. None of them allocates or
//! loops without a bound.

pub mod client_round_robin;
pub mod least_connections;
pub mod random;
pub mod round_robin;
pub mod source_hash;
pub mod steer;

use self::least_connections::Balance;
use crate::{
    abi::{Algorithm, FULL_SCAN, PickReason, SERVICE_UNIFORM, Service, SlotRange},
    tables::Tables,
};

/// A backend id and why it was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    /// Backend id.
    pub backend: u32,
    /// [`PickReason::Algorithm`] or [`PickReason::Sampled`].
    pub reason: PickReason,
}

/// Chooses a backend of `service` (whose id is `id`) among `slots`.
///
/// `None` if there are no slots or one of them is missing. An unknown algorithm (written by a newer
/// agent) is treated as [`Algorithm::Random`], which is right for any table of slots.
#[inline(always)]
pub fn pick<T: Tables>(tables: &T, id: u32, service: &Service, slots: SlotRange) -> Option<Picked> {
    if slots.is_empty() {
        return None;
    }
    let mut reason = PickReason::Algorithm;
    let backend = match Algorithm::from_u32(service.algorithm) {
        Some(Algorithm::LeastConnections) => {
            if slots.len() > FULL_SCAN {
                reason = PickReason::Sampled;
            }
            let balance =
                if service.flags & SERVICE_UNIFORM != 0 { Balance::Uniform } else { Balance::Weighted };
            least_connections::pick(tables, id, slots, balance)?
        }
        Some(Algorithm::RoundRobin) => round_robin::pick(tables, id, slots)?,
        Some(Algorithm::ClientRoundRobin) => client_round_robin::pick(tables, id, slots)?,
        Some(Algorithm::SourceHash) => source_hash::pick(tables, slots)?,
        Some(Algorithm::Random) | None => random::pick(tables, slots)?,
    };
    Some(Picked { backend, reason })
}

/// Scales a uniform 32-bit number to `0..len`, without a division. `len` must not be 0.
#[inline(always)]
pub const fn scale(number: u32, len: u32) -> u32 {
    ((number as u64 * len as u64) >> 32) as u32
}

/// Mixes 64 bits into 32 that are all equally good (the finaliser of MurmurHash3).
#[inline(always)]
pub const fn mix(value: u64) -> u32 {
    let mut h = value;
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^= h >> 33;
    h as u32
}

/// `value`, of which the compiler for eBPF knows nothing, so that it cannot turn arithmetic on it back
/// into a branch.
#[inline(always)]
pub fn opaque(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    let value = {
        let mut value = value;
        // An instruction that does nothing; the verifier takes two lines at one instruction amiss.
        // SAFETY: moves a register to itself.
        unsafe { core::arch::asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack)) };
        value
    };
    value
}

/// All ones if the highest bit of `value` is set, else 0: a comparison without a branch.
///
/// The compiler for eBPF is not told what happens: it would know a choice by such a mask as a conditional
/// move, which the target lacks, and make a branch of it.
#[inline(always)]
pub fn sign_mask(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: shifts a register.
        unsafe { core::arch::asm!("{0} s>>= 63", inout(reg) value, options(pure, nomem, nostack)) };
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        (value as i64 >> 63) as u64
    }
}

/// All ones if `a` is below `b`, else 0; both below 2^63. Without a branch, for the loops of programs.
#[inline(always)]
pub(crate) fn below(a: u64, b: u64) -> u64 {
    sign_mask(a.wrapping_sub(b))
}
