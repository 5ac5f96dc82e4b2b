//! A real `kube-apiserver` on a real `etcd`, in the node's namespace of a topology.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    ADMIN_TOKEN, ASSETS, Admin, ApiServer,
    kubeconfig::{self, Credential},
    pki::{self, Authority, Validity},
};
use crate::topology::{Process, SERVICE_CIDR_V4, SERVICE_CIDR_V6, Scratch, Topology};

/// Where the API server listens, in that namespace.
const PORT: u16 = 6443;

/// Where etcd listens there.
const ETCD_PORT: u16 = 2379;

/// How long they get to start. On a machine that others use it has taken 20 s.
const START: Duration = Duration::from_secs(60);

/// One of its processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// kube-apiserver.
    ApiServer,
    /// etcd.
    Etcd,
}

/// A control plane of two processes. Dropping it ends both and removes their data.
pub struct RealServer<'t> {
    topology: &'t Topology,
    assets: PathBuf,
    // In this order they are dropped.
    apiserver: Option<Process>,
    etcd: Option<Process>,
    admin: Admin,
    scratch: Scratch,
}

impl<'t> RealServer<'t> {
    /// Starts etcd and the API server and waits until they are ready.
    ///
    /// # Errors
    ///
    /// When `KUBEBUILDER_ASSETS` names no such programs, or they do not start, with the end of their log.
    pub fn start(topology: &'t Topology) -> Result<Self> {
        let assets = std::env::var_os(ASSETS)
            .with_context(|| format!("{ASSETS} is not set: name a directory with kube-apiserver and etcd"))?;
        let scratch = Scratch::files()?;
        let dir = scratch.path();
        let authority = Authority::new("kubernetes")?;
        fs::write(dir.join("ca.crt"), authority.certificate())?;
        kubeconfig::write_identity(dir, "server", &authority.server(Validity::Now)?)?;
        for (name, validity) in [("expired", Validity::Expired), ("masters", Validity::Now)] {
            kubeconfig::write_identity(dir, name, &authority.client(name, "system:masters", validity)?)?;
        }
        let (private, public) = pki::signing_key()?;
        fs::write(dir.join("sa.key"), private)?;
        fs::write(dir.join("sa.pub"), public)?;
        fs::write(dir.join("tokens.csv"), format!("{ADMIN_TOKEN},admin,admin,system:masters\n"))?;
        let server = format!("https://127.0.0.1:{PORT}");
        let config =
            kubeconfig::kubeconfig(&server, Some(&dir.join("ca.crt")), &Credential::Token(ADMIN_TOKEN));
        let admin = Admin::new(&config, Some(topology.host().netns().file()))?;
        let mut real = Self { topology, assets: assets.into(), apiserver: None, etcd: None, admin, scratch };
        real.start_etcd()?;
        real.start_apiserver()?;
        Ok(real)
    }

