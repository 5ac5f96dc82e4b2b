//! How long connect() takes, or a question and its answer over UDP: direct, through balancer, and through
//! kube-proxy's rules.

mod rows;
mod site;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Result;
use balancer_common::abi::{TCP, UDP};
use serde::Serialize;

pub use self::rows::Row;
use self::{
    rows::{Sample, rows},
    site::{ENDPOINTS, Site, has_ipv6},
};
use super::{
    check_interrupt,
    datapath::Datapath,
    progress,
    rules::{Family, Kind, Mode},
    worker::Asking,
};
use crate::topology::Cgroup;

/// Connects of one variant before it is the next one's turn.
const BLOCK: usize = 100;

/// How long the rules of one mode may take to install.
const INSTALLED: Duration = Duration::from_secs(120);

/// The first variant: what all are compared with.
pub const DIRECT: &str = "direct";

/// The second: the programs run, and find nothing to do.
pub const DIRECT_ATTACHED: &str = "direct, programs attached";

/// What all variants of balancer are called, before the number of Services.
pub const BALANCER: &str = "balancer";

/// What is measured, how large and how often.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Which rules and Services are made.
    pub kind: Kind,
    /// What is done.
    pub actions: &'static [Action],
    /// How many Services there are, ascending.
    pub sizes: &'static [usize],
    /// How many there are at most where rules are installed: with many that alone takes minutes.
    pub rules_up_to: usize,
    /// Rounds.
    pub rounds: usize,
    /// Connects or questions of each variant in each round.
    pub count: usize,
}

/// What is done again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A TCP connection is opened and reset.
    Connect,
    /// A question is asked and answered over UDP.
    Ask(Asking),
}

impl Plan {
    /// Connects over TCP and IPv4, with these numbers of Services.
    pub const fn connects(sizes: &'static [usize]) -> Self {
        let (actions, rules_up_to) = (&[Action::Connect], usize::MAX);
        Self { kind: Kind::TCP_V4, actions, sizes, rules_up_to, rounds: 20, count: 1_000 }
    }

    /// The same over IPv6.
    pub const fn ipv6(sizes: &'static [usize]) -> Self {
        Self { kind: Kind { family: Family::V6, protocol: TCP }, ..Self::connects(sizes) }
    }

    /// Questions over UDP.
    pub const fn questions(sizes: &'static [usize]) -> Self {
        let actions = &[Action::Ask(Asking::Connected), Action::Ask(Asking::Unconnected)];
        Self { kind: Kind { family: Family::V4, protocol: UDP }, actions, ..Self::connects(sizes) }
    }

    /// Few of them, and rules for so many Services at most.
    #[must_use]
    pub const fn short(self, rules_up_to: usize) -> Self {
        Self { rules_up_to, rounds: 6, count: 500, ..self }
    }
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
    /// How long it took to install rules, by mode and number of Services.
    pub installed: Vec<Installed>,
    /// Variants that could not be measured, and why.
    pub missing: Vec<String>,
}

/// Rules that were installed.
#[derive(Debug, Serialize)]
pub struct Installed {
    /// Of this mode.
    pub mode: &'static str,
    /// For so many Services.
    pub services: usize,
    /// It took so long.
    pub seconds: f64,
}

/// Something to dial, from somewhere.
struct Variant {
    name: String,
    action: Action,
    services: usize,
    site: usize,
    cgroup: PathBuf,
    to: Vec<SocketAddr>,
}

/// Everything that is set up. Fields are dropped in order: programs go before their cgroups.
struct Stage {
    plan: Plan,
    variants: Vec<Variant>,
    datapaths: Vec<Datapath>,
    cgroups: Vec<Cgroup>,
    sites: Vec<Site>,
    installed: Vec<Installed>,
    missing: Vec<String>,
}

/// Measures.
///
/// # Errors
/// When a variant cannot be set up, or most of its connects fail.
pub fn measure(plan: Plan) -> Result<Results> {
    if plan.kind.family == Family::V6 && !has_ipv6() {
        let missing = vec!["everything: this machine has no IPv6".into()];
        return Ok(Results { rounds: 0, connects: 0, rows: Vec::new(), installed: Vec::new(), missing });
    }
    let mut stage = Stage::new(plan)?;
    stage.balancer()?;
    for mode in Mode::ALL {
        stage.rules(mode)?;
    }
    stage.missing_rules();
    let samples = stage.run()?;
    Ok(Results {
        rounds: plan.rounds,
        connects: plan.count,
        rows: rows(&stage.variants, &samples, plan.count),
        installed: stage.installed,
        missing: stage.missing,
    })
}

impl Stage {
    fn new(plan: Plan) -> Result<Self> {
        let sites = vec![Site::new(plan.kind.family)?];
        Ok(Self {
            plan,
            variants: Vec::new(),
            datapaths: Vec::new(),
            cgroups: Vec::new(),
            sites,
            installed: Vec::new(),
            missing: Vec::new(),
        })
    }

