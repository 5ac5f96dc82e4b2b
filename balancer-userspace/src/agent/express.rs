//! The express lane, told by the engine what the tables hold, and by the loop how long the lease holds.

use std::time::Duration;

use balancer_common::abi::{LaneState, Mode};

use super::control::ControlWriter;
use crate::{
    cli::agent::AgentArgs,
    datapath::{Maps, Pins},
    lane::{self, Desired, Endpoint, Lane},
    metrics::AgentMetrics,
    model::{Index, ObjectName},
    reconcile::Reconciler,
};

/// How long the end waits for the lane's last renewal.
const PARTING: Duration = Duration::from_millis(500);

/// The lane, where there is one.
pub(super) struct ExpressLane {
    lane: Option<Lane>,
    /// What it is where there is none.
    state: LaneState,
    desired: Desired,
    /// Whether it was told everything, so that changes are enough.
    told: bool,
}

impl ExpressLane {
    /// Starts it if it is asked for. If not, removes what an earlier agent left, going by the states that it wrote down
    /// last: where it had none, nf_tables is not asked, which would load it.
    pub(super) fn start(args: &AgentArgs, pins: &Pins, earlier: [u32; 2]) -> Self {
        if !args.express_lane && !args.express_lane_cidr.is_empty() {
            log::warn!("--express-lane-cidr confines nothing without --express-lane");
        }
        let (lane, state) = match (args.express_lane, args.mode) {
            (true, Mode::Balance) => match start(pins) {
                Ok(lane) => (Some(lane), LaneState::Waiting),
                Err(error) => {
                    log::warn!("no express lane: {error:#}");
                    (None, LaneState::Refused)
                }
            },
            (asked, _) => {
                let had = earlier != [LaneState::Off as u32; 2];
                match if had { lane::remove(pins.root()) } else { Ok(Vec::new()) } {
                    Ok(tables) => tables
                        .iter()
                        .for_each(|table| log::info!("removed {table}, an earlier agent's express lane")),
                    Err(error) => log::debug!("whether an earlier agent left an express lane: {error}"),
                }
                let state = if asked { LaneState::Observing } else { LaneState::Off };
                if asked {
                    log::warn!("no express lane: {}", lane::words(state));
                }
                (None, state)
            }
        };
        Self { lane, state, desired: Desired::within(args.express_lane_cidr.clone()), told: false }
    }

    /// Takes in what the tables hold of a Service now, and which addresses it has.
    pub(super) fn refresh(&mut self, service: &ObjectName, index: &Index, reconciler: &Reconciler<Maps>) {
        let Some(lane) = &self.lane else { return };
        let endpoints =
            reconciler.endpoints(service).map(|(addr, protocol, port)| Endpoint { addr, protocol, port });
        let spec = index.service(service);
        let addresses =
            spec.into_iter().flat_map(|spec| spec.cluster_ips.iter().chain(&spec.external)).copied();
        let delta = self.desired.replace(service, endpoints, addresses);
        if self.told {
            lane.change(delta);
        }
    }

    /// The Services that contribute to it.
    pub(super) fn services(&self) -> Vec<ObjectName> {
        self.desired.services().cloned().collect()
    }

    /// Everything was taken in.
    pub(super) fn whole(&mut self) {
        if let Some(lane) = &self.lane {
            lane.whole(self.desired.wanted().collect());
            self.told = true;
        }
    }

    /// Nothing of it is certain any more.
    pub(super) fn suspend(&mut self) {
        self.told = false;
        if let Some(lane) = &self.lane {
            lane.suspend();
        }
    }

    /// Lets it hold for as long as the lease does.
    pub(super) fn renew(&self, maps: &Maps) {
        if let Some(lane) = &self.lane {
            let control = maps.control();
            lane.renew(control.lease_expires_ns, control.lease_ns);
        }
    }

    /// Writes down how it is.
    pub(super) fn report(&self, control: &ControlWriter, maps: &Maps, metrics: &AgentMetrics) {
        let (states, entries) = match &self.lane {
            Some(lane) => {
                metrics.lane_repaired(lane.status().repairs());
                (lane.status().states(), lane.status().entries())
            }
            None => ([self.state as u32; 2], [0; 2]),
        };
        control.lane(maps, states, entries);
    }

    /// Removes it, and ends.
    pub(super) fn remove(self) {
        if let Some(lane) = self.lane {
            lane.remove();
            lane.finish(PARTING);
        }
    }

    /// Does what it was told last, and ends. What is in the kernel lapses with the lease.
    pub(super) fn finish(self) {
        if let Some(lane) = self.lane {
            lane.finish(PARTING);
        }
    }
}

fn start(pins: &Pins) -> anyhow::Result<Lane> {
    Ok(Lane::start(lane::table_name(pins.root())?)?)
}
