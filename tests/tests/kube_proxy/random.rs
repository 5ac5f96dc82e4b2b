//! A random cluster, and random changes to it: everything that an API server accepts and that has a say in who may receive a connection.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::Result;
use balancer_tests::{
    apiserver::{Admin, code, objects::NAMESPACE},
    kubeproxy,
    topology::{service_v4, service_v6},
};
use fastrand::Rng;
use serde_json::{Map, Value, json};

/// Services at a time.
const SERVICES: usize = 20;

/// Service addresses that they share: one that is given up soon belongs to another.
const ADDRESSES: u16 = 30;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS: &str = "service.kubernetes.io/headless";

/// What kube-proxy overlooks, by its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labels {
    /// Services with the label of other proxies, slices with the one for headless Services: since 1.36, as the agent does.
    ByKind,
    /// Services and slices with either.
    Either,
}

impl Labels {
    /// Of the kube-proxy that is there.
    pub fn of_kube_proxy() -> Result<Self> {
        Ok(if kubeproxy::version()? < (1, 36) { Self::Either } else { Self::ByKind })
    }
}

/// A port of a Service.
#[derive(Clone)]
struct Port {
    name: &'static str,
    protocol: &'static str,
    number: u16,
}

/// What the API server holds of one Service.
struct Service {
    object: Value,
    ports: Vec<Port>,
    slices: BTreeMap<String, Value>,
    /// Its endpoints by address. One that stands in several slices is the same in all of them: of copies that differ kube-proxy
    /// takes any.
    endpoints: BTreeMap<IpAddr, Value>,
}

/// All of it, with the source of chance.
pub struct World {
    rng: Rng,
    /// Objects have only labels that mean to kube-proxy what they mean to the agent.
    labels: Labels,
    services: BTreeMap<String, Service>,
    free: Vec<u16>,
    /// How many requests the API server refused: few, or nothing is tested.
    pub refused: Vec<String>,
    /// How many it took.
    pub accepted: usize,
}

impl World {
    pub fn new(seed: u64, labels: Labels) -> Self {
        Self {
            labels,
            rng: Rng::with_seed(seed),
            services: BTreeMap::new(),
            free: (100..100 + ADDRESSES).collect(),
            refused: Vec::new(),
            accepted: 0,
        }
    }

    /// Changes about half of the Services, and makes those that are missing.
    pub fn round(&mut self, admin: &Admin) -> Result<()> {
        for index in 0..SERVICES {
            let name = format!("s{index}");
            match self.services.contains_key(&name) {
                false => {
                    self.create_service(admin, &name)?;
                    self.change_slices(admin, &name)?;
                }
                true if self.rng.bool() => self.change(admin, &name)?,
                true => {}
            }
        }
        Ok(())
    }

    /// Some Services, with the slices that name them, as YAML.
    pub fn yaml(&self, of: impl Fn(&Value) -> bool) -> String {
        let mut text = String::new();
        for (name, service) in self.services.iter().filter(|(_, service)| of(&service.object)) {
            let slices = self.services.values().flat_map(|service| service.slices.values());
            let slices = slices.filter(|slice| slice["metadata"]["labels"][SERVICE_NAME] == name.as_str());
            for object in std::iter::once(&sendable(&service.object)).chain(slices) {
                text += "---\n";
                text += &serde_saphyr::to_string(object).unwrap_or_else(|error| error.to_string());
            }
        }
        text
    }

    fn change(&mut self, admin: &Admin, name: &str) -> Result<()> {
        match self.rng.u8(..20) {
            0 => self.remove(admin, name),
            // Recreated at once, at another address, with what slices it had.
            1 => {
                let Some(service) = self.services.get_mut(name) else { return Ok(()) };
                let slices = std::mem::take(&mut service.slices);
                let endpoints = std::mem::take(&mut service.endpoints);
                self.remove(admin, name)?;
                self.create_service(admin, name)?;
                match self.services.get_mut(name) {
                    Some(service) => (service.slices, service.endpoints) = (slices, endpoints),
                    None => slices.values().try_for_each(|slice| admin.delete(slice).map(drop))?,
                }
                Ok(())
            }
            2..5 => self.change_service(admin, name),
            5..8 => self.change_slices(admin, name),
            8..11 => self.move_endpoint(admin, name),
            11..17 => self.change_endpoints(admin, name),
            _ => {
                self.change_service(admin, name)?;
                self.change_slices(admin, name)
            }
        }
    }

