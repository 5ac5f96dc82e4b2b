//! How long connect() takes: direct, through balancer, and through kube-proxy's rules.

use std::{net::SocketAddrV4, path::PathBuf};

use anyhow::{Result, ensure};
use balancer_common::abi::TCP;
use serde::Serialize;

use super::{
    check_interrupt,
    child::{Acceptor, Dialler},
    datapath::{Datapath, nobody},
    numbers::{Spread, percentile},
    progress,
    rules::{Mode, Service},
    worker::Pause,
};
use crate::topology::{Cgroup, Pod, Topology, service_v4};

/// How many Services there are.
const SERVICES: [usize; 3] = [1, 1_000, 5_000];

/// Connects of one variant before it is the next one's turn.
const BLOCK: usize = 100;

/// Endpoints of each Service.
const ENDPOINTS: usize = 4;

/// The first variant: what all are compared with.
pub const DIRECT: &str = "direct";

/// The second: the programs run, and find nothing to do.
pub const DIRECT_ATTACHED: &str = "direct, programs attached";

/// What all variants of balancer are called, before the number of Services.
pub const BALANCER: &str = "balancer";

/// The results of a variant.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What was done.
    pub variant: String,
    /// Services that the tables or rules hold; 0 where that does not matter.
    pub services: usize,
    /// Half of the connects took less, in nanoseconds; of each round.
    pub p50_ns: Spread,
    /// As above, nine in ten.
    pub p90_ns: Spread,
    /// As above, 99 in a hundred.
    pub p99_ns: Spread,
    /// Half of the connections took less to open and reset, sockets made and closed included.
    pub whole_ns: Spread,
    /// Connections opened and reset in a second by one thread, without a pause.
    pub per_second: Spread,
    /// `p50_ns` over that of direct connects in the same round.
    pub p50_ratio: Spread,
    /// `whole_ns` over that of direct connects in the same round.
    pub whole_ratio: Spread,
    /// `p50_ns` less that of direct connects in the same round.
    pub added_ns: Spread,
    /// Connects that failed or were slow, in all rounds.
    pub failed: usize,
}

/// All results.
#[derive(Debug, Serialize)]
pub struct Results {
    /// Rounds measured.
    pub rounds: usize,
    /// Connects of each variant in each round.
    pub connects: usize,
    /// By variant.
    pub rows: Vec<Row>,
    /// Variants that could not be measured, and why.
    pub missing: Vec<String>,
}

/// Something to dial, from somewhere.
struct Variant {
    name: String,
    services: usize,
    dialler: usize,
    cgroup: PathBuf,
    to: Vec<SocketAddrV4>,
}

/// A client and a server behind a node.
struct Site {
    dialler: Dialler,
    client: Pod,
    server: Pod,
    _acceptor: Acceptor,
    topology: Topology,
}

impl Site {
    fn new() -> Result<Self> {
        let topology = Topology::new()?;
        let (client, server) = (topology.pod("client")?, topology.pod("server")?);
        let ports: Vec<u16> = (0..ENDPOINTS as u16).map(|n| 8080 + n).collect();
        let _acceptor = Acceptor::start(&server, &ports)?;
        let dialler = Dialler::start(&client)?;
        Ok(Self { dialler, client, server, _acceptor, topology })
    }

    fn endpoints(&self) -> Vec<SocketAddrV4> {
        (0..ENDPOINTS as u16).map(|n| SocketAddrV4::new(self.server.addresses().v4, 8080 + n)).collect()
    }

    /// Services of which the one in the middle leads to the server: where rules are tried one after the
    /// other it is neither the luckiest nor the unluckiest.
    fn services(&self, count: usize) -> (Vec<Service>, SocketAddrV4) {
        let middle = count / 2;
        let address = |index: usize| SocketAddrV4::new(service_v4(1 + index as u16), 80);
        let services = (0..count)
            .map(|index| Service {
                address: address(index),
                endpoints: if index == middle {
                    self.endpoints()
                } else {
                    (0..ENDPOINTS).map(|n| nobody((index * ENDPOINTS + n) as u32)).collect()
                },
            })
            .collect();
        (services, address(middle))
    }
}

