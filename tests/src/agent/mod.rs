//! The real `balancer` binary on a [`Topology`]: the agent started, killed and asked, and its command line.

mod stats;
mod usage;

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

pub use self::{
    stats::{BackendStats, Dialled, EvennessStats, FailedStats, ServiceStats},
    usage::Usage,
};
use crate::{
    kernel::patience,
    manifests::ManifestDir,
    topology::{Process, Scratch, Topology},
};

/// Where the agent serves HTTP, in the node's own namespace.
pub const HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9990);

/// How long the agent gets to become ready, or to end.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How an agent is started.
#[derive(Clone, Debug, Default)]
pub struct AgentOptions {
    /// The binary; without one [`binary`] finds it.
    pub binary: Option<PathBuf>,
    /// `--lease`; without one the agent's default.
    pub lease: Option<Duration>,
    /// Directory of the pins; without one a directory of its own, removed on drop.
    pub pins: Option<PathBuf>,
    /// `--cgroup`; without one that of the whole topology.
    pub cgroup: Option<PathBuf>,
    /// `--node`; without one `node-1`.
    pub node: Option<String>,
    /// `--http`; without one [`HTTP`].
    pub http: Option<SocketAddr>,
    /// More arguments after `agent`.
    pub arguments: Vec<String>,
    /// Variables of its environment. No other `BALANCER_…` variable reaches it.
    pub environment: Vec<(String, String)>,
}

/// The agent of one node. Dropping it kills it and unpins everything.
#[derive(Debug)]
pub struct Agent<'t> {
    topology: &'t Topology,
    process: Option<Process>,
    binary: PathBuf,
    /// Flags that say where Services come from.
    source: Vec<OsString>,
    options: AgentOptions,
    /// Kept after `process`, so that pins go after their agent.
    pins: Pins,
    scratch: Scratch,
}

/// Where it pins.
#[derive(Debug)]
enum Pins {
    Own(Scratch),
    Given(PathBuf),
}

