//! The servers of a row: one in each pod, all of one kind.

mod postgres;
mod redis;
mod writing;

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use self::{postgres::Postgres, redis::Redis, writing::Writing};
use super::{library::ServerKind, parts::Places};
use crate::topology::{Pod, Process, interrupted};

/// Where all of them listen.
pub const PORT: u16 = 8080;

/// How long one gets to start, or to end.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What servers are started with.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'r> {
    /// Where programs are.
    pub places: &'r Places,
    /// A directory of this row's own.
    pub scratch: &'r Path,
    /// What the client dials: the name in the certificate.
    pub dialled: SocketAddr,
    /// Requests take up to this long, where the server can be told so.
    pub delay: Duration,
}

/// A server that remembers which requests it has carried out.
trait Server {
    /// Their ids, each as often as it was carried out. Called once no client is left; ends the server.
    fn executed(self: Box<Self>) -> Result<Vec<String>>;
}

/// All servers of a row.
pub struct Servers<'r>(Vec<Box<dyn Server + 'r>>);

impl<'r> Servers<'r> {
    /// Starts one in each pod, and waits until they listen.
    pub fn start(kind: ServerKind, pods: &'r [Pod], setting: Setting<'r>) -> Result<Self> {
        let servers: Result<Vec<Box<dyn Server + 'r>>> = match kind {
            ServerKind::Http => boxed(pods, |pod| Writing::http(pod, setting)),
            ServerKind::Https => {
                let identity = writing::identity(setting)?;
                boxed(pods, |pod| Writing::https(pod, setting, &identity))
            }
            ServerKind::Grpc => boxed(pods, |pod| Writing::grpc(pod, setting)),
            ServerKind::Redis => boxed(pods, |pod| Redis::start(pod, setting)),
            ServerKind::Postgres => {
                let template = postgres::Template::new(&pods[0], setting)?;
                boxed(pods, |pod| Postgres::start(pod, &template))
            }
        };
        servers.map(Self)
    }

    /// The file of the authority that a client must trust.
    pub fn authority(kind: ServerKind, scratch: &Path) -> Option<std::path::PathBuf> {
        (kind == ServerKind::Https).then(|| writing::authority(scratch))
    }

    /// The ids of all requests that any of them carried out, each as often as that happened.
    pub fn executed(self) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for server in self.0 {
            all.append(&mut server.executed()?);
        }
        Ok(all)
    }
}

fn boxed<'r, S: Server + 'r>(
    pods: &'r [Pod],
    start: impl Fn(&'r Pod) -> Result<S>,
) -> Result<Vec<Box<dyn Server + 'r>>> {
    let boxed = |pod| start(pod).map(|server| Box::new(server) as Box<dyn Server + 'r>);
    pods.iter().map(boxed).collect()
}

/// Tries until it succeeds.
fn retry<T>(what: &str, attempt: impl Fn() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match attempt() {
            Err(error) if Instant::now() >= deadline => return Err(error).context(what.to_owned()),
            Err(_) if interrupted() => bail!("interrupted"),
            Err(_) => thread::sleep(Duration::from_millis(100)),
            done => return done,
        }
    }
}

/// Runs a command in a pod and returns what it printed; fails unless it succeeds.
fn run(pod: &Pod, command: Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = pod.output(command)?;
    if !output.status.success() {
        let said = [output.stderr, output.stdout].concat();
        bail!("{name} failed ({}): {}", output.status, String::from_utf8_lossy(&said).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{name}: not UTF-8"))
}

/// Starts a server whose words do not matter.
fn spawn_quiet(pod: &Pod, mut command: Command) -> Result<Process> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    pod.spawn(command)
}
