//! Programs of the system: found by name, brought by apt-get.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::{Context, Result, bail};

use super::{Found, host};
use crate::{
    cmd::{Cmd, on_path},
    ui,
};

/// A program, or the directory of a library, and the Debian package that it comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// A name on `PATH`, or an absolute path.
    name: &'static str,
    package: &'static str,
}

impl Program {
    fn is_there(&self) -> bool {
        if self.name.starts_with('/') { Path::new(self.name).exists() } else { on_path(self.name) }
    }

    /// The name, for people.
    fn shown(&self) -> &'static str {
        if self.name.starts_with('/') { self.package } else { self.name }
    }
}

const IP: Program = Program { name: "ip", package: "iproute2" };
const IPTABLES: Program = Program { name: "iptables", package: "iptables" };
const NFT: Program = Program { name: "nft", package: "nftables" };
const CURL: Program = Program { name: "curl", package: "curl" };
const PYTHON: Program = Program { name: "python3", package: "python3" };
const NGINX: Program = Program { name: "nginx", package: "nginx" };
const PS: Program = Program { name: "ps", package: "procps" };
const BUILDAH: Program = Program { name: "buildah", package: "buildah" };
const MUSL: Program = Program { name: "musl-gcc", package: "musl-tools" };
const RUNC: Program = Program { name: "runc", package: "runc" };
const PROMTOOL: Program = Program { name: "promtool", package: "prometheus" };
const GO: Program = Program { name: "go", package: "golang-go" };
/// Go's libraries that Helm is made of, for rendering the chart.
const GO_SPRIG: Program = Program {
    name: "/usr/share/gocode/src/github.com/Masterminds/sprig",
    package: "golang-github-masterminds-sprig-dev",
};
const GO_SCHEMA: Program = Program {
    name: "/usr/share/gocode/src/github.com/xeipuuv/gojsonschema",
    package: "golang-github-xeipuuv-gojsonschema-dev",
};
const GO_YAML: Program =
    Program { name: "/usr/share/gocode/src/gopkg.in/yaml.v3", package: "golang-gopkg-yaml.v3-dev" };
const KUBECTL: Program = Program { name: "kubectl", package: "kubernetes-client" };

const SS: Program = Program { name: "ss", package: "iproute2" };
/// What `python3 -m venv` installs pip from.
const PYTHON_VENV: Program = Program { name: "/usr/share/python-wheels", package: "python3-venv" };
const NODE: Program = Program { name: "node", package: "nodejs" };
const NPM: Program = Program { name: "npm", package: "npm" };
const JAVA: Program = Program { name: "java", package: "default-jdk-headless" };
const JAVAC: Program = Program { name: "javac", package: "default-jdk-headless" };
const REDIS: Program = Program { name: "redis-server", package: "redis-server" };
const REDIS_CLI: Program = Program { name: "redis-cli", package: "redis-tools" };
/// The server's own programs are not on `PATH`; this one comes with them.
const POSTGRES: Program = Program { name: "pg_createcluster", package: "postgresql" };
const PSQL: Program = Program { name: "psql", package: "postgresql-client" };

const QEMU: Program = Program { name: "qemu-system-x86_64", package: "qemu-system-x86" };
const BUSYBOX: Program = Program { name: "busybox", package: "busybox-static" };
/// What kube-proxy in IPVS mode does through netlink.
const IPVSADM: Program = Program { name: "ipvsadm", package: "ipvsadm" };
const CPIO: Program = Program { name: "cpio", package: "cpio" };
const XZ: Program = Program { name: "xz", package: "xz-utils" };

/// Programs whose packages bring a service.
const SERVICES: [(Program, &str); 4] = [
    (NGINX, "nginx.service"),
    (PROMTOOL, "prometheus.service"),
    (REDIS, "redis-server.service"),
    (POSTGRES, "postgresql.service"),
];

