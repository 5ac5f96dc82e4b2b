//! What applications see with both.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use balancer_tests::{
    agent::{AgentOptions, Dialled},
    apiserver::objects::NAMESPACE,
    kubeproxy::{Mode, Verdict},
    peer::{
        Client, Server,
        protocol::{Ask, Kind, LoopPlan, Setting, Until},
    },
    topology::{Pod, Topology, service_v4, service_v6},
};
use balancer_userspace::model::{Frontend, Protocol};
use rustix::io::Errno;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 8080;

#[test]
fn experiment_nftables() -> Result<()> {
    experiment(Mode::Nftables)
}

#[test]
fn experiment_iptables() -> Result<()> {
    experiment(Mode::Iptables)
}

fn vips(n: u16) -> [SocketAddr; 2] {
    [SocketAddr::new(service_v4(n + 10).into(), 80), SocketAddr::new(service_v6(n + 10).into(), 80)]
}

fn service(name: &str, n: u16) -> Value {
    let addresses = vips(n).map(|vip| vip.ip());
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "type": "ClusterIP", "clusterIP": addresses[0], "clusterIPs": addresses,
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            "ports": [
                {"name": "tcp", "port": 80, "protocol": "TCP", "targetPort": PORT},
                {"name": "udp", "port": 80, "protocol": "UDP", "targetPort": PORT},
            ],
        },
    })
}

fn slices(service: &str, endpoints: &[(&Pod, &str, Value)]) -> [Value; 2] {
    ["IPv4", "IPv6"].map(|family| {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(pod, node, conditions)| {
                let both = pod.addresses();
                let address: IpAddr = if family == "IPv4" { both.v4.into() } else { both.v6.into() };
                json!({"addresses": [address], "conditions": conditions, "nodeName": node})
            })
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{service}-{}", family.to_lowercase()), "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": family,
            "ports": [{"name": "tcp", "port": PORT, "protocol": "TCP"}, {"name": "udp", "port": PORT, "protocol": "UDP"}],
            "endpoints": endpoints,
        })
    })
}

struct World<'t> {
    cluster: Cluster<'t>,
    pods: Vec<Pod>,
    _servers: Vec<Server>,
}

