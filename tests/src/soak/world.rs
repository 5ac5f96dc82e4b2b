//! The node of a soak: pods with servers, an API server with Services, and what these should come to.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{
    ledger::{Ledger, Open, Whom},
    services::{self, Condition, Front, NAMESPACE, SPECS, TARGET_PORT},
};
use crate::{
    apiserver::{
        AGENT_ACCOUNT, AGENT_NAMESPACE, ApiServer as _, FakeServer, code,
        fake::Backup,
        kubeconfig::{self, Credential},
        objects, rbac_file,
    },
    peer::Server,
    topology::{Pod, Topology},
};

/// Pods that are dialled.
pub const BACKENDS: usize = 10;

/// Pods that dial, the node itself not counted.
const CLIENTS: usize = 3;

/// A pod that is dialled.
pub struct Target {
    /// Where it is.
    pub pod: Pod,
    /// Its server, while that runs.
    pub server: Option<Server>,
    /// What is being done to it.
    pub trouble: Option<Open>,
}

/// What a Service should be.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Whether it exists.
    pub exists: bool,
    /// Its algorithm, where that is not its own.
    pub algorithm: Option<&'static str>,
    /// Its endpoints, by pod.
    pub endpoints: BTreeMap<usize, Condition>,
}

impl Wanted {
    /// The pods that may be chosen: those that are ready, or for want of these those that still serve.
    pub fn usable(&self) -> BTreeSet<usize> {
        let of = |wanted: Condition| {
            let pods = self.endpoints.iter().filter(move |(_, condition)| **condition == wanted);
            pods.map(|(pod, _)| *pod).collect::<BTreeSet<_>>()
        };
        let ready = of(Condition::Ready);
        if ready.is_empty() { of(Condition::Terminating) } else { ready }
    }
}

/// What the tables should hold: for each thing that is dialled, where it may lead.
pub type View = BTreeMap<(String, SocketAddr), BTreeSet<SocketAddr>>;

/// All of it.
pub struct World<'t> {
    /// The node.
    pub topology: &'t Topology,
    /// What was done, and when.
    pub ledger: Arc<Ledger>,
    /// Pods that dial.
    pub clients: Vec<Pod>,
    /// Pods that are dialled.
    pub targets: Vec<Target>,
    /// The API server.
    pub api: FakeServer<'t>,
    /// The file that the agent's token is in.
    pub token: PathBuf,
    /// What the agent's kubeconfig is called.
    pub kubeconfig: PathBuf,
    /// What each of [`SPECS`] should be.
    pub wanted: Vec<Wanted>,
    /// A state of the API server to go back to.
    pub backup: Option<Backup>,
}

impl<'t> World<'t> {
    /// Makes it, with a few endpoints in each Service.
    pub fn new(topology: &'t Topology, ledger: Arc<Ledger>, dice: &mut fastrand::Rng) -> Result<Self> {
        let clients = topology.pods("client", CLIENTS)?;
        let mut targets = Vec::new();
        for pod in topology.pods("backend", BACKENDS)? {
            let server = Some(pod.server(TARGET_PORT)?);
            targets.push(Target { pod, server, trouble: None });
        }
        let api = FakeServer::start(topology)?;
        let admin = api.admin();
        for name in [AGENT_NAMESPACE, NAMESPACE, super::pressure::NAMESPACE] {
            admin.apply(&objects::namespace(name))?;
        }
        admin.create(&objects::node("node-1", "zone-a"))?;
        admin.create_yaml(&rbac_file())?;
        let (token, kubeconfig) = (api.dir().join("token"), api.dir().join("kubeconfig"));
        kubeconfig::replace(&token, &admin.token(AGENT_NAMESPACE, AGENT_ACCOUNT)?)?;
        fs::write(&kubeconfig, api.kubeconfig(&Credential::TokenFile(&token)).to_string())?;
        let wanted = (0..SPECS.len())
            .map(|_| {
                let mut pods: Vec<usize> = (0..BACKENDS).collect();
                dice.shuffle(&mut pods);
                let endpoints =
                    pods.into_iter().take(dice.usize(3..=6)).map(|pod| (pod, Condition::Ready)).collect();
                Wanted { exists: true, algorithm: None, endpoints }
            })
            .collect();
        let world = Self { topology, ledger, clients, targets, api, token, kubeconfig, wanted, backup: None };
        (0..SPECS.len()).try_for_each(|service| world.publish(service))?;
        Ok(world)
    }

