//! Many nodes, each of which counts its own connections only: how even is the sum?
//!
//! Every node runs the selection code of the eBPF programs ([`node`]) on tables of its own, from the tie order that the
//! agent gives it ([`node_offset`]). No sockets: a choice among backends that are well depends on nothing that they
//! would add.
//!
//! Nobody has connected before, which is the best case for who begins at a fixed place: later, nodes that
//! have made different numbers of connects stand at unrelated places, for balancer and IPVS alike.

use std::collections::{BTreeMap, BTreeSet};

use balancer_userspace::agent::node_offset;

use super::outcome::{Arm, Cell, Outcome, Run};

mod node;

pub use node::Node;

/// Connections that each node holds.
pub const CONNECTIONS: [u64; 5] = [1, 2, 3, 10, 100];
/// Nodes.
pub const NODES: [u64; 6] = [1, 2, 4, 8, 16, 32];
/// Backends.
pub const BACKENDS: [u32; 2] = [5, 12];
/// How many pairs of nodes [`two_nodes`] looks at: what is asked is a probability, and 30 would not tell it.
pub const PAIRS: u64 = 1000;

const K: &str = "k";
const SIZE: &str = "nodes";

/// A size of cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// Connections that each node holds.
    pub k: u64,
    /// Nodes.
    pub nodes: u64,
}

/// Who chooses on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chooser {
    /// Anyone who chooses at random.
    Random,
    /// A turn that begins anywhere: a client that shuffles the addresses it was given.
    FromAnywhere,
    /// A turn that begins at the first server.
    FromTheFirst,
    /// balancer.
    Balancer,
}

/// All simulated scenarios.
pub fn outcomes(seeds: &[u64]) -> Vec<Outcome> {
    let by_size = BACKENDS.into_iter().map(|backends| by_size(backends, seeds));
    by_size.chain([two_nodes()]).collect()
}

/// Clusters of every size in front of so many backends.
pub fn by_size(backends: u32, seeds: &[u64]) -> Outcome {
    let points: Vec<Point> =
        CONNECTIONS.into_iter().flat_map(|k| NODES.map(|nodes| Point { k, nodes })).collect();
    let cell = |chooser| {
        let runs = points
            .iter()
            .flat_map(|&point| seeds.iter().map(move |&seed| run(chooser, point, backends, seed)));
        Cell::Ran(runs.collect())
    };
    Outcome {
        name: format!("nodes-{backends}"),
        title: format!("1 to 32 nodes with 1 to 100 connections each to {backends} servers"),
        story: "Every node chooses for its own connections, and knows of no other node's. With many connections per \
                node each node is even by itself, and so is the sum. With few, all depends on where nodes begin: \
                at random (as iptables, nftables and Cilium do for every connection), in turn from a random place, \
                or in turn from the first server, so that the first few servers get everything (IPVS rr, and clients that \
                take addresses in the order in which they were given). balancer begins at a \
                place that the node's name is hashed to. Simulated with the selection code itself."
            .into(),
        change: None,
        simulated: true,
        arms: arms(cell),
    }
}

/// Two nodes with one connection each to 5 servers, for [`PAIRS`] pairs of names: how often do they meet?
pub fn two_nodes() -> Outcome {
    let cell = |chooser| {
        let runs = (1..=PAIRS).map(|seed| {
            let mut run = run(chooser, Point { k: 1, nodes: 2 }, 5, seed);
            let met = run.connections.iter().any(|&count| count > 1);
            run.extra = BTreeMap::from([("pairs that met".into(), f64::from(u8::from(met)))]);
            run
        });
        Cell::Ran(runs.collect())
    };
    Outcome {
        name: "two-nodes".into(),
        title: "2 nodes with one connection each to 5 servers".into(),
        story: format!(
            "Over {PAIRS} pairs of nodes with random names. On one node, connections never meet on a server while \
             another is free. Two nodes know nothing of each other: they meet where their names hash to the \
             same place, which is one pair of five. Simulated with the selection code itself."
        ),
        change: None,
        simulated: true,
        arms: arms(cell),
    }
}