    /// Starts etcd on the data that is there.
    pub fn start_etcd(&mut self) -> Result<()> {
        let client = format!("http://127.0.0.1:{ETCD_PORT}");
        let peer = format!("http://127.0.0.1:{}", ETCD_PORT + 1);
        let mut command = self.command("etcd")?;
        command.arg("--data-dir").arg(self.data());
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}"), "--unsafe-no-fsync=true"]);
        self.etcd = Some(self.topology.host().spawn(command)?);
        Ok(())
    }

    /// Starts the API server and waits until it is ready.
    pub fn start_apiserver(&mut self) -> Result<()> {
        let dir = self.scratch.path();
        let mut command = self.command("kube-apiserver")?;
        command.args(["--etcd-servers", &format!("http://127.0.0.1:{ETCD_PORT}")]);
        command.args(["--bind-address", "127.0.0.1", "--secure-port", &PORT.to_string()]);
        command.args(["--advertise-address", "192.0.2.1", "--endpoint-reconciler-type", "none"]);
        command.args(["--authorization-mode", "RBAC", "--anonymous-auth=false"]);
        command.args(["--service-account-issuer", "https://kubernetes.default.svc"]);
        command.args(["--service-cluster-ip-range", &format!("{SERVICE_CIDR_V4},{SERVICE_CIDR_V6}")]);
        for (flag, file) in [
            ("--tls-cert-file", "server.crt"),
            ("--tls-private-key-file", "server.key"),
            ("--client-ca-file", "ca.crt"),
            ("--service-account-key-file", "sa.pub"),
            ("--service-account-signing-key-file", "sa.key"),
            ("--token-auth-file", "tokens.csv"),
            ("--cert-dir", "apiserver"),
        ] {
            command.arg(flag).arg(dir.join(file));
        }
        let mut process = self.topology.host().spawn(command)?;
        let deadline = Instant::now() + START;
        while let Err(error) = self.admin.ready() {
            if process.exited()?.is_some() || Instant::now() >= deadline {
                return Err(error.context(self.log_end()));
            }
            thread::sleep(Duration::from_millis(50));
        }
        self.apiserver = Some(process);
        Ok(())
    }

    fn command(&self, program: &str) -> Result<Command> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.scratch.path().join(format!("{program}.log")))?;
        let mut command = Command::new(self.assets.join(program));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    /// Sends a signal to one of them.
    pub fn signal(&mut self, part: Part, signal: Signal) -> Result<()> {
        self.part(part).as_mut().with_context(|| format!("{part:?} does not run"))?.signal(signal)
    }

    /// SIGKILL to one of them.
    pub fn kill(&mut self, part: Part) -> Result<()> {
        self.part(part).take().with_context(|| format!("{part:?} does not run"))?.kill().map(drop)
    }

    /// Kills etcd and starts it on the data that was saved.
    pub fn restore_etcd(&mut self) -> Result<()> {
        self.kill(Part::Etcd)?;
        self.copy(&self.saved(), &self.data())?;
        self.start_etcd()
    }

    /// Has etcd forget every revision but the last.
    pub fn compact(&self) -> Result<()> {
        let config =
            kubeconfig::kubeconfig(&format!("http://127.0.0.1:{ETCD_PORT}"), None, &Credential::Anonymous);
        let etcd = Admin::new(&config, Some(self.topology.host().netns().file()))?;
        let range = etcd.request("POST", "/v3/kv/range", Some(&json!({"key": "AA=="})))?;
        let revision = &range["header"]["revision"];
        etcd.request("POST", "/v3/kv/compaction", Some(&json!({"revision": revision, "physical": true})))
            .map(drop)
    }

    const fn part(&mut self, part: Part) -> &mut Option<Process> {
        match part {
            Part::ApiServer => &mut self.apiserver,
            Part::Etcd => &mut self.etcd,
        }
    }

    fn data(&self) -> PathBuf {
        self.scratch.path().join("etcd-data")
    }

    fn saved(&self) -> PathBuf {
        self.scratch.path().join("etcd-saved")
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        if to.exists() {
            fs::remove_dir_all(to)?;
        }
        let status = Command::new("cp").arg("-a").args([from, to]).status()?;
        anyhow::ensure!(status.success(), "cp: {status}");
        Ok(())
    }

    fn log_end(&self) -> String {
        let mut end = String::new();
        for program in ["kube-apiserver", "etcd"] {
            let log = fs::read(self.dir().join(format!("{program}.log"))).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).into_owned();
            let lines: Vec<&str> = log.lines().collect();
            end += &format!("--- the log of {program} ends with ---\n");
            end += &lines[lines.len().saturating_sub(15)..].join("\n");
            end.push('\n');
        }
        end
    }
}

impl ApiServer for RealServer<'_> {
    fn admin(&self) -> &Admin {
        &self.admin
    }

    fn dir(&self) -> &Path {
        self.scratch.path()
    }

    fn kubeconfig(&self, credential: &Credential<'_>) -> Value {
        kubeconfig::kubeconfig(
            &format!("https://127.0.0.1:{PORT}"),
            Some(&self.dir().join("ca.crt")),
            credential,
        )
    }

    fn pause(&mut self) -> Result<()> {
        self.signal(Part::ApiServer, Signal::STOP)
    }

    fn resume(&mut self) -> Result<()> {
        self.signal(Part::ApiServer, Signal::CONT)
    }

    fn stop(&mut self) -> Result<()> {
        self.kill(Part::ApiServer)
    }

    fn start(&mut self) -> Result<()> {
        self.start_apiserver()
    }

    fn save(&mut self) -> Result<()> {
        self.kill(Part::ApiServer)?;
        self.kill(Part::Etcd)?;
        self.copy(&self.data(), &self.saved())?;
        self.start_etcd()?;
        self.start_apiserver()
    }

    fn go_back(&mut self) -> Result<()> {
        self.kill(Part::ApiServer)?;
        self.restore_etcd()?;
        self.start_apiserver()
    }
}
