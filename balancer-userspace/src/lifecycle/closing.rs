//! Closing the sockets to backends that are gone.
//!
//! Nobody answers them any more, or somebody else does who has the address by now. Left alone, a client that
//! waits for an answer waits until its own timeout; TCP gives up after a quarter of an hour.

use std::{collections::HashMap, time::Duration};

use balancer_common::abi::{Backend, BackendState};

use super::{
    Departed,
    census::{Census, state},
    record::{self, Counter},
};
use crate::{
    datapath::Maps,
    sockets::{Destroyed, LiveSocket},
};

/// How long a backend must have been gone: an endpoint that is moved from one slice to another
/// may be in neither for a moment.
const SETTLED: Duration = Duration::from_millis(250);
/// How long is waited between two tries, in nanoseconds, once a few were in vain: sockets may be where this process
/// cannot look.
const RETRY_NS: u64 = 10_000_000_000;
const TRIES: u32 = 5;

/// What was tried.
#[derive(Debug, Default)]
pub struct Closing {
    tries: HashMap<u32, (u32, u64)>,
}

impl Closing {
    /// Whether the sockets of a backend are to be closed now.
    pub fn is_due(&self, gone: &Departed, now_ns: u64) -> bool {
        let settled = gone.since.elapsed() >= SETTLED;
        let patient =
            |(tries, last_ns): &(u32, u64)| *tries < TRIES || now_ns.saturating_sub(*last_ns) >= RETRY_NS;
        settled && self.tries.get(&gone.backend).is_none_or(patient)
    }

    /// Forgets backends that are not there any more.
    pub fn forget(&mut self, departed: &[Departed]) {
        if !self.tries.is_empty() {
            self.tries.retain(|backend, _| departed.iter().any(|it| it.backend == *backend));
        }
    }

    /// Closes the sockets of a backend, as long as it is gone; how many.
    pub fn close(&mut self, maps: &mut Maps, census: &mut Census, gone: &Departed, now_ns: u64) -> usize {
        // Listing takes a while, on a busy node seconds. The backend may have come back meanwhile, with its id and its
        // generation, and `gone` says what was so before.
        let still = |maps: &Maps| maps.backends.get(gone.backend).filter(|backend| is_gone(backend, gone));
        let Some(Backend { generation, .. }) = still(maps) else { return 0 };
        let tries = self.tries.entry(gone.backend).or_default();
        *tries = (tries.0.saturating_add(1), now_ns);
        let Census { by_service, channels, .. } = census;
        let Some(sockets) = by_service.get(&gone.service) else { return 0 };
        let mut closed = 0;
        for socket in sockets.iter().filter(|socket| leads_to(socket, gone.backend, generation)) {
            if still(maps).is_none() {
                break;
            }
            maps.withdraw_offer(socket.cookie);
            match channels.destroy(socket) {
                Ok(Destroyed::Yes) => {
                    closed += 1;
                    record::count(maps, gone.service, Counter::Destroyed);
                }
                Ok(Destroyed::Gone) => {}
                Err(error) => {
                    log::warn!("{error}");
                    break;
                }
            }
        }
        closed
    }
}

/// Whether the tables say of a backend now that it is gone.
fn is_gone(backend: &Backend, gone: &Departed) -> bool {
    BackendState::from_u16(backend.state) == BackendState::Removed && backend.service == gone.service
}

/// Whether the socket is connected to this very backend, as the kernel sees it and as it was recorded: an
/// application may have connected it elsewhere since.
fn leads_to(socket: &LiveSocket, backend: u32, generation: u32) -> bool {
    socket.backend() == (backend, generation)
        && state(socket).is_some()
        && socket.remote == Some(socket.target())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_has_come_back_is_not_gone() {
        let gone = Departed { service: 3, backend: 7, state: BackendState::Removed, since: Instant::now() };
        let backend =
            |state: BackendState, service| Backend { state: state as u16, service, ..Backend::default() };
        assert!(is_gone(&backend(BackendState::Removed, 3), &gone));
        for state in
            [BackendState::Ready, BackendState::Terminating, BackendState::Unused, BackendState::Free]
        {
            assert!(!is_gone(&backend(state, 3), &gone), "{state:?}");
        }
        assert!(!is_gone(&backend(BackendState::Removed, 4), &gone), "another Service has the id");
    }
}