    /// Connects without the programs, and with them, at all sizes.
    fn balancer(&mut self) -> Result<()> {
        let sizes = self.plan.sizes;
        progress(&format!("setting up the programs with {} Services", listed(sizes)));
        let (direct, root) = (self.sites[0].endpoints(), self.sites[0].client.cgroup().child("plain")?);
        self.add(DIRECT, 0, 0, &root, &direct);
        self.cgroups.push(root);
        // What they cost where they find nothing to do is asked at one size: it is a look-up that fails.
        let attached = sizes.iter().copied().rfind(|&size| size <= 5_000);
        for &count in sizes {
            let (services, dialled) = self.sites[0].services(count);
            let cgroup = self.sites[0].client.cgroup().child(&format!("balancer-{count}"))?;
            let mut datapath = Datapath::attach(cgroup.path(), count as u32, (count * ENDPOINTS) as u32)?;
            for service in services {
                datapath.service(self.plan.kind.protocol, service.address, service.endpoints)?;
            }
            if attached == Some(count) {
                self.add(DIRECT_ATTACHED, count, 0, &cgroup, &direct);
            }
            self.add(BALANCER, count, 0, &cgroup, &[dialled]);
            self.datapaths.push(datapath);
            self.cgroups.push(cgroup);
        }
        Ok(())
    }

    /// Connects through rules of a mode, at those sizes for which they can be installed in time.
    fn rules(&mut self, mode: Mode) -> Result<()> {
        let (name, kind) = (mode.name(), self.plan.kind);
        if let Err(why) = mode.available_for(kind, self.sites[0].topology.pod("probe")?.netns()) {
            self.missing.push(format!("{name}: {why}"));
            return Ok(());
        }
        let Plan { sizes, rules_up_to, .. } = self.plan;
        for &count in sizes.iter().filter(|&&size| size <= rules_up_to) {
            progress(&format!("installing the rules of {name} for {count} Services"));
            let site = Site::new(kind.family)?;
            let (services, dialled) = site.services(count);
            match mode.install_within(INSTALLED, kind, site.topology.host().netns(), &services) {
                Ok(took) => {
                    let seconds = took.as_secs_f64();
                    self.installed.push(Installed { mode: name, services: count, seconds });
                }
                Err(error) => {
                    check_interrupt()?;
                    self.missing.push(format!("{name}, {count} Services or more: {error:#}"));
                    break;
                }
            }
            site.client.route_services_to_node()?;
            let cgroup = site.client.cgroup().child("rules")?;
            self.add(name, count, self.sites.len(), &cgroup, &[dialled]);
            self.cgroups.push(cgroup);
            self.sites.push(site);
        }
        Ok(())
    }

    fn missing_rules(&mut self) {
        let left_out: Vec<usize> =
            self.plan.sizes.iter().copied().filter(|&size| size > self.plan.rules_up_to).collect();
        if !left_out.is_empty() {
            self.missing.push(format!(
                "iptables and nftables, {} Services: installing so many rules takes too long for --quick",
                listed(&left_out)
            ));
        }
    }

    fn add(&mut self, name: &str, services: usize, site: usize, cgroup: &Cgroup, to: &[SocketAddr]) {
        for &action in self.plan.actions {
            let (name, cgroup, to) = (name.to_owned(), cgroup.path().to_owned(), to.to_vec());
            self.variants.push(Variant { name, action, services, site, cgroup, to });
        }
    }

    /// All samples, by variant and round.
    fn run(&mut self) -> Result<Vec<Vec<Sample>>> {
        let variants = &self.variants;
        let mut samples: Vec<Vec<Sample>> = variants.iter().map(|_| Vec::new()).collect();
        for round in 0..=self.plan.rounds {
            progress(&format!("round {round} of {}", self.plan.rounds));
            let mut now: Vec<Sample> = variants.iter().map(|_| Sample::default()).collect();
            // In blocks of few, so that a disturbance of a tenth of a second meets all variants alike.
            for block in 0..self.plan.count / BLOCK {
                for turn in 0..variants.len() {
                    check_interrupt()?;
                    let index = (turn + block + round) % variants.len();
                    now[index].add(&mut self.sites, &variants[index])?;
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
        Ok(samples)
    }
}

/// Numbers, for people: "1, 1,000 and 5,000".
fn listed(numbers: &[usize]) -> String {
    let words: Vec<String> = numbers.iter().map(|number| thousands(*number)).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}

/// A number with a comma before every three digits.
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(listed(&[1, 1_000, 30_000]), "1, 1,000 and 30,000");
        assert_eq!(listed(&[1_234_567]), "1,234,567");
        assert_eq!(listed(&[]), "");
    }
}
