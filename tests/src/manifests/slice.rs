//! EndpointSlices.

use std::net::IpAddr;

use anyhow::Result;
use balancer_userspace::model::Protocol;

use super::{ManifestDir, Object, file, line, ports, slice_name};
use crate::topology::Pod;

/// An EndpointSlice under construction.
#[derive(Debug)]
#[must_use = "nothing is written before write()"]
pub struct Slice<'a> {
    pub(super) dir: &'a ManifestDir,
    pub(super) object: Object,
    pub(super) ports: Vec<(String, Protocol, u16)>,
    pub(super) endpoints: Vec<Endpoint>,
}

/// Both `addressType`s.
pub(super) const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

impl Slice<'_> {
    /// A port.
    pub fn port(mut self, name: &str, protocol: Protocol, port: u16) -> Self {
        self.ports.push((name.into(), protocol, port));
        self
    }

    /// An endpoint.
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// A pod with both of its addresses, ready.
    pub fn pod(self, pod: &Pod) -> Self {
        let both = pod.addresses().both();
        both.into_iter().fold(self, |slice, addr| slice.endpoint(Endpoint::ready(addr).pod(pod.name())))
    }

    /// Another name than that of its Service, which may then have several.
    pub fn named(mut self, name: &str) -> Self {
        self.object.name = name.into();
        self
    }

    /// An annotation, such as `balancer.dev/weight`.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.object.annotations.push((key.into(), value.into()));
        self
    }

    /// The manifest of one family.
    pub fn yaml(&self, family: &str) -> String {
        let name = slice_name(&self.object.name, family);
        let mut text = self.object.head("discovery.k8s.io/v1", "EndpointSlice", &name);
        line(&mut text, 0, "addressType", family);
        ports(&mut text, 0, &self.ports);
        let mut endpoints = String::new();
        for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.family() == family) {
            endpoint.yaml(&mut endpoints);
        }
        text.push_str(if endpoints.is_empty() { "endpoints: []\n" } else { "endpoints:\n" });
        text.push_str(&endpoints);
        text
    }

    /// Puts a file of each family in the directory, in place of older versions. A family that has no endpoints and had no file gets
    /// none.
    pub fn write(self) -> Result<()> {
        for family in FAMILIES {
            let name = slice_name(&self.object.name, family);
            let name = file("slice", (&self.object.namespace, &name));
            let empty = !self.endpoints.iter().any(|endpoint| endpoint.family() == family);
            if !(empty && !self.dir.path.join(&name).exists()) {
                self.dir.put(&name, &self.yaml(family))?;
            }
        }
        Ok(())
    }
}

/// An entry of a slice.
#[derive(Clone, Debug)]
pub struct Endpoint {
    addr: IpAddr,
    conditions: [bool; 3],
    pod: Option<String>,
    node: Option<String>,
    zone: Option<String>,
    zone_hints: Vec<String>,
}

impl Endpoint {
    /// Ready and serving.
    pub fn ready(addr: impl Into<IpAddr>) -> Self {
        Self::with(addr.into(), [true, true, false])
    }

    /// Neither ready nor serving.
    pub fn not_ready(addr: impl Into<IpAddr>) -> Self {
        Self::with(addr.into(), [false, false, false])
    }

    /// Serving, and on its way out.
    pub fn terminating(addr: impl Into<IpAddr>) -> Self {
        Self::with(addr.into(), [false, true, true])
    }

    const fn with(addr: IpAddr, conditions: [bool; 3]) -> Self {
        Self { addr, conditions, pod: None, node: None, zone: None, zone_hints: Vec::new() }
    }

    /// `targetRef` to a pod.
    #[must_use]
    pub fn pod(self, name: &str) -> Self {
        Self { pod: Some(name.into()), ..self }
    }

    /// `nodeName`.
    #[must_use]
    pub fn node(self, name: &str) -> Self {
        Self { node: Some(name.into()), ..self }
    }

    /// `zone`.
    #[must_use]
    pub fn zone(self, name: &str) -> Self {
        Self { zone: Some(name.into()), ..self }
    }

    /// `hints.forZones`.
    #[must_use]
    pub fn for_zones<'z>(self, zones: impl IntoIterator<Item = &'z str>) -> Self {
        Self { zone_hints: zones.into_iter().map(str::to_owned).collect(), ..self }
    }

    const fn family(&self) -> &'static str {
        FAMILIES[self.addr.is_ipv6() as usize]
    }

    fn yaml(&self, text: &mut String) {
        let [ready, serving, terminating] = self.conditions;
        text.push_str(&format!("- addresses: [\"{}\"]\n", self.addr));
        text.push_str(&format!(
            "  conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}\n"
        ));
        if let Some(pod) = &self.pod {
            text.push_str("  targetRef:\n    kind: Pod\n");
            line(text, 2, "name", pod);
        }
        for (key, value) in [("nodeName", &self.node), ("zone", &self.zone)] {
            if let Some(value) = value {
                line(text, 1, key, value);
            }
        }
        if !self.zone_hints.is_empty() {
            let zones: Vec<String> =
                self.zone_hints.iter().map(|zone| format!("{{name: \"{zone}\"}}")).collect();
            text.push_str(&format!("  hints: {{forZones: [{}]}}\n", zones.join(", ")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_has_the_endpoints_of_its_family() {
        let dir = ManifestDir::at("/nowhere");
        let v6: IpAddr = "fd00:10:244::2".parse().unwrap();
        let slice = dir
            .slice("web")
            .port("", Protocol::Udp, 53)
            .endpoint(Endpoint::terminating(std::net::Ipv4Addr::new(10, 244, 0, 2)).pod("web-1"))
            .endpoint(Endpoint::ready(v6).node("n1").zone("a").for_zones(["a", "b"]));
        let expected = r#"apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: "web-ipv4"
  namespace: "default"
  labels:
    kubernetes.io/service-name: "web"
addressType: "IPv4"
ports:
- name: ""
  protocol: UDP
  port: 53
endpoints:
- addresses: ["10.244.0.2"]
  conditions: {ready: false, serving: true, terminating: true}
  targetRef:
    kind: Pod
    name: "web-1"
"#;
        assert_eq!(slice.yaml("IPv4"), expected);
        let v6 = slice.yaml("IPv6");
        assert!(v6.contains("fd00:10:244::2") && !v6.contains("10.244.0.2"), "{v6}");
        assert!(v6.ends_with(
            "  nodeName: \"n1\"\n  zone: \"a\"\n  hints: {forZones: [{name: \"a\"}, {name: \"b\"}]}\n"
        ));
    }
}
