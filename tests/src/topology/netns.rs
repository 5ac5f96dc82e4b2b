//! Network namespaces that end with their owner.

use std::{
    fs::File,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where iproute2 keeps named namespaces.
pub(super) const DIR: &str = "/run/netns";

/// A named network namespace, removed on drop. `ip netns exec NAME` enters it.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// Makes it, with loopback up and without duplicate address detection, which would delay IPv6 by a second.
    pub fn new(name: String) -> Result<Self> {
        ip_batch(None, &[format!("netns add {name}")])?;
        let file = File::open(PathBuf::from(DIR).join(&name)).with_context(|| format!("namespace {name}"));
        let netns = match file {
            Ok(file) => Self { name, file },
            Err(error) => {
                remove(&name)?;
                return Err(error);
            }
        };
        netns.sysctl(&[
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/all/disable_ipv6", "0"),
            ("net/ipv6/conf/default/disable_ipv6", "0"),
        ])?;
        ip_batch(Some(&netns), &["link set lo up".into()])?;
        Ok(netns)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A file that stands for it, for setns.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes kernel parameters of this namespace; names as below /proc/sys.
    pub fn sysctl(&self, parameters: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (name, value) in parameters {
                std::fs::write(format!("/proc/sys/{name}"), value)
                    .with_context(|| format!("sysctl {name}={value}"))?;
            }
            Ok(())
        })?
    }

    /// Runs a closure on a thread in this namespace.
    ///
    /// The cgroup stays the caller's: sockets made here are not seen by programs attached to the topology's cgroup. To dial
    /// as a pod does, use [`super::Pod::client`] or [`super::Pod::spawn`].
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        let file = &self.file;
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(std::os::fd::AsFd::as_fd(file), Some(LinkNameSpaceType::Network))
                    .context("setns")?;
                Ok(body())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            complain(&error);
        }
    }
}

/// Removes a namespace by name; gone already is fine.
pub(super) fn remove(name: &str) -> Result<()> {
    let path = PathBuf::from(DIR).join(name);
    if !path.exists() {
        return Ok(());
    }
    match ip_batch(None, &[format!("netns delete {name}")]) {
        Err(_) if !path.exists() => Ok(()),
        other => other,
    }
}

/// Runs `ip` commands (without the word `ip`), in a namespace or outside, stopping at the first that fails.
///
/// # Errors
///
/// What `ip` said, and the commands.
pub fn ip_batch(netns: Option<&Netns>, commands: &[String]) -> Result<()> {
    let mut ip = Command::new("ip");
    if let Some(netns) = netns {
        ip.args(["-n", netns.name()]);
    }
    ip.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = ip.spawn().context("ip (install iproute2)")?;
    let text = commands.join("\n") + "\n";
    let mut stdin = child.stdin.take().context("stdin of ip")?;
    stdin.write_all(text.as_bytes()).context("stdin of ip")?;
    drop(stdin);
    let output = child.wait_with_output().context("ip")?;
    if !output.status.success() {
        bail!("ip failed: {}\nin:\n{text}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Says what could not be cleaned up; nothing more can be done about it in a drop.
#[expect(clippy::print_stderr, reason = "a failed clean-up must be seen in the output of the test")]
pub(super) fn complain(error: &anyhow::Error) {
    eprintln!("clean-up failed: {error:#}");
}
