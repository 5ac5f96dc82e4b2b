//! A real kube-apiserver.

use std::{fs, net::IpAddr, time::{Duration, Instant}};

use anyhow::Result;
use balancer_tests::{
    agent::{Agent, AgentOptions},
    apiserver::{AGENT_ACCOUNT, AGENT_NAMESPACE, RealServer, kubeconfig::Credential, objects, rbac_file},
    topology::{Topology, service_v4},
};

#[test]
fn smoke() -> Result<()> {
    let topology = Topology::new()?;
    let begun = Instant::now();
    let server = RealServer::start(&topology)?;
    eprintln!("ready after {:?}", begun.elapsed());
    let admin = server.admin();
    admin.create(&objects::namespace(AGENT_NAMESPACE))?;
    admin.create(&objects::namespace(objects::NAMESPACE))?;
    admin.create(&objects::node("node-1", "a"))?;
    admin.create_yaml(&rbac_file())?;
    let token = admin.token(AGENT_NAMESPACE, AGENT_ACCOUNT)?;
    let file = server.dir().join("token");
    fs::write(&file, token)?;
    let config = server.dir().join("kubeconfig");
    fs::write(&config, server.kubeconfig(&Credential::TokenFile(&file)).to_string())?;
    let mut agent = Agent::of_cluster(&topology, &config, AgentOptions::default())?;
    agent.spawn()?;
    agent.wait_ready()?;
    admin.create(&objects::service("web", service_v4(300).into(), 80))?;
    let a: IpAddr = "10.244.9.1".parse()?;
    admin.create(&objects::slice("web", "x", 8080, &[a]))?;
    std::thread::sleep(Duration::from_secs(2));
    eprintln!("{}", agent.log());
    eprintln!("{}", agent.print(["stats", "-A"])?);
    eprintln!("{}", agent.json(["services", "-A"])?);
    Ok(())
}
