//! The set, and what can be done on it: scale, kill, connect, count.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use balancer_tests::{
    agent::{Agent, ServiceStats},
    manifests::{Endpoint, ManifestDir},
    peer::{
        Client, Server, ServerOptions,
        protocol::{Ask, Close, HoldReport, LoopPlan, Until},
    },
    topology::{Pod, Topology, service_v4},
};
use balancer_userspace::model::Protocol;

use crate::{check_interrupt, screen::Screen};

/// Backends that there are at most.
const BACKENDS: usize = 5;

/// Where they listen.
const PORT: u16 = 8080;

/// The Service of the example.
const SERVICE: &str = "shop/web";

/// How long a change in a manifest may take to reach the kernel before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Namespaces and manifests: what there is before anything runs.
pub struct Set {
    pub node: Topology,
    pub client: Pod,
    pub pods: Vec<Pod>,
    pub manifests: ManifestDir,
}

impl Set {
    /// Builds it, with a copy of the example manifests that the demo, and the audience, can change.
    pub fn build(examples: &Path) -> Result<Self> {
        let node = Topology::new()?;
        let client = node.pod("client")?;
        let pods = node.pods("web", BACKENDS)?;
        let manifests = ManifestDir::new()?;
        let mut text = String::new();
        for entry in fs::read_dir(examples).with_context(|| examples.display().to_string())? {
            let path = entry?.path();
            let (Some(name), Some("yaml")) = (
                path.file_name().and_then(|name| name.to_str()),
                path.extension().and_then(|ext| ext.to_str()),
            ) else {
                continue;
            };
            let contents = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            manifests.put(name, &contents)?;
            text.push_str(&contents);
        }
        for addr in pods[..3].iter().map(|pod| pod.addresses().v4.to_string()).chain([vip().ip().to_string()])
        {
            ensure!(text.contains(&addr), "the manifests in {} do not mention {addr}", examples.display());
        }
        Ok(Self { node, client, pods, manifests })
    }
}

/// What applications dial.
pub fn vip() -> SocketAddr {
    SocketAddr::new(service_v4(10).into(), 80)
}

/// What runs on the set.
pub struct Stage<'s> {
    pub set: &'s Set,
    pub agent: Agent<'s>,
    /// By backend; `None` where it does not run.
    servers: Vec<Option<Server>>,
    /// Holds connections.
    pub long: Client,
    /// Makes short ones.
    pub short: Client,
}

impl<'s> Stage<'s> {
    /// Starts the agent, three servers and the clients.
    pub fn open(set: &'s Set, screen: &mut Screen) -> Result<Self> {
        let servers = (0..BACKENDS).map(|_| None).collect();
        let agent = Agent::start(&set.node, &set.manifests)?;
        let (long, short) = (set.client.client()?, set.client.client()?);
        let mut stage = Self { set, agent, servers, long, short };
        for backend in 0..3 {
            stage.serve(backend)?;
        }
        stage.wait_published(&[0, 1, 2])?;
        screen.say(&format!(
            "node {}, client {}, backends {} to {}; the agent watches {}",
            set.node.host().addresses().v4,
            set.client.addresses().v4,
            set.pods[0].v4(PORT),
            set.pods[BACKENDS - 1].v4(PORT),
            set.manifests.path().display(),
        ));
        Ok(stage)
    }

    /// Starts the server of a backend.
    pub fn serve(&mut self, backend: usize) -> Result<()> {
        let pod = &self.set.pods[backend];
        let options = ServerOptions { tcp: vec![pod.v4(PORT)], ..ServerOptions::default() };
        self.servers[backend] = Some(Server::start(pod, &options)?);
        Ok(())
    }

    /// Ends the server of a backend as a pod ends: connections are closed.
    pub fn stop(&mut self, backend: usize) -> Result<()> {
        if let Some(mut server) = self.servers[backend].take() {
            server.close_all(Close::Graceful)?;
        }
        Ok(())
    }

    /// SIGKILL to the server of a backend.
    pub fn kill(&mut self, backend: usize) -> Result<()> {
        self.servers[backend].take().context("no server to kill")?.process().kill().map(drop)
    }

