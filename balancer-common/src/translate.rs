//! From what an application dials to where it is sent: the whole decision.
//!
//! A hook adapts its context to a [`FrontendKey`], calls [`connect`], and carries out the
//! [`Translation`]. Whatever is unknown, empty, stale or contradictory is passed through untouched: then
//! kube-proxy answers.

use crate::{
    abi::{
        Backend, BackendState, ClientKey, ClientState, FIRST_SERVICE, FrontendKey, Mode, PassReason,
        PickReason, Service, SlotRange,
    },
    addr::{Ip, PortBe},
    health::Condition,
    select::{
        self, Picked, random,
        steer::{self, Steered},
    },
    tables::Tables,
};

/// What becomes of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// Not a Service of ours: left alone, uncounted.
    Miss,
    /// A Service of ours, but left alone, for this reason.
    PassThrough {
        /// Service id.
        service: u32,
        /// Why.
        reason: PassReason,
    },
    /// Sent to a backend.
    Rewrite(Choice),
    /// To be counted as if it were sent to a backend, and sent where it was going: the address of the
    /// choice is what was dialled.
    Observe(Choice),
}

/// A backend, chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Service id.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
    /// Its generation.
    pub generation: u32,
    /// Where the connect goes: its address.
    pub addr: Ip,
    /// The port that goes with it.
    pub port: PortBe,
    /// Why this one.
    pub reason: PickReason,
    /// When, in nanoseconds of `CLOCK_BOOTTIME`.
    pub now_ns: u64,
}

/// Decides where a connect to `frontend` goes.
///
/// Never chooses a backend that belongs to another Service or may not be used. Takes a turn and may
/// update what is remembered of the client, but counts nothing: the caller counts what it carries out.
#[inline(always)]
pub fn connect<T: Tables>(tables: &T, frontend: &FrontendKey) -> Translation {
    let Some(service) = tables.service_id(frontend) else {
        return Translation::Miss;
    };
    match choose(tables, frontend, service) {
        Ok(choice) => aim(tables, frontend, choice),
        Err(reason) => Translation::PassThrough { service, reason },
    }
}

/// Carries a choice out, or only observes it. The agent's self-probe is carried out in any case: it asks
/// whether the programs work.
#[inline(always)]
pub fn aim<T: Tables>(tables: &T, frontend: &FrontendKey, choice: Choice) -> Translation {
    if choice.service >= FIRST_SERVICE && matches!(tables.mode(), Mode::Observe) {
        return Translation::Observe(Choice { addr: frontend.addr, port: frontend.port, ..choice });
    }
    Translation::Rewrite(choice)
}

/// The part of [`connect`] behind the look-up of the Service.
#[inline(always)]
pub fn choose<T: Tables>(tables: &T, frontend: &FrontendKey, id: u32) -> Result<Choice, PassReason> {
    let service = tables.service(id).ok_or(PassReason::Inconsistent)?;
    if !service.frontend.same(frontend) {
        return Err(PassReason::Inconsistent);
    }
    let now_ns = tables.now_ns();
    if now_ns > tables.lease_expires_ns() {
        return Err(PassReason::LeaseExpired);
    }
    if id >= FIRST_SERVICE && tables.is_excluded() {
        return Err(PassReason::Excluded);
    }
    // SAFETY: an aligned, initialised word. One volatile load, so that the run of slots is read whole and
    // once, though the agent may switch it at any time.
    let slots = unsafe { core::ptr::read_volatile(&service.slots) };
    if slots.is_empty() {
        return Err(PassReason::NoBackends);
    }
    if service.affinity_seconds != 0 {
        return sticky(tables, id, service, slots, now_ns);
    }
    let Picked { backend, reason } = pick(tables, id, service, slots)?;
    listed(tables, id, backend, reason, now_ns)
}

