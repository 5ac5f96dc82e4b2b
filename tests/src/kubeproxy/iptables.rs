//! The chains that begin with `KUBE-`: `KUBE-SERVICES` names what is dialled and goes on to `KUBE-SVC-…` or `KUBE-SVL-…`, whose
//! rules lead to `KUBE-SEP-…`, each of which has one destination. What has no endpoints is rejected in the table `filter`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use balancer_userspace::model::{Frontend, Protocol};

use super::{Rules, Verdict, output};
use crate::topology::Netns;

pub(super) fn rules(netns: &Netns) -> Result<Rules> {
    let mut rules = Rules::new();
    for program in ["iptables-save", "ip6tables-save"] {
        add(&output(netns, program, &[])?, &mut rules).context(program)?;
    }
    Ok(rules)
}

fn add(text: &str, rules: &mut Rules) -> Result<()> {
    let mut chains: BTreeMap<&str, Vec<Vec<&str>>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = words(line);
        if words.first() == Some(&"-A") && words.len() > 2 {
            let rule = words.split_off(2);
            chains.entry(words[1]).or_default().push(rule);
        }
    }
    for rule in chains.get("KUBE-SERVICES").into_iter().flatten() {
        let Some(target) = after(rule, "-j") else { continue };
        let Some(frontend) = frontend(rule)? else { continue };
        let verdict = match target {
            "REJECT" => Verdict::Reject,
            "DROP" => Verdict::Drop,
            chain if chain.starts_with("KUBE-SV") => {
                service(&chains, chain).with_context(|| format!("chain {chain}"))?
            }
            // Masquerading: it goes on.
            _ => continue,
        };
        rules.insert(frontend, verdict);
    }
    Ok(())
}

fn service(chains: &BTreeMap<&str, Vec<Vec<&str>>>, chain: &str) -> Result<Verdict> {
    let targets: BTreeSet<&str> = chains
        .get(chain)
        .into_iter()
        .flatten()
        .filter_map(|rule| after(rule, "-j"))
        .filter(|target| target.starts_with("KUBE-SEP-"))
        .collect();
    let mut endpoints = BTreeSet::new();
    let mut timeouts = BTreeSet::new();
    for rule in chains.get(chain).into_iter().flatten() {
        timeouts.extend(after(rule, "--seconds").map(str::parse::<u64>).transpose()?);
    }
    for target in &targets {
        let rules = chains.get(target).with_context(|| format!("no chain {target}"))?;
        for rule in rules {
            if let Some(to) = after(rule, "--to-destination") {
                endpoints.insert(to.parse::<SocketAddr>()?);
            }
        }
    }
    if endpoints.len() != targets.len() || endpoints.is_empty() || timeouts.len() > 1 {
        bail!("chains {targets:?} lead to {endpoints:?} with time-outs {timeouts:?}");
    }
    Ok(Verdict::Endpoints { endpoints, affinity: timeouts.into_iter().next().map(Duration::from_secs) })
}

/// What a rule of `KUBE-SERVICES` is about; other rules there name no single port.
fn frontend(rule: &[&str]) -> Result<Option<Frontend>> {
    let (Some(addr), Some(port)) = (after(rule, "-d"), after(rule, "--dport")) else { return Ok(None) };
    let addr: IpAddr = addr.split('/').next().unwrap_or_default().parse()?;
    let protocol = match after(rule, "-p") {
        Some("tcp") => Protocol::Tcp,
        Some("udp") => Protocol::Udp,
        _ => return Ok(None),
    };
    Ok(Some(Frontend { addr, port: port.parse()?, protocol }))
}

fn after<'a>(rule: &[&'a str], flag: &str) -> Option<&'a str> {
    let at = rule.iter().position(|word| *word == flag)?;
    rule.get(at + 1).copied()
}

/// Words, of which a comment in quotes is one.
fn words(line: &str) -> Vec<&str> {
    line.split('"')
        .enumerate()
        .flat_map(|(index, part)| match index % 2 {
            0 => part.split_ascii_whitespace().collect(),
            _ => vec![part],
        })
        .collect()
}
