//! A real `kube-apiserver` on a real `etcd`, in the node's namespace of a topology.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde_json::Value;

use super::{
    ADMIN_TOKEN, ASSETS, Admin,
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
        fs::write(dir.join("sa.key"), pki::signing_key()?)?;
        fs::write(dir.join("tokens.csv"), format!("{ADMIN_TOKEN},admin,admin,system:masters\n"))?;
        let server = format!("https://127.0.0.1:{PORT}");
        let config = kubeconfig::kubeconfig(&server, Some(&dir.join("ca.crt")), &Credential::Token(ADMIN_TOKEN));
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
            ("--service-account-key-file", "sa.key"),
            ("--service-account-signing-key-file", "sa.key"),
            ("--token-auth-file", "tokens.csv"),
            ("--cert-dir", "apiserver"),
        ] {
            command.arg(flag).arg(dir.join(file));
        }
        self.apiserver = Some(self.topology.host().spawn(command)?);
        self.admin.wait_ready(START).with_context(|| self.log_end())
    }

    fn command(&self, program: &str) -> Result<Command> {
        let log = File::options().create(true).append(true).open(self.scratch.path().join(format!("{program}.log")))?;
        let mut command = Command::new(self.assets.join(program));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    /// The tests' client.
    pub const fn admin(&self) -> &Admin {
        &self.admin
    }

    /// A directory with its certificates, for files of the test's too.
    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    /// Its certificate authority.
    pub fn authority(&self) -> PathBuf {
        self.dir().join("ca.crt")
    }

    /// A kubeconfig for it.
    pub fn kubeconfig(&self, credential: &Credential<'_>) -> Value {
        kubeconfig::kubeconfig(&format!("https://127.0.0.1:{PORT}"), Some(&self.authority()), credential)
    }

    /// Sends a signal to the API server.
    pub fn signal_apiserver(&mut self, signal: Signal) -> Result<()> {
        self.apiserver.as_mut().context("no API server runs")?.signal(signal)
    }

    /// Sends a signal to etcd.
    pub fn signal_etcd(&mut self, signal: Signal) -> Result<()> {
        self.etcd.as_mut().context("no etcd runs")?.signal(signal)
    }

    /// SIGKILL to the API server.
    pub fn kill_apiserver(&mut self) -> Result<()> {
        self.apiserver.take().context("no API server runs")?.kill().map(drop)
    }

    /// SIGKILL to etcd.
    pub fn kill_etcd(&mut self) -> Result<()> {
        self.etcd.take().context("no etcd runs")?.kill().map(drop)
    }

    /// etcd's data.
    pub fn data(&self) -> PathBuf {
        self.dir().join("etcd-data")
    }

    /// Copies etcd's data; etcd must not run.
    pub fn copy_data(&self, from: &Path, to: &Path) -> Result<()> {
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
