//! Servers of our own programs, which write the id of each request when they begin to carry it out.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{PORT, Server, Setting, TIMEOUT};
use crate::{
    apiserver::pki::Authority,
    clients::lines::Lines,
    topology::{Pod, Process, interrupted},
};

/// Its first line.
const LISTENING: &str = "listening";

/// A server and what it has written. Dropping it kills it.
pub struct Writing {
    process: Process,
    lines: Lines,
}

/// The files of a certificate and its key.
pub struct Identity {
    certificate: PathBuf,
    key: PathBuf,
}

/// Makes a certificate for what the client dials, and an authority.
pub fn identity(setting: Setting<'_>) -> Result<Identity> {
    let by = Authority::new("clients")?;
    let issued = by.server_at(setting.dialled.ip())?;
    let identity =
        Identity { certificate: setting.scratch.join("server.pem"), key: setting.scratch.join("server.key") };
    let files = [
        (&authority(setting.scratch), by.certificate()),
        (&identity.certificate, &issued.certificate),
        (&identity.key, &issued.key),
    ];
    for (path, text) in files {
        fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    Ok(identity)
}

/// The file of the authority.
pub fn authority(scratch: &Path) -> PathBuf {
    scratch.join("authority.pem")
}

impl Writing {
    /// Node.js, HTTP.
    pub fn http(pod: &Pod, setting: Setting<'_>) -> Result<Self> {
        Self::start(pod, with_arguments(setting.places.node("server.js"), setting))
    }

    /// Node.js, HTTPS.
    pub fn https(pod: &Pod, setting: Setting<'_>, identity: &Identity) -> Result<Self> {
        let mut command = with_arguments(setting.places.node("server.js"), setting);
        command.arg(&identity.certificate).arg(&identity.key);
        Self::start(pod, command)
    }

    /// grpcio.
    pub fn grpc(pod: &Pod, setting: Setting<'_>) -> Result<Self> {
        Self::start(pod, with_arguments(setting.places.python("grpc_server.py"), setting))
    }

    fn start(pod: &Pod, mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process = pod.spawn(command)?;
        let lines = Lines::of(process.child().stdout.take().context("stdout of the server")?);
        let deadline = Instant::now() + TIMEOUT;
        while lines.count(LISTENING) == 0 {
            if let Some(status) = process.exited()? {
                bail!("the server in {} ended before it listened: {status}", pod.name());
            }
            if interrupted() || Instant::now() >= deadline {
                bail!("the server in {} does not listen", pod.name());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { process, lines })
    }
}

fn with_arguments(mut command: Command, setting: Setting<'_>) -> Command {
    command.arg(PORT.to_string()).arg(setting.delay.as_millis().to_string());
    command
}

impl Server for Writing {
    fn executed(mut self: Box<Self>) -> Result<Vec<String>> {
        if let Some(status) = self.process.exited()? {
            bail!("a server ended by itself: {status}");
        }
        self.process.kill()?;
        let lines = self.lines.finish().into_iter().map(|(_, line)| line);
        Ok(lines.filter(|line| line != LISTENING).collect())
    }
}