    /// One request. What the API server finds invalid is noted, and is no failure.
    fn send(&mut self, admin: &Admin, object: &Value) -> Result<Option<Value>> {
        // Replaced first: creating what exists may be refused for an address that it has itself.
        let answer = match admin.replace(object) {
            Err(error) if code(&error) == Some(404) => admin.create(object),
            other => other,
        };
        match answer {
            Ok(answer) => {
                self.accepted += 1;
                Ok(Some(answer))
            }
            Err(error) if code(&error) == Some(422) => {
                self.refused.push(format!("{error:#}"));
                Ok(None)
            }
            Err(error) => Err(error.context(object.to_string())),
        }
    }

    fn remove(&mut self, admin: &Admin, name: &str) -> Result<()> {
        let Some(service) = self.services.remove(name) else { return Ok(()) };
        let slices_first = self.rng.bool();
        if slices_first {
            service.slices.values().try_for_each(|slice| admin.delete(slice).map(drop))?;
        }
        admin.delete(&service.object)?;
        if !slices_first {
            service.slices.values().try_for_each(|slice| admin.delete(slice).map(drop))?;
        }
        self.accepted += 1 + service.slices.len();
        self.free.extend(service.object["number"].as_u64().and_then(|n| u16::try_from(n).ok()));
        Ok(())
    }