/// What the demo runs.
pub const DEMO: &[Program] = &[IP];
/// What the integration tests run.
pub const TEST: &[Program] = &[
    IP,
    SS,
    CURL,
    PYTHON,
    PYTHON_VENV,
    NODE,
    REDIS,
    REDIS_CLI,
    NGINX,
    PS,
    KUBECTL,
    PROMTOOL,
    GO,
    GO_SPRIG,
    GO_SCHEMA,
    GO_YAML,
    BUILDAH,
    MUSL,
    RUNC,
];
/// What an image is built with.
pub const IMAGE: &[Program] = &[BUILDAH, MUSL];
/// What the benchmark runs.
pub const BENCH: &[Program] = &[IP, IPTABLES, NFT];
/// What the client suite runs whatever the libraries, and then for each part.
pub const CLIENTS: &[Program] = &[IP, SS];
/// For clients in Python.
pub const CLIENTS_PYTHON: &[Program] = &[PYTHON, PYTHON_VENV];
/// For clients and servers in Node.js.
pub const CLIENTS_NODE: &[Program] = &[NODE];
/// For clients that use packages of Node.js.
pub const CLIENTS_NPM: &[Program] = &[NODE, NPM];
/// For the client in Java.
pub const CLIENTS_JAVA: &[Program] = &[JAVA, JAVAC];
/// For the client in Go.
pub const CLIENTS_GO: &[Program] = &[GO];
/// For clients of Redis.
pub const CLIENTS_REDIS: &[Program] = &[REDIS, REDIS_CLI];
/// For clients of PostgreSQL.
pub const CLIENTS_POSTGRES: &[Program] = &[POSTGRES, PSQL];

/// What other kernels are booted with, and what tests run there. Large and rarely wanted: only `vm` itself brings it.
pub const VM: &[Program] = &[QEMU, BUSYBOX, CPIO, XZ, MUSL, IP, SS, IPTABLES, NFT, IPVSADM, CURL];

/// Everything that the other commands need.
pub fn all() -> Vec<Program> {
    let mut all = Vec::new();
    for program in [DEMO, TEST, IMAGE, BENCH].concat() {
        if !all.contains(&program) {
            all.push(program);
        }
    }
    all
}

/// The names, for people.
pub fn names(programs: &[Program]) -> String {
    programs.iter().map(Program::shown).collect::<Vec<_>>().join(", ")
}

/// Brings the programs that are missing.
///
/// # Errors
/// Names every missing program where they cannot be installed: without root, or without apt-get.
pub fn packages(programs: &[Program]) -> Result<Found> {
    let missing: Vec<_> = programs.iter().copied().filter(|program| !program.is_there()).collect();
    if missing.is_empty() {
        return Ok(Found::Present);
    }
    let packages: Vec<_> = missing.iter().map(|program| program.package).collect();
    let list = packages.join(" ");
    if !on_path("apt-get") {
        bail!(
            "missing: {}; this system has no apt-get, so install the packages with these programs yourself \
             (Debian calls them {list})",
            names(&missing)
        );
    }
    if !host::is_root() {
        bail!("missing: {}; run `sudo apt-get install {list}`, or this command as root", names(&missing));
    }
    ui::say(format_args!("installing the system packages {list}"));
    let quiet = NoServices::hold()?;
    update_lists()?;
    apt(&[&["install", "--yes", "--no-install-recommends"], &packages[..]].concat())?;
    drop(quiet);
    for (program, service) in SERVICES {
        if missing.contains(&program) && on_path("systemctl") {
            // Nor shall it start with the machine from now on.
            Cmd::new("systemctl").args(["--quiet", "disable", service]).run()?;
        }
    }
    if let Some(program) = missing.iter().find(|program| !program.is_there()) {
        bail!("package {} is installed, but there is still no `{}`", program.package, program.name);
    }
    Ok(Found::Installed)
}

/// Brings apt's lists of what there is.
///
/// # Errors
/// When apt-get fails, or there is none.
pub fn update_lists() -> Result<()> {
    apt(&["update"])
}

fn apt(args: &[&str]) -> Result<()> {
    let waiting = ["-o", "DPkg::Lock::Timeout=120", "-qq"];
    Cmd::new("apt-get").args(waiting).args(args).quiet_env("DEBIAN_FRONTEND", "noninteractive").run()
}

/// Keeps packages from starting their services (nginx would listen on this machine) for as long as it
/// lives: Debian asks this file before it starts one. A policy that the machine already has stays.
struct NoServices {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn hold() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { ours: false });
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(POLICY)
            .with_context(|| format!("cannot write {POLICY}"))?;
        let held = Self { ours: true };
        // 101: "action forbidden by policy".
        file.write_all(b"#!/bin/sh\nexit 101\n").with_context(|| format!("cannot write {POLICY}"))?;
        Ok(held)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            ui::warn(format_args!("cannot remove {POLICY}, which keeps services from starting: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_s_programs_are_part_of_setup_once() {
        let all = all();
        for program in [DEMO, TEST, IMAGE, BENCH].concat() {
            assert_eq!(all.iter().filter(|other| **other == program).count(), 1, "{}", program.name);
        }
    }
}
