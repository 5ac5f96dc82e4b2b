//! What applications see of both: whoever answers, the answer is the one that kube-proxy gives alone.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use balancer_tests::{
    agent::{Agent, AgentOptions},
    apiserver::objects::NAMESPACE,
    kubeproxy::{Mode, Verdict},
    peer::{
        CallError, Client, Server, Socket,
        protocol::{Ask, Kind, LoopPlan, Setting, Until},
    },
    topology::{Pod, Topology, service_v4, service_v6},
};
use balancer_userspace::{
    lane,
    model::{Family, Frontend, Protocol},
};
use rustix::io::Errno;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const PATIENCE: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_secs(2);
const PORT: u16 = 8080;

const EXPRESS_LANE: &str = "--express-lane";

/// Services by number, and the pods that may answer.
const WEB: u16 = 10;
const OPTED_OUT: u16 = 11;
const EMPTY: u16 = 12;
const NONE_LOCAL: u16 = 13;
const STICKY: u16 = 14;
const TERMINATING: u16 = 15;
const ALL: [(u16, &[&str]); 6] = [
    (WEB, &["web-1", "web-2", "web-3"]),
    (OPTED_OUT, &["web-1", "web-2", "web-3"]),
    (EMPTY, &[]),
    (NONE_LOCAL, &[]),
    (STICKY, &["web-1", "web-2", "web-3"]),
    (TERMINATING, &["web-1"]),
];

#[test]
fn nftables() -> Result<()> {
    beside(Mode::Nftables, &[])
}

#[test]
fn iptables() -> Result<()> {
    beside(Mode::Iptables, &[])
}

/// It is left out there: kube-proxy looks Services up at once.
#[test]
fn nftables_with_the_express_lane() -> Result<()> {
    beside(Mode::Nftables, &[EXPRESS_LANE])
}

#[test]
fn iptables_with_the_express_lane() -> Result<()> {
    beside(Mode::Iptables, &[EXPRESS_LANE])
}

fn vips(n: u16) -> [SocketAddr; 2] {
    [SocketAddr::new(service_v4(n).into(), 80), SocketAddr::new(service_v6(n).into(), 80)]
}

fn service(n: u16) -> Value {
    let addresses = vips(n).map(|vip| vip.ip());
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("s{n}"), "namespace": NAMESPACE},
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

/// Both slices of a Service: pods with their nodes and conditions.
fn slices(service: u16, endpoints: &[(&Pod, &str, Value)]) -> [Value; 2] {
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
                "name": format!("s{service}-{}", family.to_lowercase()), "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": format!("s{service}")},
            },
            "addressType": family,
            "ports": [
                {"name": "tcp", "port": PORT, "protocol": "TCP"},
                {"name": "udp", "port": PORT, "protocol": "UDP"},
            ],
            "endpoints": endpoints,
        })
    })
}

