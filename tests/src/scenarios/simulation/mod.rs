//! Many nodes, each of which counts its own connections only: how even is the sum?
//!
//! Every node runs the selection code of the eBPF programs (`node`) on tables of its own, from the tie order that the
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

/// Name of the figure that counts pairs that met on one server.
pub const MET: &str = "pairs that met";
/// The same for nodes with random names.
pub const MET_RANDOM: &str = "pairs that met, random names";

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

/// How nodes are called, which is all that balancer knows of where others begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// One number after the other behind a common beginning: `node-7`, `node-8`.
    Numbered,
    /// Something random behind a common beginning, as machine groups of clouds give them: `pool-1-0badcafe`.
    Random,
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
    /// balancer, on nodes with such names.
    Balancer(Names),
}

/// A simulated scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simulation {
    /// [`by_size`], of so many backends.
    BySize(u32, Names),
    /// [`two_nodes`].
    TwoNodes,
}

impl Simulation {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let sizes = BACKENDS
            .into_iter()
            .flat_map(|backends| [Names::Numbered, Names::Random].map(|names| Self::BySize(backends, names)));
        sizes.chain([Self::TwoNodes])
    }

    /// As on the command line.
    pub fn name(self) -> String {
        match self {
            Self::BySize(backends, Names::Numbered) => format!("nodes-{backends}"),
            Self::BySize(backends, Names::Random) => format!("nodes-{backends}-random-names"),
            Self::TwoNodes => "two-nodes".into(),
        }
    }

    /// One line: the situation.
    pub fn title(self) -> String {
        match self {
            Self::BySize(backends, names) => {
                let called = match names {
                    Names::Numbered => "numbered nodes",
                    Names::Random => "nodes with random names",
                };
                format!("1 to 32 {called}, 1 to 100 connections each, to {backends} servers")
            }
            Self::TwoNodes => "2 nodes with one connection each to 5 servers".into(),
        }
    }

    /// Simulates it.
    pub fn play(self, seeds: &[u64]) -> Outcome {
        match self {
            Self::BySize(backends, names) => by_size(backends, names, seeds),
            Self::TwoNodes => two_nodes(),
        }
    }
}

/// Clusters of every size in front of so many backends.
pub fn by_size(backends: u32, names: Names, seeds: &[u64]) -> Outcome {
    let points: Vec<Point> =
        CONNECTIONS.into_iter().flat_map(|k| NODES.map(|nodes| Point { k, nodes })).collect();
    let cell = |chooser| {
        let runs = points
            .iter()
            .flat_map(|&point| seeds.iter().map(move |&seed| run(chooser, point, backends, seed)));
        Cell::Ran(runs.collect())
    };
    let begins = match names {
        Names::Numbered => {
            "balancer begins at a fixed distance from the node before, so that as many neighbours as there are servers begin at each of them once."
        }
        Names::Random => "balancer begins where the node's name hashes to.",
    };
    let simulation = Simulation::BySize(backends, names);
    Outcome {
        name: simulation.name(),
        title: simulation.title(),
        story: format!(
            "Every node chooses for its own connections, and knows of no other node's. With many connections per node \
             each node is even by itself, and so is the sum. With few, all depends on where nodes begin: at \
             random (as iptables, nftables and Cilium do for every connection), in turn from a random place, or in \
             turn from the first server, so that the first few servers get everything (IPVS rr, and clients that take \
             addresses in the order in which they were given). {begins} Nobody has connected before: later, nodes that \
             have made different numbers of connects begin at unrelated places. Simulated with the selection code itself."
        ),
        change: None,
        simulated: true,
        arms: arms(names, cell),
    }
}

/// Two nodes with one connection each to 5 servers, for [`PAIRS`] pairs of nodes: how often do they meet?
pub fn two_nodes() -> Outcome {
    let point = Point { k: 1, nodes: 2 };
    let met = |run: &Run| f64::from(u8::from(run.connections.iter().any(|&count| count > 1)));
    let cell = |chooser| {
        let runs = (1..=PAIRS).map(|seed| {
            let mut run = run(chooser, point, 5, seed);
            let other = match chooser {
                Chooser::Balancer(_) => met(&self::run(Chooser::Balancer(Names::Random), point, 5, seed)),
                _ => met(&run),
            };
            run.extra = BTreeMap::from([(MET.to_owned(), met(&run)), (MET_RANDOM.to_owned(), other)]);
            run
        });
        Cell::Ran(runs.collect())
    };
    Outcome {
        name: Simulation::TwoNodes.name(),
        title: Simulation::TwoNodes.title(),
        story: format!(
            "Over {PAIRS} pairs of nodes. On one node, connections never meet on a server while another is free. \
             Two nodes know nothing of each other. If they are numbered one after the other, and have connected equally \
             often before, they never meet (numbers five apart would); with random names they meet in one pair of five, as if they chose at \
             random. Simulated with the selection code itself."
        ),
        change: None,
        simulated: true,
        arms: arms(Names::Numbered, cell),
    }
}

/// Every arm: those that would do the same as another say so.
fn arms(names: Names, cell: impl Fn(Chooser) -> Cell) -> Vec<(Arm, Cell)> {
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
        (Arm::ConnectOnly, cell(Chooser::Balancer(names))),
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
        Chooser::Balancer(called) => {
            for name in names(called, nodes, &mut rng) {
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

fn names(called: Names, count: u64, rng: &mut fastrand::Rng) -> BTreeSet<String> {
    let pool = rng.u32(..);
    let first = rng.u64(1..1000);
    let mut names = BTreeSet::new();
    while (names.len() as u64) < count {
        names.insert(match called {
            Names::Numbered => format!("pool-{pool:08x}-{}", first + names.len() as u64),
            Names::Random => format!("pool-1-{:08x}", rng.u32(..)),
        });
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