    fn create_service(&mut self, admin: &Admin, name: &str) -> Result<()> {
        if self.free.is_empty() {
            return Ok(());
        }
        let number = self.free.swap_remove(self.rng.usize(..self.free.len()));
        let (v4, v6) = (IpAddr::from(service_v4(number)), IpAddr::from(service_v6(number)));
        let addresses = match self.rng.u8(..10) {
            0..5 => vec![v4, v6],
            5..7 => vec![v6, v4],
            7..9 => vec![v4],
            _ => vec![v6],
        };
        let families: Vec<_> =
            addresses.iter().map(|addr| if addr.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
        let mut spec = json!({
            "type": "ClusterIP", "clusterIP": addresses[0], "clusterIPs": addresses, "ipFamilies": families,
            "ipFamilyPolicy": if addresses.len() == 2 { "RequireDualStack" } else { "SingleStack" },
        });
        match self.rng.u8(..30) {
            0 => spec = json!({"type": "ClusterIP", "clusterIP": "None"}),
            1 => spec = json!({"type": "ExternalName", "externalName": "example.org"}),
            2..4 => spec["type"] = json!("NodePort"),
            4 => spec["externalIPs"] = json!([format!("198.51.100.{}", number % 250)]),
            _ => {}
        }
        let object = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec,
            "number": number,
        });
        let service =
            Service { object, ports: Vec::new(), slices: BTreeMap::new(), endpoints: BTreeMap::new() };
        self.services.insert(name.to_owned(), service);
        self.change_service(admin, name)
    }

    /// Gives a Service other ports, policies or labels; its addresses stay.
    fn change_service(&mut self, admin: &Admin, name: &str) -> Result<()> {
        let keep_ports = self.rng.u8(..6) > 0;
        let Some(service) = self.services.get(name) else { return Ok(()) };
        let ports =
            if keep_ports && !service.ports.is_empty() { service.ports.clone() } else { self.ports() };
        let rng = &mut self.rng;
        let Some(service) = self.services.get_mut(name) else { return Ok(()) };
        let mut object = service.object.clone();
        let spec = &mut object["spec"];
        spec["ports"] = ports
            .iter()
            .map(|port| json!({"name": port.name, "port": port.number, "protocol": port.protocol}))
            .collect();
        if spec["type"] != "ExternalName" {
            spec["internalTrafficPolicy"] = json!(*pick(rng, &["Cluster", "Cluster", "Local"]));
            spec["publishNotReadyAddresses"] = json!(rng.u8(..4) == 0);
            spec["trafficDistribution"] =
                pick(rng, &[json!(null), json!("PreferClose"), json!("PreferSameNode")]).clone();
        }
        if spec["type"] == "NodePort" {
            spec["externalTrafficPolicy"] = json!(*pick(rng, &["Cluster", "Local"]));
        }
        let timeout = *pick(rng, &[1, 30, 10_800, 86_400]);
        (spec["sessionAffinity"], spec["sessionAffinityConfig"]) = match rng.u8(..6) {
            0 => (json!("ClientIP"), json!({"clientIP": {"timeoutSeconds": timeout}})),
            1 => (json!("ClientIP"), json!(null)),
            _ => (json!("None"), json!(null)),
        };
        let mut labels = Map::new();
        match rng.u8(..24) {
            0 => _ = labels.insert(OTHER_PROXY.to_owned(), json!("other")),
            1 => _ = labels.insert(OTHER_PROXY.to_owned(), json!("")),
            2 if self.labels == Labels::ByKind => _ = labels.insert(HEADLESS.to_owned(), json!("")),
            _ => {}
        }
        object["metadata"]["labels"] = labels.into();
        if let Some(answer) = self.send(admin, &sendable(&object))? {
            if object["spec"]["type"] == "NodePort" {
                // The numbers that it was given, lest they be asked for anew each time.
                object["spec"]["ports"] = answer["spec"]["ports"].clone();
            }
            if let Some(service) = self.services.get_mut(name) {
                service.object = object;
                service.ports = ports;
            }
        } else if let Some(service) = self.services.get(name)
            && service.ports.is_empty()
        {
            // It was never made.
            let number = service.object["number"].as_u64().and_then(|n| u16::try_from(n).ok());
            self.services.remove(name);
            self.free.extend(number);
        }
        Ok(())
    }

    fn ports(&mut self) -> Vec<Port> {
        let rng = &mut self.rng;
        let numbers = [53, 80, 443];
        let port = |name, protocol, number| Port { name, protocol, number };
        match rng.u8(..8) {
            0..3 => vec![port("", "TCP", *pick(rng, &numbers))],
            3 => vec![port("", "UDP", *pick(rng, &numbers))],
            // One number by both protocols.
            4..6 => vec![port("dns-tcp", "TCP", 53), port("dns", "UDP", 53)],
            6 => vec![port("http", "TCP", 80), port("admin", "TCP", 443), port("dns", "UDP", 53)],
            _ => vec![port("http", "TCP", *pick(rng, &numbers)), port("sctp", "SCTP", 80)],
        }
    }

    /// Makes a Service's slices anew, all or some.
    fn change_slices(&mut self, admin: &Admin, name: &str) -> Result<()> {
        let Some(service) = self.services.get(name) else { return Ok(()) };
        let names: Vec<String> = (0..self.rng.usize(..6)).map(|index| format!("{name}-{index}")).collect();
        let stale: Vec<_> = service.slices.keys().filter(|slice| !names.contains(slice)).cloned().collect();
        for slice in stale {
            if self.rng.bool()
                && let Some(object) =
                    self.services.get_mut(name).and_then(|service| service.slices.remove(&slice))
            {
                admin.delete(&object)?;
                self.accepted += 1;
            }
        }
        for slice in names {
            self.change_endpoint_pool(name);
            let object = self.slice(name, &slice);
            // Which addresses a slice is for can never change.
            if let Some(old) = self.services.get(name).and_then(|service| service.slices.get(&slice))
                && old["addressType"] != object["addressType"]
            {
                admin.delete(old)?;
                self.accepted += 1;
                if let Some(service) = self.services.get_mut(name) {
                    service.slices.remove(&slice);
                }
            }
            self.put_slice(admin, name, &slice, object)?;
        }
        Ok(())
    }

    fn put_slice(&mut self, admin: &Admin, name: &str, slice: &str, object: Value) -> Result<()> {
        if self.send(admin, &object)?.is_some()
            && let Some(service) = self.services.get_mut(name)
        {
            service.slices.insert(slice.to_owned(), object);
        }
        Ok(())
    }

    fn slice(&mut self, name: &str, slice: &str) -> Value {
        let rng = &mut self.rng;
        let Some(service) = self.services.get(name) else { return Value::Null };
        let family = *pick(rng, &["IPv4", "IPv4", "IPv4", "IPv6", "IPv6", "FQDN"]);
        let endpoints: Vec<Value> = match family {
            "FQDN" => vec![json!({"addresses": ["host.example.org"]})],
            _ => service
                .endpoints
                .iter()
                .filter(|(addr, _)| addr.is_ipv4() == (family == "IPv4") && rng.u8(..3) > 0)
                .map(|(_, endpoint)| endpoint.clone())
                .collect(),
        };
        let mut ports: Vec<Value> = Vec::new();
        for port in &service.ports {
            let number = match rng.u8(..20) {
                0 => json!(null),
                1..4 => json!(9090),
                _ => json!(8080),
            };
            let protocol =
                if rng.u8(..12) == 0 { *pick(rng, &["TCP", "UDP", "SCTP"]) } else { port.protocol };
            let name = if rng.u8(..16) == 0 && ports.is_empty() { "elsewhere" } else { port.name };
            if rng.u8(..12) > 0 {
                ports.push(json!({"name": name, "port": number, "protocol": protocol}));
            }
        }
        let owner = match rng.u8(..30) {
            // It belongs to nobody, or to another Service.
            0 => None,
            1 => Some(json!(format!("s{}", rng.usize(..SERVICES)))),
            _ => Some(json!(name)),
        };
        // For as long as it exists: kube-proxy keeps what it knew of a slice that loses this label, until it is restarted.
        let owner = match service.slices.get(slice) {
            Some(old) => old["metadata"]["labels"].get(SERVICE_NAME).cloned(),
            None => owner,
        };
        let mut labels = Map::new();
        labels.extend(owner.map(|owner| (SERVICE_NAME.to_owned(), owner)));
        match rng.u8(..30) {
            0 => _ = labels.insert(HEADLESS.to_owned(), json!("")),
            1 if self.labels == Labels::ByKind => {
                _ = labels.insert(OTHER_PROXY.to_owned(), json!("other"));
            }
            _ => {}
        }
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": slice, "namespace": NAMESPACE, "labels": labels},
            "addressType": family, "ports": ports, "endpoints": endpoints,
        })
    }

    /// Makes endpoints that slices may hold.
    fn change_endpoint_pool(&mut self, name: &str) {
        // Few Services have hints, but those that have them have them for nearly all.
        let hinted = self.rng.u8(..3);
        // Pods of its own, since a slice of another Service may come to it by mistake.
        let own: u8 = name.trim_start_matches('s').parse().unwrap_or_default();
        let Some(service) = self.services.get_mut(name) else { return };
        for number in 0..4 {
            let octet = self.rng.u8(2..10) + number;
            for addr in [
                IpAddr::from(Ipv4Addr::new(10, 244, own, octet)),
                IpAddr::from(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, own.into(), octet.into())),
            ] {
                let rng = &mut self.rng;
                service.endpoints.entry(addr).or_insert_with(|| endpoint(rng, addr, hinted));
            }
        }
    }

    /// Changes the conditions and the like of some endpoints, in all slices that hold them.
    fn change_endpoints(&mut self, admin: &Admin, name: &str) -> Result<()> {
        let hinted = self.rng.u8(..3);
        // Now and then all are alike: all terminating, all with hints.
        let alike = self.rng.u8(..4) == 0;
        let Some(service) = self.services.get_mut(name) else { return Ok(()) };
        let conditions = conditions(&mut self.rng);
        let mut changed = Vec::new();
        for (addr, old) in &mut service.endpoints {
            if alike || self.rng.u8(..3) == 0 {
                *old = endpoint(&mut self.rng, *addr, hinted);
                if alike {
                    old["conditions"] = conditions.clone();
                }
            }
        }
        for (slice, object) in &service.slices {
            let mut new = object.clone();
            for held in new["endpoints"].as_array_mut().into_iter().flatten() {
                let addr = held["addresses"][0].as_str().and_then(|addr| addr.parse().ok());
                if let Some(now) = addr.and_then(|addr: IpAddr| service.endpoints.get(&addr)) {
                    *held = now.clone();
                }
            }
            if new != *object {
                changed.push((slice.clone(), new));
            }
        }
        for (slice, object) in changed {
            self.put_slice(admin, name, &slice, object)?;
        }
        Ok(())
    }

    /// Moves an endpoint to another slice, which for a moment leaves it in both or in none.
    fn move_endpoint(&mut self, admin: &Admin, name: &str) -> Result<()> {
        let Some(service) = self.services.get(name) else { return Ok(()) };
        let all: Vec<_> = service.slices.iter().filter(|(_, slice)| slice["addressType"] != "FQDN").collect();
        if all.len() < 2 {
            return Ok(());
        }
        let (from, to) = (self.rng.usize(..all.len()), self.rng.usize(..all.len()));
        let ((from_name, from), (to_name, to)) = (all[from], all[to]);
        if from["addressType"] != to["addressType"] || from_name == to_name {
            return Ok(());
        }
        let (mut from, mut to) = (from.clone(), to.clone());
        let (from_name, to_name) = (from_name.clone(), to_name.clone());
        let Some(endpoints) = from["endpoints"].as_array_mut() else { return Ok(()) };
        if endpoints.is_empty() {
            return Ok(());
        }
        let moved = endpoints.remove(self.rng.usize(..endpoints.len()));
        if let Some(endpoints) = to["endpoints"].as_array_mut() {
            endpoints.push(moved);
        }
        match self.rng.u8(..3) {
            0 => {
                self.put_slice(admin, name, &from_name, from)?;
                self.put_slice(admin, name, &to_name, to)
            }
            1 => {
                self.put_slice(admin, name, &to_name, to)?;
                self.put_slice(admin, name, &from_name, from)
            }
            // It stays in both.
            _ => self.put_slice(admin, name, &to_name, to),
        }
    }
}

