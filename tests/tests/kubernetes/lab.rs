//! An agent at an API server, what it has in its tables, and what it says.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use balancer_tests::{
    agent::{Agent, AgentOptions, Usage},
    apiserver::{
        AGENT_ACCOUNT, AGENT_NAMESPACE, Admin, ApiServer,
        kubeconfig::{self, Credential},
        objects, rbac_file,
    },
    topology::{Topology, service_v4},
};
use serde_json::Value;

/// `--api-timeout` of the agents here.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// How long something that should happen may take on a machine that others use too.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Backends by Service.
pub type View = BTreeMap<String, BTreeSet<SocketAddr>>;

/// An API server, and an agent that follows it.
pub struct Lab<'t, S> {
    pub agent: Agent<'t>,
    pub server: S,
    token: PathBuf,
    /// What the tables should hold.
    pub wanted: View,
    slices: BTreeMap<String, Value>,
}

/// The `n`th pod address.
pub fn pod(n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    Ipv4Addr::new(10, 244, high + 1, low).into()
}

impl<'t, S: ApiServer> Lab<'t, S> {
    /// Sets the cluster up as it is deployed, with the Services `web` and `db`, and starts an agent that has taken
    /// them in.
    pub fn start(topology: &'t Topology, server: S, arguments: &[&str]) -> Result<Self> {
        let mut lab = Self::stopped(topology, server, arguments)?;
        lab.agent.spawn()?;
        lab.agent.wait_ready()?;
        lab.expect(PATIENCE)?;
        Ok(lab)
    }

    /// The same, but the agent is not started.
    pub fn stopped(topology: &'t Topology, server: S, arguments: &[&str]) -> Result<Self> {
        let admin = server.admin();
        for name in [AGENT_NAMESPACE, objects::NAMESPACE] {
            admin.apply(&objects::namespace(name))?;
        }
        admin.create(&objects::node("node-1", "zone-a"))?;
        admin.create_yaml(&rbac_file())?;
        let (token, config) = (server.dir().join("token"), server.dir().join("kubeconfig"));
        kubeconfig::replace(&token, &admin.token(AGENT_NAMESPACE, AGENT_ACCOUNT)?)?;
        fs::write(&config, server.kubeconfig(&Credential::TokenFile(&token)).to_string())?;
        let timeout = format!("{}s", TIMEOUT.as_secs());
        let arguments =
            ["--api-timeout", &timeout].iter().chain(arguments).map(|&text| text.to_owned()).collect();
        let options = AgentOptions { arguments, ..AgentOptions::default() };
        let agent = Agent::of_cluster(topology, &config, options)?;
        let mut lab = Self { agent, server, token, wanted: View::new(), slices: BTreeMap::new() };
        for (index, name) in (0..).zip(["web", "db"]) {
            lab.admin().create(&objects::service(name, service_v4(300 + index).into(), 80))?;
            lab.set(name, &[1, 2])?;
        }
        Ok(lab)
    }

    pub fn admin(&self) -> &Admin {
        self.server.admin()
    }

    /// The file that the agent's token is in.
    pub fn token(&self) -> &std::path::Path {
        &self.token
    }

    /// Gives a Service these pods, by number, in one slice.
    pub fn set(&mut self, service: &str, pods: &[u16]) -> Result<()> {
        let addresses: Vec<IpAddr> = pods.iter().map(|&n| pod(n)).collect();
        let slice = objects::slice(service, "a", 8080, &addresses);
        self.admin().apply(&slice)?;
        self.slices.insert(service.to_owned(), slice);
        let backends = addresses.iter().map(|&ip| SocketAddr::new(ip, 8080)).collect();
        self.wanted.insert(service.to_owned(), backends);
        Ok(())
    }

    /// Changes something that is no concern of the tables, so that versions move on.
    pub fn touch(&self) -> Result<()> {
        let node = objects::node("node-1", "zone-a");
        let now =
            serde_json::json!({"metadata": {"annotations": {"touched": format!("{:?}", Instant::now())}}});
        self.admin().patch(&node, &now).map(drop)
    }

    /// Takes a Service away, with its slice.
    pub fn remove(&mut self, service: &str) -> Result<()> {
        let object = objects::service(service, IpAddr::from([0, 0, 0, 0]), 80);
        self.admin().delete(&object)?;
        if let Some(slice) = self.slices.remove(service) {
            self.admin().delete(&slice)?;
        }
        self.wanted.remove(service);
        Ok(())
    }

    /// What the tables hold of the tests' namespace.
    pub fn view(&self) -> Result<View> {
        let services =
            self.agent.stats()?.into_iter().filter(|service| service.namespace == objects::NAMESPACE);
        let backends = |service: &balancer_tests::agent::ServiceStats| {
            let ready = service.backends.iter().filter(|backend| backend.state == "ready");
            ready.map(|backend| SocketAddr::new(backend.address, backend.port)).collect()
        };
        Ok(services.map(|service| (service.name.clone(), backends(&service))).collect())
    }

    /// Waits until the tables hold what they should; how long that took.
    pub fn expect(&self, patience: Duration) -> Result<Duration> {
        let begun = Instant::now();
        loop {
            let view = self.view()?;
            if view == self.wanted {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() >= patience {
                bail!("after {patience:?} the tables hold {view:?} instead of {:?}", self.wanted);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Watches the tables for a while: they must hold `view` all the time.
    pub fn stays(&self, view: &View, duration: Duration) -> Result<()> {
        let deadline = Instant::now() + duration;
        while Instant::now() < deadline {
            let now = self.view()?;
            ensure!(now == *view, "the tables hold {now:?} instead of {view:?}");
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// What the agent costs so far.
    pub fn usage(&mut self) -> Result<Usage> {
        Usage::of(self.agent.process()?.id())
    }

    /// The value of a metric without labels, or of its first series.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let (code, text) = self.agent.http("/metrics")?;
        ensure!(code == 200, "/metrics: {code}");
        let line = text
            .lines()
            .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        let value =
            line.and_then(|line| line.rsplit(' ').next()).with_context(|| format!("no {name} in\n{text}"))?;
        Ok(value.parse()?)
    }

    /// An item of `balancer check`: outcome and detail.
    pub fn check(&self, name: &str) -> Result<(String, String)> {
        let output = self.agent.cli(["check", "--no-probe", "-o", "json"])?;
        let report: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let items = report["items"].as_array().context("no items")?;
        let item = items
            .iter()
            .find(|item| item["name"] == name)
            .with_context(|| format!("no {name} in {report}"))?;
        let text = |field: &str| item[field].as_str().unwrap_or_default().to_owned();
        Ok((text("outcome"), text("detail")))
    }

    /// Lines of the log that hold a text.
    pub fn lines(&self, text: &str) -> Vec<String> {
        self.agent.log().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    /// That the agent is the process it was, and ready.
    pub fn runs(&mut self, pid: u32) -> Result<()> {
        let process = self.agent.process()?;
        ensure!(process.exited()?.is_none() && process.id() == pid, "the agent ended");
        Ok(())
    }
}
