//! Cases in `testdata/resolve`: objects as YAML in, what becomes of them as a table out.
//!
//! The documents of a case are applied one after another. Beside Services and EndpointSlices there are
//! - `select: annotated`: the agent balances what asks for it, and nothing else; the first document;
//! - `node: {name: n1, zone: a}`: the node is read;
//! - `gone: Service default/web` (or `EndpointSlice …`): an object is deleted;
//! - `step: what just happened`: everything dirty is resolved and written down.
//!
//! `UPDATE_GOLDEN=1 cargo nextest run` writes the tables anew.

use std::{collections::BTreeMap, env, fmt::Write as _, fs, path::Path};

use balancer_common::abi::Algorithm;
use k8s_openapi::{api::core::v1::Namespace, serde::de::DeserializeOwned};
use serde::Deserialize;
use serde_json::Value;

use crate::model::{
    Condition, ConnectionSettings, Defaults, Departure, DesiredPort, Event, Index, NodeInfo, ObjectName,
    Selection, convert,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    name: String,
    zone: Option<String>,
}

/// An index, and what a reconciler that follows it has in the kernel.
struct Case {
    index: Index,
    kernel: BTreeMap<ObjectName, Vec<DesiredPort>>,
    skipped: Vec<String>,
    out: String,
}

fn read<T: DeserializeOwned>(document: Value) -> T {
    serde_json::from_value(document).unwrap()
}

fn new_index(selection: Selection) -> Index {
    let connections = ConnectionSettings::default();
    Index::new(Defaults { algorithm: Algorithm::LeastConnections, connections, selection, started_ms: 0 })
}

fn object_name(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap();
    ObjectName::new(namespace, name)
}

impl Case {
    fn apply(&mut self, document: Value) {
        if let Some(title) = document.get("step") {
            return self.step(title.as_str().unwrap());
        }
        if let Some(gone) = document.get("gone") {
            let (kind, name) = gone.as_str().unwrap().split_once(' ').unwrap();
            return self.index.apply(match kind {
                "Service" => Event::ServiceGone(object_name(name)),
                "EndpointSlice" => Event::SliceGone(object_name(name)),
                "Namespace" => Event::NamespaceGone(name.into()),
                other => panic!("kind {other}"),
            });
        }
        if let Some(node) = document.get("node") {
            let node: Node = read(node.clone());
            return self
                .index
                .apply(Event::Node(NodeInfo { name: node.name.into(), zone: node.zone.map(Into::into) }));
        }
        if let Some(select) = document.get("select") {
            assert_eq!(select, "annotated");
            return self.index = new_index(Selection::Annotated);
        }
        let kind = document["kind"].as_str().unwrap().to_owned();
        let name = format!("{kind} {}", document["metadata"]["name"].as_str().unwrap_or_default());
        let event = match kind.as_str() {
            "Service" => convert::service_spec(&read(document)).map(|spec| Event::Service(Box::new(spec))),
            "EndpointSlice" => convert::slice_spec(&read(document)).map(|spec| Event::Slice(Box::new(spec))),
            "Namespace" => {
                convert::namespace_spec(&read::<Namespace>(document).metadata).map(Event::Namespace)
            }
            other => panic!("kind {other}"),
        };
        match event {
            Ok(event) => self.index.apply(event),
            Err(skip) => self.skipped.push(format!("{name}: {skip}")),
        }
    }

    fn step(&mut self, title: &str) {
        let _ = writeln!(self.out, "== {title}");
        for skipped in self.skipped.drain(..) {
            let _ = writeln!(self.out, "skipped {skipped}");
        }
        let dirty = self.index.take_dirty();
        let names: Vec<_> = dirty.iter().map(|dirty| dirty.service.to_string()).collect();
        let _ = writeln!(self.out, "dirty: {}", names.join(" "));
        for dirty in dirty {
            let ports = self.index.resolve(&dirty.service);
            self.kernel.insert(dirty.service, ports);
        }
        for port in self.kernel.values().flatten() {
            port_table(&mut self.out, port);
        }
        let mut lines: Vec<_> = self
            .index
            .excluded()
            .map(|(name, reason)| format!("excluded {name}: {}", reason.name()))
            .collect();
        lines.extend(self.index.problems().map(|(name, problem)| format!("problem {name}: {problem}")));
        let namespaces = self.index.namespace_problems();
        lines.extend(namespaces.map(|(name, problem)| format!("problem Namespace {name}: {problem}")));
        // By name; problems of one Service stay in their order.
        lines.sort_by_key(|line| line.split(": ").next().map(str::to_owned));
        for line in lines {
            let _ = writeln!(self.out, "{line}");
        }
        let counts = self.index.counts();
        if counts.orphan_slices > 0 {
            let _ = writeln!(self.out, "orphan slices: {}", counts.orphan_slices);
        }
        self.out.push('\n');
    }
}