fn endpoint(rng: &mut Rng, addr: IpAddr, hinted: u8) -> Value {
    let mut endpoint = json!({"addresses": [addr], "conditions": conditions(rng)});
    if let Some(node) = *pick(rng, &[None, Some("node-1"), Some("node-1"), Some("node-2"), Some("node-3")]) {
        endpoint["nodeName"] = json!(node);
    }
    let mut hints = Map::new();
    if hinted > 0 && rng.u8(..20) > 0 {
        hints.insert("forZones".to_owned(), names(rng, &["zone-a", "zone-b", "zone-c"]));
    }
    if hinted > 1 && rng.u8(..20) > 0 {
        hints.insert("forNodes".to_owned(), names(rng, &["node-1", "node-2", "node-3"]));
    }
    if !hints.is_empty() {
        endpoint["hints"] = hints.into();
    }
    endpoint
}

fn conditions(rng: &mut Rng) -> Value {
    let mut conditions = Map::new();
    let absent_or = |rng: &mut Rng, odds: [u8; 2]| match rng.u8(..10) {
        n if n < odds[0] => None,
        n if n < odds[1] => Some(true),
        _ => Some(false),
    };
    for (name, odds) in [("ready", [3, 8]), ("serving", [3, 8]), ("terminating", [3, 6])] {
        if let Some(value) = absent_or(rng, odds) {
            conditions.insert(name.to_owned(), json!(value));
        }
    }
    conditions.into()
}

/// One of them, or two.
fn names(rng: &mut Rng, all: &[&str]) -> Value {
    let first = rng.usize(..all.len());
    let mut names = vec![json!({"name": all[first]})];
    if rng.u8(..4) == 0 {
        names.push(json!({"name": all[(first + 1) % all.len()]}));
    }
    names.into()
}

fn pick<'a, T>(rng: &mut Rng, all: &'a [T]) -> &'a T {
    &all[rng.usize(..all.len())]
}

/// Without what only we know of it.
fn sendable(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("number");
    }
    object
}