struct World<'t> {
    cluster: Cluster<'t>,
    pods: Vec<Pod>,
    clients: [(&'static str, Client); 2],
}

/// What became of a call: who answered, or the error.
type Outcome = Result<String, Option<Errno>>;

/// For each Service address and client: TCP, connected UDP, unconnected UDP.
type Survey = BTreeMap<(SocketAddr, &'static str), [Outcome; 3]>;

/// The same but for who answered.
type Kinds = BTreeMap<(SocketAddr, &'static str), [Result<(), Option<Errno>>; 3]>;

impl World<'_> {
    fn endpoints(&self, service: u16, endpoints: &[(usize, &str, Value)]) -> Result<()> {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|(pod, node, conditions)| (&self.pods[*pod], *node, conditions.clone()))
            .collect();
        for slice in slices(service, &endpoints) {
            self.cluster.admin().apply(&slice)?;
        }
        Ok(())
    }

    /// Waits until kube-proxy and the agent have so many endpoints for every address of every Service.
    fn settle(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (rules, stats) = (self.cluster.proxy.rules()?, self.cluster.agent.stats()?);
            let ports = ALL.iter().flat_map(|(n, pods)| {
                let all = vips(*n).into_iter().flat_map(|vip| [(vip, Protocol::Tcp), (vip, Protocol::Udp)]);
                all.map(|(vip, protocol)| (*n, vip, protocol, pods.len()))
            });
            let late: Vec<_> = ports
                .filter(|(n, vip, protocol, count)| {
                    let frontend = Frontend { addr: vip.ip(), port: vip.port(), protocol: *protocol };
                    let theirs = match rules.get(&frontend) {
                        Some(Verdict::Endpoints { endpoints, .. }) => endpoints.len() == *count,
                        Some(Verdict::Reject) => *n == EMPTY,
                        Some(Verdict::Drop) => *n == NONE_LOCAL,
                        None => false,
                    };
                    let ours = stats.iter().find(|service| {
                        service.address == vip.ip() && service.protocol == protocol.to_string()
                    });
                    let ours = ours.map(|service| {
                        service
                            .backends
                            .iter()
                            .filter(|backend| matches!(backend.state.as_str(), "ready" | "terminating"))
                            .count()
                    });
                    !theirs || ours != (*n != OPTED_OUT).then_some(*count)
                })
                .collect();
            if late.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("not in place: {late:?}\n{}", self.cluster.proxy.log_end());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Dials every Service in every way.
    fn survey(&self) -> Result<Survey> {
        let mut survey = Survey::new();
        for (n, pods) in ALL {
            for vip in vips(n) {
                for (name, client) in &self.clients {
                    // Over IPv6 the error to a first SYN comes while connect() holds the socket, so that the second tells, a second later.
                    let patience = Duration::from_millis(if n == EMPTY { 5_000 } else { 200 });
                    let outcomes =
                        [tcp(client, vip, patience), connected(client, vip), unconnected(client, vip)];
                    for outcome in &outcomes {
                        let right = outcome.as_ref().map_or(pods.is_empty(), |pod| pods.contains(&&**pod));
                        ensure!(right, "{vip} from {name}: {outcomes:?}");
                    }
                    survey.insert((vip, *name), outcomes);
                }
            }
        }
        // One client, one pod.
        let (_, client) = &self.clients[0];
        let first = tcp(client, vips(STICKY)[0], Duration::from_secs(1));
        for _ in 0..6 {
            let next = tcp(client, vips(STICKY)[0], Duration::from_secs(1));
            ensure!(first.is_ok() && next == first, "{next:?} instead of {first:?}");
        }
        Ok(survey)
    }

    /// How many connects of the Service `web` were passed through for a reason.
    fn passed(&self, reason: &str) -> Result<u64> {
        let stats = self.cluster.agent.stats_of(vips(WEB)[0])?;
        Ok(stats.pass_throughs.get(reason).copied().unwrap_or_default())
    }
}

fn errno(error: &CallError) -> Option<Errno> {
    error.errno()
}

fn tcp(client: &Client, to: SocketAddr, patience: Duration) -> Outcome {
    let dial = || -> Result<String, CallError> {
        let socket = client.socket(Kind::tcp(to))?;
        socket.set(Setting::Nonblocking)?;
        match socket.connect(to) {
            Err(error) if error.errno() == Some(Errno::INPROGRESS) => socket.finish(patience),
            other => other,
        }?;
        socket.set(Setting::Blocking)?;
        Ok(socket.ask()?.pod)
    };
    dial().map_err(|error| errno(&error))
}

fn udp(client: &Client, to: SocketAddr) -> Result<Socket, CallError> {
    let socket = client.socket(Kind::udp(to))?;
    socket.set(Setting::ReceiveTimeout(200))?;
    Ok(socket)
}

fn connected(client: &Client, to: SocketAddr) -> Outcome {
    let dial = || {
        let socket = udp(client, to)?;
        socket.connect(to)?;
        Ok(socket.ask()?.pod)
    };
    dial().map_err(|error: CallError| errno(&error))
}

fn unconnected(client: &Client, to: SocketAddr) -> Outcome {
    let dial = || exchange(&udp(client, to)?, to);
    dial().map_err(|error: CallError| errno(&error))
}

/// A datagram and its answer, which comes from where it was sent to.
fn exchange(socket: &Socket, to: SocketAddr) -> Result<String, CallError> {
    socket.send_to(to)?;
    let (from, identity) = socket.receive_from()?;
    if from != to {
        return Err(anyhow::anyhow!("{from} answers for {to}").into());
    }
    Ok(identity.pod)
}

fn kinds(survey: &Survey) -> Kinds {
    let kind = |outcome: &Outcome| outcome.as_ref().map(drop).map_err(|error| *error);
    survey.iter().map(|(key, outcomes)| (*key, outcomes.each_ref().map(kind))).collect()
}

/// Sockets that live on while the agent comes and goes.
struct LongLived {
    tcp: Socket,
    connected: Socket,
    unconnected: Socket,
    pods: [String; 2],
}

impl LongLived {
    fn new(client: &Client) -> Result<Self> {
        let to = vips(WEB)[0];
        let (connected, unconnected) = (udp(client, to)?, udp(client, to)?);
        connected.connect(to)?;
        let tcp = client.connect(to)?;
        let pods = [tcp.ask()?.pod, connected.ask()?.pod];
        let this = Self { tcp, connected, unconnected, pods };
        this.check()?;
        Ok(this)
    }

    /// What is connected stays where it is, and what is not is answered by the Service's address.
    fn check(&self) -> Result<()> {
        let pods = [self.tcp.ask()?.pod, self.connected.ask()?.pod];
        ensure!(pods == self.pods, "{pods:?} instead of {:?}", self.pods);
        for _ in 0..3 {
            exchange(&self.unconnected, vips(WEB)[0])?;
        }
        Ok(())
    }
}

fn beside(mode: Mode, arguments: &[&str]) -> Result<()> {
    let topology = Topology::new()?;
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let has_lane = mode == Mode::Iptables && arguments.iter().any(|argument| argument == EXPRESS_LANE);
    let options =
        AgentOptions { lease: Some(LEASE), arguments: arguments.clone(), ..AgentOptions::default() };
    let cluster = Cluster::start(&topology, mode, options)?;
    let pods = topology.pods("web", 3)?;
    let _servers: Vec<Server> = pods.iter().map(|pod| pod.server(PORT)).collect::<Result<_>>()?;
    let client_pod = topology.pod("client")?;
    client_pod.route_services_to_node()?;
    let clients = [("a pod", client_pod.client()?), ("the node", topology.host().client()?)];
    let mut world = World { cluster, pods, clients };

    let ready = || json!({"ready": true});
    let terminating = || json!({"ready": false, "serving": true, "terminating": true});
    let three = [(0, "node-1", ready()), (1, "node-1", ready()), (2, "node-2", ready())];
    for (n, _) in ALL {
        let mut service = service(n);
        match n {
            OPTED_OUT => service["metadata"]["annotations"] = json!({"balancer.dev/enabled": "false"}),
            NONE_LOCAL => service["spec"]["internalTrafficPolicy"] = json!("Local"),
            STICKY => service["spec"]["sessionAffinity"] = json!("ClientIP"),
            _ => {}
        }
        world.cluster.admin().create(&service)?;
        match n {
            EMPTY => world.endpoints(n, &[])?,
            NONE_LOCAL => world.endpoints(n, &three[2..])?,
            TERMINATING => {
                let not_even = json!({"ready": false, "serving": false});
                world.endpoints(n, &[(0, "node-1", terminating()), (1, "node-1", not_even)])?;
            }
            _ => world.endpoints(n, &three)?,
        }
    }
    world.settle()?;
    let lane = || lane_of(&topology, &world.cluster.agent);
    // Beside an iptables that works on nf_tables changes are gathered, for a fifth of the lease at most.
    let deadline = Instant::now() + PATIENCE;
    while has_lane && lane()? != [Some(2 * 3); 2] && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
    }
    ensure!(lane()? == [has_lane.then_some(2 * 3); 2], "the lane is {:?}", lane()?);

    let balanced = world.survey()?;
    let opened = world.cluster.agent.stats_of(vips(WEB)[0])?.total(|backend| backend.opened);
    ensure!(opened == 2, "one connect of each client: {opened}");
    let long_lived = LongLived::new(&world.clients[0].1)?;

    world.cluster.agent.kill()?;
    long_lived.check()?;
    thread::sleep(LEASE + Duration::from_millis(500));
    ensure!(lane_of(&topology, &world.cluster.agent)? == [None; 2], "the lane outlives the lease");
    let lapsed = world.survey()?;
    long_lived.check()?;
    ensure!(world.passed("lease-expired")? == 2);

    world.cluster.agent.options_mut().arguments = vec!["--mode".into(), "observe".into()];
    world.cluster.agent.spawn()?;
    world.cluster.agent.wait_ready()?;
    let observed = world.survey()?;
    long_lived.check()?;
    ensure!(world.passed("observed")? == 2);

    world.cluster.agent.options_mut().arguments = arguments;
    world.cluster.agent.restart()?;
    long_lived.check()?;
    scale(&world, [terminating(), ready()])?;

    world.cluster.agent.terminate()?;
    world.cluster.agent.print(["detach"])?;
    let alone = kinds(&world.survey()?);
    long_lived.check()?;
    for (phase, survey) in [("balanced", balanced), ("lapsed", lapsed), ("observed", observed)] {
        ensure!(kinds(&survey) == alone, "{phase}: {survey:#?}\nkube-proxy alone: {alone:#?}");
    }
    // What is refused is refused, not lost.
    for vip in vips(EMPTY) {
        let refused = &alone[&(vip, "a pod")];
        ensure!(refused[..2] == [Err(Some(Errno::CONNREFUSED)); 2], "{vip}: {refused:?}");
    }

    world.cluster.agent.spawn()?;
    world.cluster.agent.wait_ready()?;
    long_lived.check()
}

/// How many endpoints of each family are in the express lane, where it holds.
fn lane_of(topology: &Topology, agent: &Agent<'_>) -> Result<[Option<usize>; 2]> {
    let [v4, v6] = [Family::V4, Family::V6].map(|family| {
        let found = topology.host().netns().run(|| lane::read(agent.pins(), family))??;
        anyhow::Ok(found.filter(|found| found.alive).map(|found| found.endpoints.len()))
    });
    Ok([v4?, v6?])
}

/// Endpoints come and go while both route: no connect fails, whoever answers.
fn scale(world: &World<'_>, [terminating, ready]: [Value; 2]) -> Result<()> {
    let [(_, pod), (_, node)] = &world.clients;
    let balanced = pod.start(LoopPlan::tcp(vips(WEB)[0], Until::Told).ask(Ask::Identity))?;
    let left_alone = node.start(LoopPlan::tcp(vips(OPTED_OUT)[1], Until::Told).ask(Ask::Identity))?;
    for round in 0..20 {
        let endpoints = match round % 4 {
            0 => vec![(0, "node-1", ready.clone())],
            1 => vec![(1, "node-1", ready.clone()), (2, "node-2", ready.clone())],
            2 => vec![(0, "node-1", terminating.clone()), (2, "node-2", terminating.clone())],
            _ => (0..3).map(|pod| (pod, "node-1", ready.clone())).collect(),
        };
        world.endpoints(WEB, &endpoints)?;
        world.endpoints(OPTED_OUT, &endpoints)?;
        thread::sleep(Duration::from_millis(50));
    }
    for report in [balanced.stop()?, left_alone.stop()?] {
        ensure!(report.failed() == 0 && report.attempts > 100, "{report:?}");
    }
    world.settle()
}
