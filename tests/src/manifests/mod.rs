//! A directory of Service and EndpointSlice manifests, written as an operator's tools would write it: whole files, renamed into place.

mod slice;

use std::{
    fmt::Write as _,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use balancer_userspace::model::Protocol;

use self::slice::FAMILIES;
pub use self::slice::{Endpoint, Slice};
use crate::topology::{Pod, Scratch};

/// The directory. One that it made is removed on drop.
#[derive(Debug)]
pub struct ManifestDir {
    path: PathBuf,
    _scratch: Option<Scratch>,
}

impl ManifestDir {
    /// A new, empty one.
    pub fn new() -> Result<Self> {
        let scratch = Scratch::files()?;
        Ok(Self { path: scratch.path().to_owned(), _scratch: Some(scratch) })
    }

    /// One that exists and stays.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), _scratch: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Begins a Service, `namespace/name`; [`Service::write`] writes it.
    pub fn service(&self, name: &str) -> Service<'_> {
        let (namespace, name) = split(name);
        Service { dir: self, object: Object::new(namespace, name), spec: Vec::new(), ports: Vec::new() }
    }

    /// Begins an EndpointSlice of a Service; [`Slice::write`] writes it, as one file for each address family.
    pub fn slice(&self, service: &str) -> Slice<'_> {
        let (namespace, service) = split(service);
        let object = Object::new(namespace, service).label("kubernetes.io/service-name", service);
        Slice { dir: self, object, ports: Vec::new(), endpoints: Vec::new() }
    }

    /// Writes the slices of a Service with one unnamed TCP port, so that its endpoints are these pods, all ready. Pods are listed
    /// with both addresses.
    pub fn backends<'p>(
        &self,
        service: &str,
        port: u16,
        pods: impl IntoIterator<Item = &'p Pod>,
    ) -> Result<()> {
        let slice = self.slice(service).port("", Protocol::Tcp, port);
        pods.into_iter().fold(slice, Slice::pod).write()
    }

    /// Like [`ManifestDir::backends`], of bare addresses.
    pub fn addresses(
        &self,
        service: &str,
        port: u16,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Result<()> {
        let slice = self.slice(service).port("", Protocol::Tcp, port);
        addresses.into_iter().fold(slice, |slice, addr| slice.endpoint(Endpoint::ready(addr))).write()
    }

    /// Removes a Service; its slices stay.
    pub fn remove_service(&self, service: &str) -> Result<()> {
        self.remove(&file("service", split(service)))
    }

    /// Removes the slices of a Service.
    pub fn remove_slices(&self, service: &str) -> Result<()> {
        let (namespace, name) = split(service);
        for family in FAMILIES {
            self.remove(&file("slice", (namespace, &slice_name(name, family))))?;
        }
        Ok(())
    }

    /// Puts a file in place at once: whoever looks sees the old one or the new one whole.
    pub fn put(&self, file: &str, text: &str) -> Result<()> {
        let path = self.path.join(file);
        let draft = self.path.join(format!(".{file}.draft"));
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| path.display().to_string())
    }

    /// Removes a file; gone already is fine.
    pub fn remove(&self, file: &str) -> Result<()> {
        let path = self.path.join(file);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| path.display().to_string())
            }
            _ => Ok(()),
        }
    }
}

/// What every object has.
#[derive(Debug)]
struct Object {
    namespace: String,
    name: String,
    labels: Vec<(String, String)>,
    annotations: Vec<(String, String)>,
}

impl Object {
    fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into(), labels: Vec::new(), annotations: Vec::new() }
    }

    fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }

    /// `apiVersion`, `kind` and `metadata`.
    fn head(&self, api: &str, kind: &str, name: &str) -> String {
        let mut text = format!("apiVersion: {api}\nkind: {kind}\nmetadata:\n");
        line(&mut text, 1, "name", name);
        line(&mut text, 1, "namespace", &self.namespace);
        for (title, map) in [("labels", &self.labels), ("annotations", &self.annotations)] {
            if !map.is_empty() {
                text.push_str(&format!("  {title}:\n"));
            }
            for (key, value) in map {
                line(&mut text, 2, key, value);
            }
        }
        text
    }
}

/// A Service under construction.
#[derive(Debug)]
#[must_use = "nothing is written before write()"]
pub struct Service<'a> {
    dir: &'a ManifestDir,
    object: Object,
    /// Lines of `spec` that take one line.
    spec: Vec<(String, String)>,
    ports: Vec<(String, Protocol, u16)>,
}