    /// Connections that the servers hold, by pod name: the truth that balancer's counts are compared with.
    pub fn open_at_servers(&mut self) -> Result<BTreeMap<String, u64>> {
        let mut open = BTreeMap::new();
        for (server, pod) in self.servers.iter_mut().zip(&self.set.pods) {
            if let Some(server) = server {
                open.insert(pod.name().to_owned(), server.stats()?.open);
            }
        }
        Ok(open)
    }

    /// Writes the slice, as the control plane would, and waits until the kernel has it. Returns how long that took, the
    /// start of a `balancer stats` included.
    pub fn publish(&self, backends: &[usize]) -> Result<Duration> {
        let slice = self.set.manifests.slice(SERVICE).port("http", Protocol::Tcp, PORT);
        let pods = backends.iter().map(|&backend| &self.set.pods[backend]);
        let slice = pods
            .fold(slice, |slice, pod| slice.endpoint(Endpoint::ready(pod.addresses().v4).pod(pod.name())));
        let start = Instant::now();
        slice.write()?;
        self.wait_published(backends)?;
        Ok(start.elapsed())
    }

    fn wait_published(&self, backends: &[usize]) -> Result<()> {
        let mut expected: Vec<&str> = backends.iter().map(|&backend| self.set.pods[backend].name()).collect();
        expected.sort_unstable();
        let published = |stats: &ServiceStats| {
            let ready = stats.backends.iter().filter(|backend| backend.state == "ready");
            let mut ready: Vec<&str> = ready.filter_map(|backend| backend.pod.as_deref()).collect();
            ready.sort_unstable();
            ready == expected
        };
        self.agent.wait_for(vip(), PATIENCE, published).map(drop)
    }

    /// Opens connections and holds them, a few at a time, with the live counts below.
    pub fn hold(&self, count: u64, screen: &mut Screen) -> Result<HoldReport> {
        let mut total = HoldReport::default();
        let step = count.div_ceil(5).max(1);
        let mut left = count;
        while left > 0 {
            let now = step.min(left);
            let report = self.long.hold(now, vip())?;
            left -= now;
            total.held = report.held;
            total.broken = report.broken;
            for (failure, times) in report.failures {
                *total.failures.entry(failure).or_default() += times;
            }
            screen.live(&self.view(screen)?);
            pause(Duration::from_millis(250))?;
        }
        Ok(total)
    }

    /// `balancer stats` of the Service, as a user would see it, warnings included.
    pub fn view(&self, screen: &Screen) -> Result<String> {
        let color = if screen.is_terminal() { "always" } else { "never" };
        let output = self.agent.cli(["stats", SERVICE, "--color", color])?;
        let text = [output.stderr, output.stdout].concat();
        let text = String::from_utf8(text).context("not UTF-8")?;
        ensure!(output.status.success(), "balancer stats failed ({}): {text}", output.status);
        Ok(text)
    }

    /// Its counts.
    pub fn stats(&self) -> Result<ServiceStats> {
        self.agent.stats_of(vip())
    }

    /// Waits until the held connections that their server closed are seen as such, closes them and returns how many there were.
    pub fn drop_broken(&self, expected: u64) -> Result<u64> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let broken = self.long.check_held()?.broken;
            if broken >= expected || Instant::now() >= deadline {
                self.long.release_broken()?;
                return Ok(broken);
            }
            pause(Duration::from_millis(5))?;
        }
    }

    /// Short connections without end, each asking who answers: 5,000 a second at most.
    pub fn short_plan() -> LoopPlan {
        LoopPlan::tcp(vip(), Until::Told).ask(Ask::Identity).pause_us(200)
    }

    /// A command that runs in the client pod.
    pub fn in_client(&self, command: Command) -> Result<String> {
        let output = self.set.client.output(command)?;
        ensure!(
            output.status.success(),
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        String::from_utf8(output.stdout).context("not UTF-8")
    }
}

/// Waits, unless the program is asked to end.
pub fn pause(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    loop {
        check_interrupt()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
}
