//! The tables `ip kube-proxy` and `ip6 kube-proxy`: a map from what is dialled to a chain of the Service, whose rules name its
//! endpoints or, where clients are remembered and in earlier versions, lead to chains of one endpoint each; and a map of
//! what has no endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use balancer_userspace::model::{Frontend, Protocol};
use serde_json::Value;

use super::{Rules, Verdict, output};
use crate::topology::Netns;

/// A table, sorted.
#[derive(Default)]
struct Table<'a> {
    maps: BTreeMap<&'a str, &'a Value>,
    sets: BTreeMap<&'a str, &'a Value>,
    chains: BTreeMap<&'a str, Vec<&'a Value>>,
}

pub(super) fn rules(netns: &Netns) -> Result<Rules> {
    let mut rules = Rules::new();
    for family in ["ip", "ip6"] {
        let text = output(netns, "nft", &["-j", "list", "table", family, "kube-proxy"])?;
        let document: Value = serde_json::from_str(&text).context("nft -j")?;
        Table::read(&document)?.add_to(&mut rules).with_context(|| format!("table {family} kube-proxy"))?;
    }
    Ok(rules)
}

impl<'a> Table<'a> {
    fn read(document: &'a Value) -> Result<Self> {
        let mut table = Self::default();
        for item in document["nftables"].as_array().context("no nftables")? {
            if let Some(map) = item.get("map") {
                table.maps.insert(map["name"].as_str().context("a map without a name")?, map);
            } else if let Some(set) = item.get("set") {
                table.sets.insert(set["name"].as_str().context("a set without a name")?, set);
            } else if let Some(rule) = item.get("rule") {
                let chain = rule["chain"].as_str().context("a rule without a chain")?;
                table.chains.entry(chain).or_default().push(&rule["expr"]);
            }
        }
        Ok(table)
    }

    fn add_to(&self, rules: &mut Rules) -> Result<()> {
        for (key, verdict) in self.elements("service-ips")? {
            let chain = target(verdict).with_context(|| format!("{key:?} leads nowhere: {verdict}"))?;
            // An external address, or a load balancer's: none of ours.
            if chain.starts_with("external-") {
                continue;
            }
            let verdict = self.service(chain).with_context(|| format!("chain {chain} of {key:?}"))?;
            rules.insert(key, verdict);
        }
        for (key, verdict) in self.elements("no-endpoint-services")? {
            let verdict = match target(verdict) {
                Some("reject-chain") => Verdict::Reject,
                None if verdict.get("drop").is_some() => Verdict::Drop,
                _ => bail!("no-endpoint-services says {verdict} of {key:?}"),
            };
            // What stands in both maps is answered by this one: it is looked at in an earlier hook.
            rules.insert(key, verdict);
        }
        Ok(())
    }

    fn elements(&self, map: &str) -> Result<Vec<(Frontend, &'a Value)>> {
        let map = self.maps.get(map).with_context(|| format!("no map {map}"))?;
        let elements = map["elem"].as_array().map_or(&[][..], Vec::as_slice);
        let mut found = Vec::with_capacity(elements.len());
        for pair in elements {
            found.extend(frontend(&pair[0])?.map(|frontend| (frontend, &pair[1])));
        }
        Ok(found)
    }

    fn service(&self, chain: &str) -> Result<Verdict> {
        let mut targets = BTreeSet::new();
        for rule in self.chains.get(chain).context("no rules")? {
            gather(rule, &mut |target| {
                if target.starts_with("endpoint-") {
                    targets.insert(target.to_owned());
                }
            });
        }
        let mut endpoints = BTreeSet::new();
        let mut timeouts = BTreeSet::new();
        for chain in targets.iter().map(String::as_str).chain([chain]) {
            let rules = self.chains.get(chain).with_context(|| format!("no rules in {chain}"))?;
            for statement in rules.iter().flat_map(|rule| rule.as_array().into_iter().flatten()) {
                if let Some(dnat) = statement.get("dnat") {
                    endpoints.extend(destinations(dnat).with_context(|| dnat.to_string())?);
                }
                if let Some(set) = statement["set"]["set"].as_str() {
                    let name = set.trim_start_matches('@');
                    let set = self.sets.get(name).with_context(|| format!("no set {name}"))?;
                    timeouts
                        .insert(set["timeout"].as_u64().with_context(|| format!("{name} has no timeout"))?);
                }
            }
        }
        if endpoints.len() < targets.len() || endpoints.is_empty() || timeouts.len() > 1 {
            let rules = self.chains.get(chain);
            bail!("chains {targets:?} of {rules:?} lead to {endpoints:?} with time-outs {timeouts:?}");
        }
        Ok(Verdict::Endpoints { endpoints, affinity: timeouts.into_iter().next().map(Duration::from_secs) })
    }
}

/// Where a dnat statement leads: to one address and port, or to one of several by a map from random numbers.
fn destinations(dnat: &Value) -> Result<Vec<SocketAddr>> {
    let destination = |addr: &Value, port: &Value| -> Result<SocketAddr> {
        let addr: IpAddr = addr.as_str().context("no address")?.parse()?;
        Ok(SocketAddr::new(addr, u16::try_from(port.as_u64().context("no port")?)?))
    };
    match dnat["addr"]["map"]["data"]["set"].as_array() {
        Some(elements) => {
            let pairs = elements.iter().map(|element| &element[1]["concat"]);
            pairs.map(|pair| destination(&pair[0], &pair[1])).collect()
        }
        None => Ok(vec![destination(&dnat["addr"], &dnat["port"])?]),
    }
}

fn target(verdict: &Value) -> Option<&str> {
    verdict["goto"]["target"].as_str()
}

/// Every chain that is gone to, at any depth.
fn gather(value: &Value, found: &mut impl FnMut(&str)) {
    if let Some(target) = target(value) {
        found(target);
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| gather(item, found)),
        Value::Object(items) => items.values().for_each(|item| gather(item, found)),
        _ => {}
    }
}

/// The key of an element of a map, with a comment or without; `None` for SCTP.
fn frontend(element: &Value) -> Result<Option<Frontend>> {
    let element = element["elem"].get("val").unwrap_or(element);
    let parts = element["concat"].as_array().with_context(|| format!("not a key: {element}"))?;
    let [addr, protocol, port] = &parts[..] else { bail!("not a key: {element}") };
    let protocol = match protocol.as_str() {
        Some("tcp") => Protocol::Tcp,
        Some("udp") => Protocol::Udp,
        Some("sctp") => return Ok(None),
        _ => bail!("unknown protocol: {element}"),
    };
    let addr = addr.as_str().context("not an address")?.parse()?;
    Ok(Some(Frontend { addr, port: u16::try_from(port.as_u64().context("not a port")?)?, protocol }))
}