fn port_table(out: &mut String, port: &DesiredPort) {
    let _ = write!(out, "{} -> {} {}", port.frontend, port.key, port.algorithm.name());
    if let Some(affinity) = port.affinity {
        let _ = write!(out, " affinity {}s", affinity.as_secs());
    }
    out.push('\n');
    if port.connections != ConnectionSettings::default().of_port(port.key.protocol) {
        let ConnectionSettings {
            slow_start_ms,
            rebalance,
            quiet_ms,
            min_age_ms,
            budget_percent,
            trust,
            drain,
            removed,
        } = port.connections;
        let _ = writeln!(
            out,
            "    slow start {slow_start_ms} ms; rebalance {} quiet {quiet_ms} ms age {min_age_ms} ms budget \
             {budget_percent}% {}; drain {}; removed {removed:?}",
            rebalance.name(),
            trust.name(),
            drain.name()
        );
    }
    if let Some(problem) = &port.problem {
        let _ = writeln!(out, "    ! {problem}");
    }
    for backend in &port.backends {
        let addr = std::net::SocketAddr::new(backend.addr, backend.port);
        let _ = write!(out, "    {addr} weight {}", backend.weight);
        if backend.condition == Condition::Terminating {
            let _ = write!(out, " terminating");
        }
        for (label, value) in [("pod", &backend.pod), ("node", &backend.node), ("zone", &backend.zone)] {
            if let Some(value) = value {
                let _ = write!(out, " {label} {value}");
            }
        }
        out.push('\n');
    }
    for endpoint in port.departing.iter().flatten() {
        let _ = match endpoint.port {
            Some(port) => write!(out, "    - {}", std::net::SocketAddr::new(endpoint.addr, port)),
            None => write!(out, "    - {} without the port", endpoint.addr),
        };
        let _ = match endpoint.departure {
            Departure::Draining => write!(out, " draining"),
            Departure::Unused => write!(out, " unused"),
        };
        if let Some(pod) = &endpoint.pod {
            let _ = write!(out, " pod {pod}");
        }
        out.push('\n');
    }
}

/// Runs `testdata/resolve/NAME.yaml` and compares with `NAME.txt` beside it.
fn check(name: &str) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/resolve");
    let yaml = fs::read_to_string(dir.join(name)).unwrap();
    let mut case = Case {
        index: new_index(Selection::All),
        kernel: BTreeMap::new(),
        skipped: Vec::new(),
        out: String::new(),
    };
    for document in serde_saphyr::from_multiple::<Value>(&yaml).unwrap() {
        case.apply(document);
    }
    assert!(!case.index.has_dirty(), "{name} does not end with a step");
    let golden = dir.join(name).with_extension("txt");
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &case.out).unwrap();
    }
    let expect = fs::read_to_string(&golden).unwrap_or_default();
    assert!(
        case.out == expect,
        "{name} differs from {}; UPDATE_GOLDEN=1 writes it anew. Now:\n{}",
        golden.display(),
        case.out
    );
}

macro_rules! cases {
    ($($test:ident $file:literal),+ $(,)?) => {
        $(#[test] fn $test() { check($file); })+

        #[test]
        fn every_case_is_run() {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/resolve");
            let mut found: Vec<_> = fs::read_dir(dir)
                .unwrap()
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .filter(|name| name.ends_with(".yaml"))
                .collect();
            found.sort();
            let mut known = vec![$($file.to_owned()),+];
            known.sort();
            assert_eq!(found, known);
        }
    };
}

cases! {
    basic "basic.yaml",
    dual_stack "dual-stack.yaml",
    same_port_tcp_and_udp "tcp-and-udp.yaml",
    named_target_ports "named-target-ports.yaml",
    moving_endpoints "moving-endpoints.yaml",
    conditions "conditions.yaml",
    local_policy "local-policy.yaml",
    hints "hints.yaml",
    same_address "same-address.yaml",
    recreated "recreated.yaml",
    annotations "annotations.yaml",
    connections "connections.yaml",
    departing "departing.yaml",
    excluded "excluded.yaml",
    namespaces "namespaces.yaml",
    worked_cases "worked-cases.yaml",
    particulars "particulars.yaml",
    select_annotated "select-annotated.yaml",
    bad_input "bad-input.yaml",
}
