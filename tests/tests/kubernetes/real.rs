//! What only a real API server does: etcd stands still or is restored beneath it, objects are validated.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use balancer_tests::{
    agent::{Agent, AgentOptions},
    apiserver::{ApiServer as _, Part, RealServer, code, kubeconfig::Credential, objects},
    topology::{Topology, service_v4},
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::lab::{Lab, PATIENCE, TIMEOUT, pod};

#[test]
fn etcd_stands_still() -> Result<()> {
    let topology = Topology::new()?;
    let mut lab = Lab::start(&topology, RealServer::start(&topology)?, &["--relist", "10s"])?;
    let pid = lab.agent.process()?.id();
    lab.server.signal(Part::Etcd, Signal::STOP)?;
    // Watches stay open, and the periodic list hangs or fails.
    lab.stays(&lab.wanted, TIMEOUT * 8)?;
    ensure!(lab.metric("balancer_source_errors_total")? >= 1.0, "{}", lab.agent.log());
    lab.server.signal(Part::Etcd, Signal::CONT)?;
    // The API server needs a while.
    let mut written = lab.set("web", &[5]);
    for _ in 0..20 {
        if written.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_secs(1));
        written = lab.set("web", &[5]);
    }
    written?;
    lab.expect(PATIENCE)?;
    lab.runs(pid)
}

/// An API server whose etcd is restored beneath it goes on serving lists out of its own memory; that is why it has to be
/// restarted then. Until it is, the agent has what the API server says; after that, what is true.
#[test]
fn etcd_restored_beneath_the_api_server() -> Result<()> {
    let topology = Topology::new()?;
    let mut lab = Lab::start(&topology, RealServer::start(&topology)?, &["--relist", "10s"])?;
    lab.server.save()?;
    let saved = lab.wanted.clone();
    for n in 10..30 {
        lab.set("web", &[n])?;
    }
    lab.expect(PATIENCE)?;
    lab.server.restore_etcd()?;
    // Longer than a full list takes to be due.
    let deadline = Instant::now() + Duration::from_secs(14);
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_secs(1));
        let view = lab.view()?;
        ensure!(view == lab.wanted || view == saved, "{view:?}");
    }
    let slices =
        lab.admin().request("GET", "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices", None)?;
    println!("the API server lists {}", slices["items"][1]["endpoints"][0]["addresses"]);
    lab.server.stop()?;
    lab.server.start()?;
    lab.wanted = saved;
    lab.expect(PATIENCE)?;
    Ok(())
}

#[test]
fn etcd_forgets_its_history() -> Result<()> {
    let topology = Topology::new()?;
    let mut lab = Lab::start(&topology, RealServer::start(&topology)?, &[])?;
    for n in 10..20 {
        lab.set("web", &[n])?;
    }
    lab.expect(PATIENCE)?;
    lab.agent.process()?.signal(Signal::STOP)?;
    for n in 20..40 {
        lab.set("web", &[n])?;
    }
    lab.server.stop()?;
    lab.server.compact()?;
    lab.server.start()?;
    lab.agent.process()?.signal(Signal::CONT)?;
    lab.expect(PATIENCE)?;
    ensure!(lab.lines(" WARN ").iter().all(|line| !line.contains("410")), "{}", lab.agent.log());
    Ok(())
}

#[test]
fn a_client_certificate_that_expired() -> Result<()> {
    let topology = Topology::new()?;
    let server = RealServer::start(&topology)?;
    let path = |name: &str| server.dir().join(name);
    let config = path("kubeconfig-expired");
    let start = |name: &str| -> Result<Agent<'_>> {
        let (certificate, key) = (path(&format!("{name}.crt")), path(&format!("{name}.key")));
        let credential = Credential::CertificateFiles { certificate: &certificate, key: &key };
        fs::write(&config, server.kubeconfig(&credential).to_string())?;
        let mut agent = Agent::of_cluster(&topology, &config, AgentOptions::default())?;
        agent.spawn()?;
        Ok(agent)
    };
    let agent = start("expired")?;
    std::thread::sleep(Duration::from_secs(3));
    let log = agent.log();
    ensure!(
        log.contains("401") && log.contains("kubeconfig-expired says we are") && log.contains("expired"),
        "{log}"
    );
    drop(agent);
    start("masters")?.wait_ready()
}

/// Objects on the border of what an API server accepts, and beyond. Both servers are asked; `None` is accepted.
fn borders() -> Vec<(&'static str, Value, Option<u16>)> {
    let with = |name: &str, n: u16, change: &dyn Fn(&mut Value)| {
        let mut object = objects::service(name, service_v4(n).into(), 80);
        change(&mut object);
        object
    };
    let ports: Vec<Value> =
        (1..=1_000).map(|n| json!({"name": format!("p{n}"), "port": n, "protocol": "TCP"})).collect();
    let mut many = objects::slice("web", "many", 8080, &(0..1_000).map(pod).collect::<Vec<_>>());
    many["metadata"]["labels"]["kubernetes.io/service-name"] = json!("full");
    let mut annotated = objects::slice("web", "big", 8080, &[pod(1)]);
    annotated["metadata"]["labels"]["kubernetes.io/service-name"] = json!("full");
    annotated["metadata"]["annotations"] = json!({"note": "x".repeat(256 * 1024 - 4)});
    vec![
        ("1,000 ports", with("thousand", 900, &|object| object["spec"]["ports"] = json!(ports)), None),
        (
            "annotations of 256 KiB",
            with("big", 901, &|object| {
                object["metadata"]["annotations"] = json!({"note": "x".repeat(256 * 1024 - 4)});
            }),
            None,
        ),
        (
            "a byte more",
            with("bigger", 902, &|object| {
                object["metadata"]["annotations"] = json!({"note": "x".repeat(256 * 1024 - 3)});
            }),
            Some(422),
        ),
        (
            "unicode in an annotation",
            with("unicode", 903, &|object| {
                object["metadata"]["annotations"] =
                    json!({"balancer.dev/algorithm": "läst-cönnections \u{202e}\u{1f980}"});
            }),
            None,
        ),
        ("a name of 63 letters", with(&"a".repeat(63), 904, &|_| {}), None),
        ("1,000 endpoints in a slice", many, None),
        ("a slice with annotations of 256 KiB", annotated, None),
    ]
}

pub fn on_the_border(lab: &mut Lab<'_, impl balancer_tests::apiserver::ApiServer>) -> Result<()> {
    let pid = lab.agent.process()?.id();
    for (what, object, refused) in borders() {
        let found = lab.admin().create(&object).err();
        let found = found.map(|error| code(&error).with_context(|| format!("{error:#}"))).transpose()?;
        ensure!(found == refused, "{what}: {found:?} instead of {refused:?}");
        if refused.is_none() && object["kind"] == "Service" {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            lab.wanted.insert(name.to_owned(), Default::default());
        }
    }
    lab.expect(PATIENCE)?;
    let ports = lab.agent.stats()?.iter().filter(|service| service.name == "thousand").count();
    ensure!(ports == 1_000, "{ports} ports");
    lab.set("web", &[8])?;
    lab.expect(PATIENCE)?;
    lab.runs(pid)
}

#[test]
fn objects_on_the_border() -> Result<()> {
    let topology = Topology::new()?;
    on_the_border(&mut Lab::start(&topology, RealServer::start(&topology)?, &[])?)
}