impl<'t> Agent<'t> {
    /// Starts one with default options and waits until it is ready.
    pub fn start(topology: &'t Topology, manifests: &ManifestDir) -> Result<Self> {
        Self::with(topology, manifests, AgentOptions::default())
    }

    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it ends or is not ready in time, with the end of its log.
    pub fn with(topology: &'t Topology, manifests: &ManifestDir, options: AgentOptions) -> Result<Self> {
        let mut agent = Self::stopped(topology, manifests, options)?;
        agent.spawn()?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Prepares one without starting it.
    pub fn stopped(topology: &'t Topology, manifests: &ManifestDir, options: AgentOptions) -> Result<Self> {
        let source = ["--source", "manifests", "--manifests"].map(OsString::from);
        let source = source.into_iter().chain([manifests.path().into()]).collect();
        Self::prepare(topology, source, options)
    }

    /// Prepares one that reads from an API server, without starting it.
    pub fn of_cluster(topology: &'t Topology, kubeconfig: &Path, options: AgentOptions) -> Result<Self> {
        let source = ["--source", "kubernetes", "--kubeconfig"].map(OsString::from);
        let source = source.into_iter().chain([kubeconfig.into()]).collect();
        Self::prepare(topology, source, options)
    }

    fn prepare(topology: &'t Topology, source: Vec<OsString>, options: AgentOptions) -> Result<Self> {
        let binary = match &options.binary {
            Some(path) => path.clone(),
            None => binary()?,
        };
        let pins = options.pins.clone().map_or_else(|| Pins::Own(Scratch::pins()), Pins::Given);
        Ok(Self { topology, process: None, binary, source, options, pins, scratch: Scratch::files()? })
    }

    /// Starts the process without waiting for anything.
    pub fn spawn(&mut self) -> Result<()> {
        let log =
            OpenOptions::new().create(true).append(true).open(self.log_path()).context("log of the agent")?;
        let mut command = self.command();
        let node = self.options.node.as_deref().unwrap_or("node-1");
        command.args(["agent", "--node", node]).args(&self.source);
        command.arg("--cgroup").arg(self.options.cgroup.as_deref().unwrap_or(self.topology.cgroup()));
        command.args(["--http", &self.http_address().to_string()]);
        if let Some(lease) = self.options.lease {
            command.args(["--lease", &format!("{}s", lease.as_secs())]);
        }
        command.args(&self.options.arguments);
        command.stdin(Stdio::null()).stdout(duplicate(&log)?).stderr(log);
        self.process = Some(self.topology.host().spawn(command)?);
        Ok(())
    }

    /// Waits until `/readyz` says yes.
    pub fn wait_ready(&mut self) -> Result<()> {
        let timeout = patience(TIMEOUT);
        let deadline = Instant::now() + timeout;
        loop {
            let process = self.process.as_mut().context("the agent was not started")?;
            if let Some(status) = process.exited()? {
                bail!("the agent ended ({status}) before it was ready; its log:\n{}", self.log_end());
            }
            if let Ok((200, _)) = self.http("/readyz") {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("the agent is not ready after {timeout:?}; its log:\n{}", self.log_end());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, and its exit status. What it pinned goes on working until the lease lapses.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.process.take().context("the agent does not run")?.terminate(patience(TIMEOUT))
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("the agent does not run")?.kill().map(drop)
    }

    /// Kills it, starts it again on the same pins and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.spawn()?;
        self.wait_ready()
    }

    /// How it is started the next time. The pins and the binary stay what they were.
    pub const fn options_mut(&mut self) -> &mut AgentOptions {
        &mut self.options
    }

    /// Its process, while it runs.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("the agent does not run")
    }

    /// The directory of its pins, as given to `--pins`.
    pub fn pins(&self) -> &Path {
        match &self.pins {
            Pins::Own(scratch) => scratch.path(),
            Pins::Given(path) => path,
        }
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Where it serves HTTP, in the node's own namespace.
    fn http_address(&self) -> SocketAddr {
        self.options.http.unwrap_or(HTTP)
    }

    /// GET from its HTTP server: status and body.
    pub fn http(&self, path: &str) -> Result<(u16, String)> {
        self.topology.host().netns().run(|| get(self.http_address(), path))?
    }

    /// Runs `balancer ARGUMENTS --pins …` on the node, to its end.
    pub fn cli<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Output> {
        let mut command = self.command();
        command.args(arguments);
        self.topology.host().output(command)
    }

    /// What a command printed.
    ///
    /// # Errors
    ///
    /// When it fails, with what it said.
    pub fn print<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        let output = self.cli(arguments)?;
        let stdout = String::from_utf8(output.stdout).context("not UTF-8")?;
        if !output.status.success() {
            bail!("balancer failed ({}): {}{stdout}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(stdout)
    }

    /// What a command says with `-o json`.
    pub fn json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<serde_json::Value> {
        let tail = ["-o", "json"].map(|argument| OsStr::new(argument).to_owned());
        let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
        let text = self.print(arguments.chain(tail))?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// All Service ports with their counts: `balancer stats -A`.
    pub fn stats(&self) -> Result<Vec<ServiceStats>> {
        ServiceStats::read(self.json(["stats", "-A"])?)
    }

    /// The counts of the Service port that is dialled at an address.
    pub fn stats_of(&self, dialled: impl Into<Dialled>) -> Result<ServiceStats> {
        let dialled = dialled.into();
        let found = self.stats()?.into_iter().find(|service| service.is_dialled_by(dialled));
        found.with_context(|| format!("no Service at {dialled:?}"))
    }

    /// Waits until a condition on the counts of a Service port holds, and returns them.
    ///
    /// # Errors
    ///
    /// When it does not within `timeout`, with the last counts.
    pub fn wait_for(
        &self,
        dialled: impl Into<Dialled>,
        timeout: Duration,
        condition: impl Fn(&ServiceStats) -> bool,
    ) -> Result<ServiceStats> {
        let dialled = dialled.into();
        let timeout = patience(timeout);
        let deadline = Instant::now() + timeout;
        loop {
            let last = match self.stats_of(dialled) {
                Ok(stats) if condition(&stats) => return Ok(stats),
                other => other,
            };
            if Instant::now() >= deadline {
                bail!("the counts of {dialled:?} are not as expected after {timeout:?}: {last:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BALANCER_"))
        {
            command.env_remove(name);
        }
        command.env("NO_COLOR", "1").env("BALANCER_PINS", self.pins());
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("agent.log")
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            #[expect(clippy::print_stderr, reason = "belongs to the output of the failed test")]
            {
                eprintln!("--- the agent's log ends with ---\n{}", self.log_end());
            }
        }
    }
}

/// Where the `balancer` binary is: BALANCER_BIN, or beside the running test.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("BALANCER_BIN") {
        return Ok(path.into());
    }
    let here = std::env::current_exe().context("path of this program")?;
    // target/debug/deps/test-1234 or target/debug/demo
    let found = here.ancestors().skip(1).take(2).map(|dir| dir.join("balancer")).find(|path| path.is_file());
    found.with_context(|| {
        format!("no `balancer` near {}: build it with cargo xtask build, or set BALANCER_BIN", here.display())
    })
}

/// One HTTP request: status and body.
pub fn get(at: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream =
        TcpStream::connect_timeout(&at, Duration::from_secs(5)).with_context(|| at.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).context("time-out")?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n").context("request")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status")?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if chunked { unchunk(body).context("chunked body")? } else { body.to_owned() }))
}

/// The contents of a chunked body.
fn unchunk(mut body: &str) -> Option<String> {
    let mut contents = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(contents);
        }
        contents.push_str(rest.get(..size)?);
        body = rest.get(size..)?.strip_prefix("\r\n")?;
    }
}

fn duplicate(file: &File) -> Result<File> {
    file.try_clone().map_err(|error: io::Error| error.into())
}

#[cfg(test)]
mod tests {
    use super::unchunk;

    #[test]
    fn chunks_are_joined() {
        assert_eq!(unchunk("3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n").as_deref(), Some("abc0123456789"));
        assert_eq!(unchunk("5\r\nabc"), None);
    }
}
