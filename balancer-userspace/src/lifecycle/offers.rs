//! Offers: connections that could be moved, of which it is watched what comes next.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use balancer_common::abi::{Offer, OfferOutcome};

use super::{
    census::Census,
    gate::Demand,
    hold::Hold,
    record::{self, Counter},
    trust::Next,
};
use crate::{
    datapath::{DatapathError, Maps},
    sockets::LiveSocket,
};

/// How many connections of a Service are offered in one go.
pub const AT_ONCE: usize = 64;
/// How many are, of a Service whose connections are moved anyway: enough to notice that it changed.
pub const SAMPLE: usize = 8;
/// How long an offer on which nothing happens is kept, in nanoseconds.
const KEPT_NS: u64 = 600_000_000_000;

/// The offers that wait for what comes next, with how long each connection had been idle.
#[derive(Debug, Default)]
pub struct Offers {
    open: HashMap<u64, Duration>,
}

impl Offers {
    /// Offers up to `most` of `sockets` that nobody has offered yet, and that the gate lets pass.
    pub fn make(
        &mut self,
        maps: &mut Maps,
        census: &mut Census,
        sockets: &[LiveSocket],
        demand: &Demand,
        most: usize,
    ) {
        let mut made = 0;
        for socket in sockets {
            if made == most {
                break;
            }
            let Some(evidence) = super::hold::listed(socket) else { continue };
            if self.open.contains_key(&socket.cookie) || super::gate::judge(&evidence, demand).is_err() {
                continue;
            }
            let place = census.processes.place(socket);
            let Ok(hold) = Hold::take(socket, &place) else { continue };
            if self.offer(maps, &hold, socket, demand) {
                made += 1;
            }
        }
    }

    /// Offers one. What happens on it between the two looks of the gate is before the offer, which is then
    /// taken back.
    fn offer(&mut self, maps: &mut Maps, hold: &Hold, socket: &LiveSocket, demand: &Demand) -> bool {
        let Ok(first) = hold.pass(maps, demand) else { return false };
        let offer = Offer {
            received: first.tcp.bytes_received,
            offered_ns: crate::datapath::boot_ns(),
            resolved_ns: 0,
            service: socket.service(),
            outcome: OfferOutcome::Pending as u32,
        };
        if !maps.insert_offer(hold.cookie(), &offer).unwrap_or(false) {
            return false;
        }
        if hold.unchanged(maps, &first) {
            record::count(maps, socket.service(), Counter::Offered);
            self.open.insert(hold.cookie(), socket.idle.unwrap_or_default());
            return true;
        }
        if let Err(error) = maps.remove_offer(hold.cookie()) {
            log::debug!("an offer is left over: {error}");
        }
        false
    }

    /// What came of offers, by Service.
    ///
    /// # Errors
    /// When the offers cannot be read.
    pub fn collect(
        &mut self,
        maps: &mut Maps,
        census: &Census,
        now_ns: u64,
    ) -> Result<Vec<(u32, Next)>, DatapathError> {
        let offers = maps.offers()?;
        if offers.is_empty() {
            self.open.clear();
            return Ok(Vec::new());
        }
        let listed: HashMap<u64, &LiveSocket> =
            census.by_service.values().flatten().map(|socket| (socket.cookie, socket)).collect();
        let mut outcomes = Vec::new();
        let mut kept = HashSet::new();
        for (cookie, offer) in offers {
            let idle = self.open.get(&cookie).copied().unwrap_or_default();
            let next = match OfferOutcome::from_u32(offer.outcome) {
                OfferOutcome::Sent | OfferOutcome::Closed => Some(Next::Harmless),
                OfferOutcome::Received => {
                    Some(Next::Harmful(idle + between(offer.offered_ns, offer.resolved_ns)))
                }
                OfferOutcome::Pending => match listed.get(&cookie) {
                    // The server spoke, and the client has not since: no program was called for that.
                    Some(socket) => pushed(socket, &offer, idle, now_ns),
                    None => None,
                },
            };
            let stale = now_ns.saturating_sub(offer.offered_ns) > KEPT_NS;
            if next.is_none() && !stale {
                kept.insert(cookie);
                continue;
            }
            maps.remove_offer(cookie)?;
            // One from before endpoints changed may be of another Service, that had this id: no merit of this one.
            let before = offer.offered_ns < record::entry(maps, offer.service).endpoints_changed_ns;
            if let Some(next) = next.filter(|next| !before || *next != Next::Harmless) {
                record::count(
                    maps,
                    offer.service,
                    match next {
                        Next::Harmless => Counter::Harmless,
                        Next::Harmful(_) => Counter::Harmful,
                    },
                );
                outcomes.push((offer.service, next));
            }
        }
        self.open.retain(|cookie, _| kept.contains(cookie));
        Ok(outcomes)
    }
}

/// Whether more was received than when the offer was made, with nothing sent since; and after how long a silence.
fn pushed(socket: &LiveSocket, offer: &Offer, idle: Duration, now_ns: u64) -> Option<Next> {
    let tcp = socket.tcp?;
    if tcp.bytes_received == offer.received || tcp.unacked != 0 {
        return None;
    }
    let received_ns = now_ns.saturating_sub(tcp.last_received?.as_nanos() as u64);
    // What the client sends first resolves the offer; this is of the instant at which that happens.
    let sent_ns = now_ns.saturating_sub(tcp.last_sent?.as_nanos() as u64);
    (sent_ns < offer.offered_ns).then(|| Next::Harmful(idle + between(offer.offered_ns, received_ns)))
}

const fn between(from_ns: u64, to_ns: u64) -> Duration {
    Duration::from_nanos(to_ns.saturating_sub(from_ns))
}