/// The algorithm's choice, unless that is to be spared and another is not.
#[inline(always)]
fn pick<T: Tables>(tables: &T, id: u32, service: &Service, slots: SlotRange) -> Result<Picked, PassReason> {
    let picked = select::pick(tables, id, service, slots).ok_or(PassReason::Inconsistent)?;
    if tables.health(picked.backend).is_clear() {
        return Ok(picked);
    }
    let start = steer::start(tables, service.algorithm, slots);
    match tables.relieve(picked.backend, id, slots, start) {
        Steered::Keep => Ok(picked),
        Steered::To(backend) => Ok(Picked { backend, reason: PickReason::Steered }),
        Steered::Panic => {
            // Not the algorithm's choice: what refuses at once looks idle, and would get everything.
            let backend = random::pick(tables, slots).ok_or(PassReason::Inconsistent)?;
            Ok(Picked { backend, reason: PickReason::Panic })
        }
    }
}

/// ClientIP affinity: the backend that this client met last, for as long as it may be used and the
/// client keeps connecting within the timeout; otherwise a new one, which is then remembered.
#[inline(always)]
fn sticky<T: Tables>(
    tables: &T,
    id: u32,
    service: &Service,
    slots: SlotRange,
    now_ns: u64,
) -> Result<Choice, PassReason> {
    let key = ClientKey { netns_cookie: tables.client(), service: id, pad: 0 };
    let mut reason = None;
    if let Some(state) = tables.client_state(&key)
        && state.used_ns != 0
        && now_ns.saturating_sub(state.used_ns) <= service.affinity_seconds as u64 * 1_000_000_000
    {
        let remembered =
            remembered(tables, id, state.backend, state.generation, PickReason::Affinity, now_ns);
        // A single failure does not tear a client from its backend.
        if let Some(choice) = remembered
            && !matches!(
                tables.health(state.backend).condition(),
                Condition::Ejected(_) | Condition::Trial(_)
            )
        {
            tables.remember_client(&key, &ClientState { used_ns: now_ns, ..state });
            return Ok(choice);
        }
        reason = Some(PickReason::AffinityReplaced);
    }
    let picked = pick(tables, id, service, slots)?;
    let choice = listed(tables, id, picked.backend, reason.unwrap_or(picked.reason), now_ns)?;
    // Read again: client-round-robin has just noted its turn there.
    let turn = tables.client_state(&key).map_or(0, |state| state.turn);
    tables.remember_client(
        &key,
        &ClientState {
            used_ns: now_ns,
            backend: choice.backend,
            generation: choice.generation,
            turn,
            pad: 0,
        },
    );
    Ok(choice)
}

/// Where `backend` is, which stood in the slots of Service `id`.
///
/// One that has been removed since the slots were read is right all the same: the connect was a moment
/// earlier. Its id is not used for another before every program that may have read it has ended.
#[inline(always)]
fn listed<T: Tables>(
    tables: &T,
    id: u32,
    backend: u32,
    reason: PickReason,
    now_ns: u64,
) -> Result<Choice, PassReason> {
    let entry = tables.backend(backend).ok_or(PassReason::Inconsistent)?;
    let known = entry.state != BackendState::Free as u16 && entry.state <= BackendState::Unused as u16;
    if entry.service != id || !known {
        return Err(PassReason::Inconsistent);
    }
    Ok(choice(entry, id, backend, reason, now_ns))
}

/// Where `backend` is, which a client or a socket remembers; `None` unless it is still that backend and
/// may be used.
#[inline(always)]
pub fn remembered<T: Tables>(
    tables: &T,
    id: u32,
    backend: u32,
    generation: u32,
    reason: PickReason,
    now_ns: u64,
) -> Option<Choice> {
    let entry = tables.backend(backend)?;
    if entry.service != id
        || entry.generation != generation
        || !BackendState::from_u16(entry.state).is_usable()
    {
        return None;
    }
    Some(choice(entry, id, backend, reason, now_ns))
}

#[inline(always)]
const fn choice(entry: &Backend, service: u32, backend: u32, reason: PickReason, now_ns: u64) -> Choice {
    Choice {
        service,
        backend,
        generation: entry.generation,
        addr: entry.addr,
        port: entry.port,
        reason,
        now_ns,
    }
}
