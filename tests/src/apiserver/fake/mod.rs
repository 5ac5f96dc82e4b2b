//! An API server of our own, that fails on command.
//!
//! It keeps any objects, by group, resource, namespace and name; lists in pages; watches with bookmarks, selectors and
//! a history that may be forgotten; knows users by their tokens and what they may do by the RBAC objects that it
//! holds. What it answers is checked against a real one by the tests that run on both.
//!
//! It has two doors. The front one, with TLS, is for the agent, and all faults are there. The back one is for
//! [`Admin`], and always works.

mod answer;
mod fault;
mod handle;
mod rbac;
mod request;
mod rules;
mod selector;
mod store;
mod watching;
mod wire;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

pub use self::{
    fault::{Fault, Rule, WatchFault, Wire},
    request::Verb,
    store::Backup,
};
use self::{
    handle::Cluster,
    store::Key,
    wire::{Front, Identities},
};
use super::{
    ADMIN_TOKEN, Admin, ApiServer,
    kubeconfig::{self, Credential},
};
use crate::topology::{Scratch, Topology};

/// Where it listens, in the node's namespace.
const PORT: u16 = 6443;

/// The server. Dropping it ends it.
pub struct FakeServer<'t> {
    topology: &'t Topology,
    cluster: Arc<Cluster>,
    front: Option<Front>,
    identities: Arc<Identities>,
    wire: Wire,
    admin: Admin,
    runtime: Runtime,
    scratch: Scratch,
    saved: Option<Backup>,
}

impl<'t> FakeServer<'t> {
    /// Starts one without objects.
    pub fn start(topology: &'t Topology) -> Result<Self> {
        let scratch = Scratch::files()?;
        let identities = Arc::new(Identities::make(scratch.path())?);
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let cluster = Arc::new(Cluster::new(ADMIN_TOKEN));
        let back = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("back door")?;
        let at = back.local_addr()?;
        runtime.spawn(wire::serve_back(wire::adopt(&runtime, back)?, Arc::clone(&cluster)));
        let config = kubeconfig::kubeconfig(&format!("http://{at}"), None, &Credential::Token(ADMIN_TOKEN));
        let admin = Admin::new(&config, None)?;
        let mut fake = Self {
            topology,
            cluster,
            front: None,
            identities,
            wire: Wire::Https,
            admin,
            runtime,
            scratch,
            saved: None,
        };
        fake.listen()?;
        Ok(fake)
    }

    /// Listens, where it did not.
    pub fn listen(&mut self) -> Result<()> {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
        let listener = self.topology.host().netns().run(|| TcpListener::bind(at))?.context("front door")?;
        let listener = wire::adopt(&self.runtime, listener)?;
        let front = Front::start(
            &self.runtime,
            listener,
            self.wire,
            Arc::clone(&self.cluster),
            Arc::clone(&self.identities),
        );
        self.front = Some(front);
        Ok(())
    }

    /// Closes every connection and refuses new ones.
    pub fn refuse(&mut self) {
        if let Some(front) = self.front.take() {
            self.runtime.block_on(front.stop());
        }
    }

    /// Serves connections in another way from now on; those that are open are closed.
    pub fn serve_as(&mut self, wire: Wire) -> Result<()> {
        self.refuse();
        self.wire = wire;
        self.listen()
    }

    /// Answers nothing, as a stopped process would, until [`FakeServer::thaw`].
    pub fn freeze(&self) {
        self.cluster.frozen.send_replace(true);
    }

    /// Goes on.
    pub fn thaw(&self) {
        self.cluster.frozen.send_replace(false);
    }

    /// Adds a rule to the script of faults.
    pub fn fail(&self, rule: Rule) {
        self.cluster.faults.add(rule);
    }

    /// Ends all rules. What hangs goes on hanging.
    pub fn heal(&self) {
        self.cluster.faults.clear();
    }

    /// Forgets the history and what continue tokens stand for.
    pub fn compact(&self) {
        self.cluster.write(store::Store::compact);
    }

    /// The state to go back to.
    pub fn backup(&self) -> Backup {
        self.cluster.read(store::Store::backup)
    }

    /// Goes back to a state, versions included; open watches do not notice.
    pub fn restore(&self, backup: &Backup) {
        self.cluster.write(|store| store.restore(backup));
    }

    /// Writes an object of a resource (`services`, `endpointslices.discovery.k8s.io`) without HTTP, for tests that write
    /// a lot.
    pub fn put(&self, resource: &str, object: Value) {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = Key { resource: resource.into(), namespace: text("namespace"), name: text("name") };
        self.cluster.write(|store| store.put(key, object));
    }

    /// Time between bookmarks, from the next one of each watch on.
    pub fn bookmark_every(&self, every: Duration) {
        self.cluster.set_bookmarks(every);
    }

    /// Does not know a token any more.
    pub fn revoke(&self, token: &str) {
        self.cluster.revoke(token);
    }

    /// How often something was asked at the front door.
    pub fn asked(&self, verb: Verb, resource: &str) -> u64 {
        self.cluster.asked(verb, resource)
    }

    /// All requests at the front door.
    pub fn asked_in_all(&self) -> u64 {
        self.cluster.asked_in_all()
    }

    /// The front door.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{PORT}")
    }
}

impl ApiServer for FakeServer<'_> {
    fn admin(&self) -> &Admin {
        &self.admin
    }

    fn dir(&self) -> &Path {
        self.scratch.path()
    }

    fn kubeconfig(&self, credential: &Credential<'_>) -> Value {
        kubeconfig::kubeconfig(&self.url(), Some(&self.dir().join("ca.crt")), credential)
    }

    fn pause(&mut self) -> Result<()> {
        self.freeze();
        Ok(())
    }

    fn resume(&mut self) -> Result<()> {
        self.thaw();
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        self.refuse();
        Ok(())
    }

    fn start(&mut self) -> Result<()> {
        self.compact();
        self.listen()
    }

    fn save(&mut self) -> Result<()> {
        self.saved = Some(self.backup());
        Ok(())
    }

    fn go_back(&mut self) -> Result<()> {
        let saved = self.saved.clone().context("nothing was saved")?;
        self.refuse();
        self.restore(&saved);
        self.listen()
    }
}

impl Drop for FakeServer<'_> {
    fn drop(&mut self) {
        self.refuse();
    }
}