/// Every arm: those that would do the same as another say so.
fn arms(cell: impl Fn(Chooser) -> Cell) -> Vec<(Arm, Cell)> {
    let same = |as_what: &str| Cell::NotRun(as_what.into());
    let first_idle = "takes the first of the least loaded servers: the same as rr, for connections that stay";
    vec![
        (Arm::Direct, cell(Chooser::FromAnywhere)),
        (Arm::Iptables, cell(Chooser::Random)),
        (Arm::Nftables, same("chooses at random, as iptables does")),
        (Arm::IpvsRr, cell(Chooser::FromTheFirst)),
        (Arm::IpvsLc, same(first_idle)),
        (Arm::IpvsSed, same(first_idle)),
        (
            Arm::IpvsSh,
            same("hashes the client's address: how even that is depends on the addresses, not on nodes"),
        ),
        (Arm::ConnectOnly, cell(Chooser::Balancer)),
        (Arm::Rebalancing, same("connections of each node are even already: there is nothing to move")),
    ]
}

fn run(chooser: Chooser, point: Point, backends: u32, seed: u64) -> Run {
    let Point { k, nodes } = point;
    let mut rng = fastrand::Rng::with_seed(seed ^ (k << 48) ^ (nodes << 40) ^ (u64::from(backends) << 32));
    let mut connections = vec![0_u64; backends as usize];
    match chooser {
        Chooser::Random => (0..k * nodes).for_each(|_| connections[rng.usize(..backends as usize)] += 1),
        Chooser::FromAnywhere | Chooser::FromTheFirst => {
            for _ in 0..nodes {
                let anywhere = rng.u64(..u64::from(backends));
                let start = if chooser == Chooser::FromAnywhere { anywhere } else { 0 };
                for turn in start..start + k {
                    connections[(turn % u64::from(backends)) as usize] += 1;
                }
            }
        }
        Chooser::Balancer => {
            for name in names(nodes, &mut rng) {
                let node = Node::new(node_offset(&name), backends);
                (0..k).for_each(|_| node.open());
                connections.iter_mut().zip(node.loads()).for_each(|(sum, load)| *sum += load);
            }
        }
    }
    Run {
        seed,
        connections,
        requests: Vec::new(),
        even_after: None,
        moves: 0,
        failed: 0,
        tried: 0,
        p50_us: 0.0,
        p99_us: 0.0,
        samples: Vec::new(),
        extra: BTreeMap::from([(K.into(), k as f64), (SIZE.into(), nodes as f64)]),
    }
}

/// Names of nodes as machine groups of clouds give them: a common beginning, and something random.
fn names(count: u64, rng: &mut fastrand::Rng) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    while (names.len() as u64) < count {
        names.insert(format!("pool-1-{:08x}", rng.u32(..)));
    }
    names
}

/// The sizes that the runs of a simulated scenario had.
pub fn points(outcome: &Outcome) -> BTreeSet<Point> {
    let cells = outcome.arms.iter().filter(|_| outcome.simulated);
    cells
        .flat_map(|(_, cell)| match cell {
            Cell::Ran(runs) => runs.as_slice(),
            Cell::NotRun(_) => &[],
        })
        .filter_map(point)
        .collect()
}

/// The runs of one size.
pub fn at(cell: &Cell, wanted: Point) -> impl Iterator<Item = &Run> {
    let runs = match cell {
        Cell::Ran(runs) => runs.as_slice(),
        Cell::NotRun(_) => &[],
    };
    runs.iter().filter(move |run| point(run) == Some(wanted))
}

fn point(run: &Run) -> Option<Point> {
    Some(Point { k: *run.extra.get(K)? as u64, nodes: *run.extra.get(SIZE)? as u64 })
}

#[cfg(test)]
mod tests;