impl Service<'_> {
    /// `clusterIP` and `clusterIPs`, one or one of each family.
    pub fn cluster_ips(mut self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let addresses: Vec<String> = addresses.into_iter().map(|addr| format!("\"{addr}\"")).collect();
        if let Some(first) = addresses.first() {
            self.spec.push(("clusterIP".into(), first.clone()));
            self.spec.push(("clusterIPs".into(), format!("[{}]", addresses.join(", "))));
        }
        self
    }

    /// `clusterIP` and `clusterIPs` of one family.
    pub fn cluster_ip(self, addr: impl Into<IpAddr>) -> Self {
        self.cluster_ips([addr.into()])
    }

    /// The only port: TCP, without a name.
    pub fn port(self, port: u16) -> Self {
        self.named_port("", Protocol::Tcp, port)
    }

    /// A port.
    pub fn named_port(mut self, name: &str, protocol: Protocol, port: u16) -> Self {
        self.ports.push((name.into(), protocol, port));
        self
    }

    /// A label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.object = self.object.label(key, value);
        self
    }

    /// An annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.object.annotations.push((key.into(), value.into()));
        self
    }

    /// Annotation `balancer.dev/algorithm`.
    pub fn algorithm(self, name: &str) -> Self {
        self.annotation("balancer.dev/algorithm", name)
    }

    /// `sessionAffinity: ClientIP` with a time-out.
    pub fn affinity(self, seconds: u32) -> Self {
        self.spec("sessionAffinity", "ClientIP")
            .spec("sessionAffinityConfig", &format!("{{clientIP: {{timeoutSeconds: {seconds}}}}}"))
    }

    /// Any other field of `spec`, the value as it stands in YAML on one line.
    pub fn spec(mut self, key: &str, yaml: &str) -> Self {
        self.spec.push((key.into(), yaml.into()));
        self
    }

    /// The manifest.
    pub fn yaml(&self) -> String {
        let mut text = self.object.head("v1", "Service", &self.object.name);
        text.push_str("spec:\n");
        for (key, yaml) in &self.spec {
            text.push_str(&format!("  {key}: {yaml}\n"));
        }
        ports(&mut text, 1, &self.ports);
        text
    }

    /// Puts it in the directory, in place of an older version.
    pub fn write(self) -> Result<()> {
        let name = file("service", (&self.object.namespace, &self.object.name));
        self.dir.put(&name, &self.yaml())
    }
}

/// `key: "value"`, quoted as JSON, which YAML reads too.
fn line(text: &mut String, depth: usize, key: &str, value: &str) {
    let quoted = serde_json::Value::from(value);
    // Writing to a string cannot fail.
    _ = writeln!(text, "{:width$}{key}: {quoted}", "", width = 2 * depth);
}

fn ports(text: &mut String, depth: usize, ports: &[(String, Protocol, u16)]) {
    let indent = "  ".repeat(depth);
    text.push_str(&format!("{indent}ports:{}\n", if ports.is_empty() { " []" } else { "" }));
    for (name, protocol, port) in ports {
        text.push_str(&format!(
            "{indent}- name: \"{name}\"\n{indent}  protocol: {protocol}\n{indent}  port: {port}\n"
        ));
    }
}

fn slice_name(service: &str, family: &str) -> String {
    format!("{service}-{}", family.to_ascii_lowercase())
}

fn file(kind: &str, (namespace, name): (&str, &str)) -> String {
    format!("{namespace}.{name}.{kind}.yaml")
}

/// Namespace and name; without a slash the namespace is `default`.
fn split(name: &str) -> (&str, &str) {
    name.split_once('/').unwrap_or(("default", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_reads_as_written_by_hand() {
        let dir = ManifestDir::at("/nowhere");
        let service = dir
            .service("shop/web")
            .cluster_ips(["10.96.0.10".parse().unwrap(), "fd00:10:96::10".parse().unwrap()])
            .named_port("http", Protocol::Tcp, 80)
            .algorithm("round-robin")
            .affinity(60);
        let expected = r#"apiVersion: v1
kind: Service
metadata:
  name: "web"
  namespace: "shop"
  annotations:
    balancer.dev/algorithm: "round-robin"
spec:
  clusterIP: "10.96.0.10"
  clusterIPs: ["10.96.0.10", "fd00:10:96::10"]
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  ports:
  - name: "http"
    protocol: TCP
    port: 80
"#;
        assert_eq!(service.yaml(), expected);
    }
}