/// Measures.
///
/// # Errors
/// When a variant cannot be set up, or most of its connects fail.
pub fn measure(rounds: usize, connects: usize) -> Result<Results> {
    progress("setting up the programs with 1, 1,000 and 5,000 Services");
    let site = Site::new()?;
    let mut variants = Vec::new();
    let plain = site.client.cgroup().child("plain")?;
    variants.push(variant(DIRECT, 0, 0, &plain, site.endpoints()));
    let mut datapaths = Vec::new();
    let mut cgroups = Vec::new();
    for count in SERVICES {
        let (services, dialled) = site.services(count);
        let cgroup = site.client.cgroup().child(&format!("balancer-{count}"))?;
        let mut datapath = Datapath::attach(cgroup.path(), count as u32, (count * ENDPOINTS) as u32)?;
        for service in services {
            datapath.service(TCP, service.address, service.endpoints)?;
        }
        if count == SERVICES[2] {
            variants.insert(1, variant(DIRECT_ATTACHED, count, 0, &cgroup, site.endpoints()));
        }
        variants.push(variant(BALANCER, count, 0, &cgroup, vec![dialled]));
        datapaths.push(datapath);
        cgroups.push(cgroup);
    }
    let mut sites = vec![site];
    let mut missing = Vec::new();
    for mode in Mode::ALL {
        if let Err(why) = mode.available(sites[0].topology.pod("probe")?.netns()) {
            missing.push(format!("{}: {why}", mode.name()));
            continue;
        }
        for count in SERVICES {
            progress(&format!("installing the rules of {} for {count} Services", mode.name()));
            let site = Site::new()?;
            let (services, dialled) = site.services(count);
            mode.install(site.topology.host().netns(), &services)?;
            site.client.route_services_to_node()?;
            let cgroup = site.client.cgroup();
            variants.push(variant(mode.name(), count, sites.len(), cgroup, vec![dialled]));
            sites.push(site);
        }
    }
    let mut samples: Vec<Vec<Sample>> = variants.iter().map(|_| Vec::new()).collect();
    for round in 0..=rounds {
        progress(&format!("connects, round {round} of {rounds}"));
        let mut now: Vec<Sample> = variants.iter().map(|_| Sample::default()).collect();
        // In blocks of few, so that a disturbance of a tenth of a second meets all variants alike.
        for block in 0..connects / BLOCK {
            for turn in 0..variants.len() {
                check_interrupt()?;
                let index = (turn + block + round) % variants.len();
                now[index].add(&mut sites, &variants[index])?;
            }
        }
        // The first round fills caches and neighbour tables.
        if round > 0 {
            for (samples, mut sample) in samples.iter_mut().zip(now) {
                sample.sort();
                samples.push(sample);
            }
        }
    }
    drop((datapaths, cgroups, plain));
    Ok(Results { rounds, connects, rows: rows(&variants, &samples, connects), missing })
}

fn variant(name: &str, services: usize, dialler: usize, cgroup: &Cgroup, to: Vec<SocketAddrV4>) -> Variant {
    Variant { name: name.to_owned(), services, dialler, cgroup: cgroup.path().to_owned(), to }
}

/// A variant in a round.
#[derive(Default)]
struct Sample {
    connect: Vec<u64>,
    whole: Vec<u64>,
    hurried_ns: u64,
    failed: usize,
}

impl Sample {
    fn add(&mut self, sites: &mut [Site], variant: &Variant) -> Result<()> {
        let dialler = &mut sites[variant.dialler].dialler;
        dialler.enter(&variant.cgroup)?;
        let measured = dialler.tcp(&variant.to, BLOCK, Pause::ServerSleeps)?;
        let hurried = dialler.tcp(&variant.to, BLOCK, Pause::None)?;
        for answer in [&measured, &hurried] {
            ensure!(
                answer.failed.len() * 2 < BLOCK,
                "{} with {} Services: {} of {BLOCK} connects failed, among them {:?}",
                variant.name,
                variant.services,
                answer.failed.len(),
                answer.failed.first()
            );
            self.failed += answer.failed.len() + answer.slow;
        }
        self.connect.extend(measured.connect_ns);
        self.whole.extend(measured.whole_ns);
        self.hurried_ns += hurried.total_ns;
        Ok(())
    }

    fn sort(&mut self) {
        self.connect.sort_unstable();
        self.whole.sort_unstable();
    }
}

fn rows(variants: &[Variant], samples: &[Vec<Sample>], connects: usize) -> Vec<Row> {
    let of = |index: usize, value: &dyn Fn(&Sample) -> f64| -> Vec<f64> {
        samples[index].iter().map(value).collect()
    };
    let connect = |share: f64| move |sample: &Sample| percentile(&sample.connect, share);
    let whole = |sample: &Sample| percentile(&sample.whole, 0.5);
    variants
        .iter()
        .enumerate()
        .map(|(index, variant)| Row {
            variant: variant.name.clone(),
            services: variant.services,
            p50_ns: Spread::of(of(index, &connect(0.50))),
            p90_ns: Spread::of(of(index, &connect(0.90))),
            p99_ns: Spread::of(of(index, &connect(0.99))),
            whole_ns: Spread::of(of(index, &whole)),
            per_second: Spread::of(of(index, &|sample| connects as f64 / sample.hurried_ns as f64 * 1e9)),
            p50_ratio: Spread::of_ratios(&of(index, &connect(0.50)), &of(0, &connect(0.50))),
            whole_ratio: Spread::of_ratios(&of(index, &whole), &of(0, &whole)),
            added_ns: Spread::of(
                of(index, &connect(0.50))
                    .iter()
                    .zip(of(0, &connect(0.50)))
                    .map(|(ours, direct)| ours - direct),
            ),
            failed: samples[index].iter().map(|sample| sample.failed).sum(),
        })
        .collect()
}