    /// Pods by their addresses.
    pub fn addresses(&self) -> HashMap<IpAddr, usize> {
        let both = |(index, target): (usize, &Target)| target.pod.addresses().both().map(|ip| (ip, index));
        self.targets.iter().enumerate().flat_map(both).collect()
    }

    /// Writes a Service and its slices as they should be, or takes them away.
    pub fn publish(&self, service: usize) -> Result<()> {
        let wanted = &self.wanted[service];
        let admin = self.api.admin();
        let object = services::object(service, wanted.algorithm);
        if wanted.exists {
            admin.apply(&object).context("Service")?;
        } else {
            gone(admin.delete(&object))?;
        }
        for (suffix, v6, odd) in
            [("v4-a", false, 0), ("v4-b", false, 1), ("v6-a", true, 0), ("v6-b", true, 1)]
        {
            let endpoints: Vec<_> = wanted
                .endpoints
                .iter()
                .filter(|(pod, _)| *pod % 2 == odd)
                .map(|(pod, condition)| {
                    let pod = &self.targets[*pod].pod;
                    let address = pod.addresses().both()[usize::from(v6)];
                    (address, pod.name().to_owned(), *condition)
                })
                .collect();
            let slice = services::slice(service, suffix, &endpoints);
            if wanted.exists {
                admin.apply(&slice).context("EndpointSlice")?;
            } else {
                gone(admin.delete(&slice))?;
            }
        }
        Ok(())
    }

    /// What the tables should hold by now.
    pub fn view(&self) -> View {
        let leads = |front: &Front| {
            let pods = self.wanted[front.service].usable();
            let address = |pod: usize| {
                let both = self.targets[pod].pod.addresses().both();
                SocketAddr::new(both[usize::from(front.addr.is_ipv6())], TARGET_PORT)
            };
            pods.into_iter().map(address).collect()
        };
        let fronts = services::fronts();
        let exists = fronts.iter().filter(|front| self.wanted[front.service].exists);
        exists.map(|front| ((front.protocol.to_string(), front.addr), leads(front))).collect()
    }

    /// A pod is about to get into trouble; `false` if it is in some already.
    pub fn trouble(&mut self, pod: usize, what: &'static str) -> bool {
        let target = &mut self.targets[pod];
        if target.trouble.is_some() {
            return false;
        }
        target.trouble = Some(self.ledger.begin(Whom::Pod(pod), what));
        true
    }

    /// It is over.
    pub fn trouble_ends(&mut self, pod: usize) {
        if let Some(open) = self.targets[pod].trouble.take() {
            self.ledger.end(open);
        }
    }

    /// Ends the server of a pod, if it runs, and starts another.
    pub fn serve(&mut self, pod: usize) -> Result<()> {
        let target = &mut self.targets[pod];
        target.server = None;
        target.server = Some(target.pod.server(TARGET_PORT)?);
        Ok(())
    }

    /// Gives the agent another token, and makes the API server forget the old one.
    pub fn rotate_token(&self) -> Result<()> {
        let old = fs::read_to_string(&self.token)?;
        kubeconfig::replace(&self.token, &self.api.admin().token(AGENT_NAMESPACE, AGENT_ACCOUNT)?)?;
        self.api.revoke(&old);
        Ok(())
    }

    /// The ClusterRoleBinding of the agent.
    pub fn binding() -> Result<serde_json::Value> {
        let text = fs::read_to_string(rbac_file())?;
        let objects = crate::apiserver::documents(&text)?;
        objects.into_iter().find(|it| it["kind"] == json!("ClusterRoleBinding")).context("no binding")
    }
}

/// Deleted now or before.
pub fn gone(result: Result<serde_json::Value>) -> Result<()> {
    match result {
        Err(error) if code(&error) == Some(404) => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_still_serve_are_used_for_want_of_ready_ones() {
        let wanted = |endpoints: &[(usize, Condition)]| Wanted {
            endpoints: endpoints.iter().copied().collect(),
            ..Wanted::default()
        };
        use Condition::{NotReady, Ready, Terminating};
        assert_eq!(wanted(&[(1, Ready), (2, Terminating), (3, NotReady)]).usable(), [1].into());
        assert_eq!(wanted(&[(2, Terminating), (3, NotReady)]).usable(), [2].into());
        assert_eq!(wanted(&[(3, NotReady)]).usable(), BTreeSet::new());
    }
}
