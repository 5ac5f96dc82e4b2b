//! Processes that end with their owner.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd},
        unix::process::CommandExt as _,
    },
    process::{Child, Command, ExitStatus, Output},
    sync::atomic::{AtomicBool, Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// A child process, killed and reaped on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts a command in a namespace and a cgroup, and in a process group of its own so that Ctrl-C in a terminal reaches
    /// the owner alone, which then ends it in order.
    pub(super) fn start(mut command: Command, netns: &File, procs: &File) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let (netns, procs) = (netns.as_raw_fd(), procs.as_raw_fd());
        // SAFETY: between fork and exec the closure only makes system calls on two descriptors that the caller keeps open
        // until `spawn` has returned; it neither allocates nor takes a lock.
        unsafe {
            command
                .process_group(0)
                .pre_exec(move || enter(BorrowedFd::borrow_raw(netns), BorrowedFd::borrow_raw(procs)))
        };
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name, status: None })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its pipes, for callers that asked for some.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its exit status, if it has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait().with_context(|| format!("waiting for {}", self.name))?;
        }
        Ok(self.status)
    }

    /// Sends a signal; fails if the process has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.exited()? {
            bail!("{} has ended: {status}", self.name);
        }
        self.send(signal)
    }

    /// Sends a signal to a process that has not been waited for, so that the id is still its own. If it has ended by itself
    /// nothing happens.
    fn send(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw).context("process id")?;
        kill_process(pid, signal).with_context(|| format!("signal to {}", self.name))
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    ///
    /// When it still runs after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} (process {}) still runs after {timeout:?}", self.name, self.id());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Reads its pipes until it ends.
    ///
    /// # Errors
    ///
    /// When it still runs after `timeout`; it is killed then.
    pub fn output(mut self, timeout: Duration) -> Result<Output> {
        let stdout = self.child.stdout.take().map(read_all);
        let stderr = self.child.stderr.take().map(read_all);
        let status = self.wait(timeout)?;
        Ok(Output { status, stdout: collect(stdout)?, stderr: collect(stderr)? })
    }

    /// SIGTERM, then waits.
    pub fn terminate(&mut self, timeout: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.exited()? {
            return Ok(status);
        }
        self.send(Signal::TERM)?;
        self.wait(timeout)
    }

    /// SIGKILL, then waits.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.exited()? {
            return Ok(status);
        }
        self.send(Signal::KILL)?;
        self.wait(Duration::from_secs(10))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            super::netns::complain(&error);
        }
    }
}

/// Reads a pipe to its end on a thread.
fn read_all(mut pipe: impl Read + Send + 'static) -> JoinHandle<io::Result<Vec<u8>>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes)?;
        Ok(bytes)
    })
}

fn collect(reader: Option<JoinHandle<io::Result<Vec<u8>>>>) -> Result<Vec<u8>> {
    match reader.map(JoinHandle::join) {
        None => Ok(Vec::new()),
        Some(Ok(read)) => read.context("output"),
        Some(Err(panic)) => std::panic::resume_unwind(panic),
    }
}

/// In the child: joins the cgroup, then the namespace.
fn enter(netns: BorrowedFd<'_>, procs: BorrowedFd<'_>) -> io::Result<()> {
    rustix::io::write(procs, b"0\n")?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(())
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT, SIGTERM and SIGHUP no longer end this process but make [`interrupted`] true, so that values are dropped
/// in order. A second one ends it at once.
pub fn on_signals() -> Result<()> {
    extern "C" fn note(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: all zero is a valid sigaction; the handler only stores to an atomic, which is async-signal-safe.
        let result = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_RESETHAND;
            libc::sigaction(signal, &action, std::ptr::null_mut())
        };
        if result != 0 {
            return Err(io::Error::last_os_error()).context("sigaction");
        }
    }
    Ok(())
}

/// Whether a signal asked this process to end; see [`on_signals`].
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}