impl World<'_> {
    fn publish(&self, service: &Value, endpoints: &[(usize, &str, Value)]) -> Result<()> {
        self.cluster.admin().apply(service)?;
        self.endpoints(service["metadata"]["name"].as_str().unwrap(), endpoints)
    }

    fn endpoints(&self, name: &str, endpoints: &[(usize, &str, Value)]) -> Result<()> {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|(pod, node, conditions)| (&self.pods[*pod], *node, conditions.clone()))
            .collect();
        for slice in slices(name, &endpoints) {
            self.cluster.admin().apply(&slice)?;
        }
        Ok(())
    }

    fn settled(&self, n: u16, want: impl Fn(&Option<Verdict>) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let rules = self.cluster.proxy.rules()?;
            let all: Vec<_> = vips(n)
                .into_iter()
                .flat_map(|vip| {
                    [Protocol::Tcp, Protocol::Udp].map(|protocol| Frontend {
                        addr: vip.ip(),
                        port: vip.port(),
                        protocol,
                    })
                })
                .map(|frontend| rules.get(&frontend).cloned())
                .collect();
            if all.iter().all(&want) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("kube-proxy says {all:?}\n{}", self.cluster.proxy.log_end());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn has(count: usize) -> impl Fn(&Option<Verdict>) -> bool {
    move |verdict| matches!(verdict, Some(Verdict::Endpoints { endpoints, .. }) if endpoints.len() == count)
}

/// (TCP, UDP connected, UDP not connected): who answered, or the error.
fn dial(client: &Client, to: SocketAddr) -> [String; 3] {
    let begun = Instant::now();
    let tcp = (|| -> Result<String> {
        let socket = client.socket(Kind::tcp(to))?;
        socket.set(Setting::Nonblocking)?;
        let done = match socket.connect(to) {
            Err(error) if error.errno() == Some(Errno::INPROGRESS) => {
                socket.finish(Duration::from_millis(500))
            }
            other => other,
        };
        done?;
        socket.set(Setting::Blocking)?;
        let peer = socket.peer()?;
        let id = socket.ask()?;
        ensure!(peer == to, "peer {peer}");
        Ok(format!("{} sees {}", id.pod, id.peer.ip()))
    })();
    let took = begun.elapsed();
    let udp = (|| -> Result<String> {
        let socket = client.socket(Kind::udp(to))?;
        socket.set(Setting::ReceiveTimeout(500))?;
        socket.connect(to)?;
        let id = socket.ask()?;
        Ok(format!("{} sees {}", id.pod, id.peer.ip()))
    })();
    let loose = (|| -> Result<String> {
        let socket = client.socket(Kind::udp(to))?;
        socket.set(Setting::ReceiveTimeout(500))?;
        socket.send_to(to)?;
        let (from, id) = socket.receive_from()?;
        ensure!(from == to, "from {from}");
        Ok(format!("{} sees {}", id.pod, id.peer.ip()))
    })();
    let say = |result: Result<String>| result.unwrap_or_else(|error| format!("ERR {error:#}"));
    [format!("{} ({took:?})", say(tcp)), say(udp), say(loose)]
}

fn experiment(mode: Mode) -> Result<()> {
    let topology = Topology::new()?;
    let begun = Instant::now();
    let cluster = Cluster::start(
        &topology,
        mode,
        AgentOptions { lease: Some(Duration::from_secs(2)), ..AgentOptions::default() },
    )?;
    eprintln!("started in {:?}", begun.elapsed());
    let pods = topology.pods("web", 3)?;
    let servers = pods.iter().map(|pod| pod.server(PORT)).collect::<Result<_>>()?;
    let client_pod = topology.pod("client")?;
    client_pod.route_services_to_node()?;
    for pod in &pods {
        pod.route_services_to_node()?;
    }
    let client = client_pod.client()?;
    let host = topology.host().client()?;
    let own = pods[0].client()?;
    let mut world = World { cluster, pods, _servers: servers };
    let ready = || json!({"ready": true});
    world.publish(
        &service("web", 1),
        &[(0, "node-1", ready()), (1, "node-1", ready()), (2, "node-2", ready())],
    )?;
    let mut out = service("out", 2);
    out["metadata"]["annotations"] = json!({"balancer.dev/enabled": "false"});
    world.publish(&out, &[(0, "node-1", ready()), (1, "node-1", ready()), (2, "node-2", ready())])?;
    world.publish(&service("none", 3), &[])?;
    let mut local = service("local", 4);
    local["spec"]["internalTrafficPolicy"] = json!("Local");
    world.publish(&local, &[(2, "node-2", ready())])?;
    let mut sticky = service("sticky", 5);
    sticky["spec"]["sessionAffinity"] = json!("ClientIP");
    world.publish(&sticky, &[(0, "node-1", ready()), (1, "node-1", ready()), (2, "node-2", ready())])?;
    let dying = || json!({"ready": false, "serving": true, "terminating": true});
    world.publish(
        &service("dying", 6),
        &[(0, "node-1", dying()), (1, "node-1", json!({"ready": false, "serving": false}))],
    )?;
    world.publish(&service("self", 7), &[(0, "node-1", ready())])?;
    world.settled(1, has(3))?;
    world.settled(2, has(3))?;
    world.settled(3, |v| *v == Some(Verdict::Reject))?;
    world.settled(4, |v| *v == Some(Verdict::Drop))?;
    world.settled(5, has(3))?;
    world.settled(6, has(1))?;
    world.settled(7, has(1))?;
    eprintln!("settled in {:?}", begun.elapsed());
    world.cluster.agent.wait_for(vips(7)[1], PATIENCE, |service| service.backends.len() == 1)?;
    let names = ["", "web", "out", "none", "local", "sticky", "dying", "self"];
    let all = |world: &World<'_>, title: &str| {
        eprintln!("=== {title}");
        for n in 1..=7u16 {
            for vip in vips(n) {
                let who: &[(&str, &Client)] =
                    if n == 7 { &[("own", &own)] } else { &[("pod", &client), ("host", &host)] };
                for (name, client) in who {
                    eprintln!("{:7} {name} {vip}: {:?}", names[n as usize], dial(client, vip));
                }
            }
        }
        for service in world.cluster.agent.stats().into_iter().flatten().filter(|s| s.address.is_ipv4()) {
            eprintln!(
                "   {} {} picks {:?} passes {:?} opened {:?}",
                service.name,
                service.protocol,
                service.picks.iter().filter(|p| *p.1 > 0).collect::<Vec<_>>(),
                service.pass_throughs.iter().filter(|p| *p.1 > 0).collect::<Vec<_>>(),
                service.backends.iter().map(|b| b.opened).collect::<Vec<_>>()
            );
        }
    };
    all(&world, "balanced");
    eprintln!(
        "=== stickiness: {:?}",
        (0..6).map(|_| dial(&client, vips(5)[0])[0].clone()).collect::<Vec<_>>()
    );

    // Sockets that live through a change of who answers.
    let loose = client.socket(Kind::Udp4)?;
    loose.set(Setting::ReceiveTimeout(500))?;
    let connected = client.socket(Kind::Udp4)?;
    connected.set(Setting::ReceiveTimeout(500))?;
    connected.connect(vips(1)[0])?;
    let tcp = client.connect(vips(1)[0])?;
    let long = |title: &str| {
        let answers: Vec<String> = (0..3)
            .map(|_| {
                let loose = loose
                    .send_to(vips(1)[0])
                    .and_then(|()| loose.receive_from())
                    .map_or_else(|e| format!("ERR {e}"), |(from, id)| format!("{from} {}", id.pod));
                let connected = connected.ask().map_or_else(|e| format!("ERR {e}"), |id| id.pod);
                let tcp = tcp.ask().map_or_else(|e| format!("ERR {e}"), |id| id.pod);
                format!("loose {loose}, connected {connected}, tcp {tcp}")
            })
            .collect();
        eprintln!("--- long-lived, {title}: {answers:?}");
    };
    long("balanced");
    world.cluster.agent.kill()?;
    long("killed");
    thread::sleep(Duration::from_secs(3));
    long("lapsed");
    all(&world, "lapsed");
    world.cluster.agent.options_mut().arguments = vec!["--mode".into(), "observe".into()];
    world.cluster.agent.spawn()?;
    world.cluster.agent.wait_ready()?;
    long("observe");
    all(&world, "observe");
    world.cluster.agent.kill()?;
    world.cluster.agent.options_mut().arguments = vec![];
    world.cluster.agent.spawn()?;
    world.cluster.agent.wait_ready()?;
    long("balanced again");
    // Scaling under load.
    let running = client.start(LoopPlan::tcp(vips(1)[0], Until::Told).ask(Ask::Identity))?;
    let host_running = host.start(LoopPlan::tcp(vips(2)[1], Until::Told).ask(Ask::Identity))?;
    for round in 0..30 {
        let which: Vec<(usize, &str, Value)> = match round % 4 {
            0 => vec![(0, "node-1", ready())],
            1 => vec![(1, "node-1", ready()), (2, "node-2", ready())],
            2 => vec![(0, "node-1", dying()), (2, "node-2", dying())],
            _ => vec![(0, "node-1", ready()), (1, "node-1", ready()), (2, "node-2", ready())],
        };
        world.endpoints("web", &which)?;
        world.endpoints("out", &which)?;
        thread::sleep(Duration::from_millis(50));
    }
    let (a, b) = (running.stop()?, host_running.stop()?);
    eprintln!("scaling: balanced {a:?}\nkube-proxy {b:?}");
    world.cluster.agent.terminate()?;
    eprintln!("detach: {}", world.cluster.agent.print(["detach"])?);
    long("detached");
    all(&world, "detached");
    world.cluster.agent.spawn()?;
    world.cluster.agent.wait_ready()?;
    long("back");
    eprintln!("{}", world.cluster.agent.log());
    let _: Option<Dialled> = None;
    let _ = world.cluster.proxy.process().exited()?.context("x");
    bail!("an experiment")
}
