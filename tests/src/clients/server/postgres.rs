//! PostgreSQL. Each request is a row of a table.

use std::{
    ffi::OsStr,
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::{PORT, Server, Setting, TIMEOUT, retry, run, spawn_quiet};
use crate::topology::{Pod, Process};

/// It refuses to run as root; Debian's package brings this user.
const USER: &str = "postgres";

/// A fresh data directory, which each server starts on a copy of: making one takes seconds.
pub struct Template {
    /// Its programs.
    bin: PathBuf,
    /// A directory of `USER`'s.
    dir: PathBuf,
}

impl Template {
    /// Makes it, with a pod to run commands in.
    pub fn new(pod: &Pod, setting: Setting<'_>) -> Result<Self> {
        let bin = setting.places.postgres().context("PostgreSQL is not installed")?;
        let template = Self { bin, dir: setting.scratch.join("postgres") };
        let mut make = Command::new("install");
        make.args(["--directory", "--mode=700", "--owner", USER, "--group", USER]).arg(&template.dir);
        run(pod, make)?;
        let data = template.data("template");
        let mut initdb = template.as_user("initdb");
        initdb.args(["--no-sync", "--auth=trust", "--no-locale", "--encoding=UTF8", "--pgdata"]).arg(&data);
        run(pod, initdb)?;
        let hba = data.join("pg_hba.conf");
        let mut file = OpenOptions::new().append(true).open(&hba).context("pg_hba.conf")?;
        file.write_all(b"host all all 0.0.0.0/0 trust\n").context("pg_hba.conf")?;
        Ok(template)
    }

    fn data(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn as_user(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups", "--"]);
        command.arg(self.bin.join(program));
        // The caller's directory may be closed to it.
        command.current_dir("/");
        command
    }
}

/// A server. Dropping it ends it in order: killed, it would leave shared memory behind.
pub struct Postgres<'r> {
    pod: &'r Pod,
    process: Process,
}

impl<'r> Postgres<'r> {
    /// Starts it, makes its table and waits until that is there.
    pub fn start(pod: &'r Pod, template: &Template) -> Result<Self> {
        let data = template.data(pod.name());
        copy(pod, &template.data("template"), &data)?;
        let mut command = template.as_user("postgres");
        command.arg("-D").arg(&data).args(["-p", &PORT.to_string()]);
        for setting in [
            "listen_addresses=*",
            "unix_socket_directories=",
            "dynamic_shared_memory_type=mmap",
            "shared_buffers=16MB",
            "fsync=off",
            "autovacuum=off",
        ] {
            command.args(["-c", setting]);
        }
        let server = Self { pod, process: spawn_quiet(pod, command)? };
        retry("PostgreSQL does not answer", || {
            run(pod, psql("CREATE TABLE IF NOT EXISTS executed (id text NOT NULL)"))
        })?;
        Ok(server)
    }
}

fn copy(pod: &Pod, from: &Path, to: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    copy.args([OsStr::new("--archive"), from.as_os_str(), to.as_os_str()]);
    run(pod, copy).map(drop)
}

fn psql(query: &str) -> Command {
    let mut command = Command::new("psql");
    command.args(["-h", "127.0.0.1", "-p", &PORT.to_string(), "-U", USER, "-d", "postgres"]);
    command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-c", query]);
    command
}

impl Server for Postgres<'_> {
    fn executed(self: Box<Self>) -> Result<Vec<String>> {
        let ids = run(self.pod, psql("SELECT id FROM executed"))?;
        Ok(ids.lines().map(str::to_owned).collect())
    }
}

impl Drop for Postgres<'_> {
    fn drop(&mut self) {
        // "Fast shutdown". What does not end by it is killed, with its pod at the latest.
        if self.process.signal(Signal::INT).is_ok() {
            _ = self.process.wait(TIMEOUT.min(Duration::from_secs(5)));
        }
    }
}
