//! An agent that cannot start says why, and how to mend it, in one line; it leaves nothing behind where
//! nothing was, and what an earlier agent left goes on.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use balancer_tests::{
    agent::{HTTP, binary},
    topology::Scratch,
};

use crate::{
    foreign::{self, INET4_CONNECT, MapType, attached},
    set::{Set, pinned, vip4},
    tables::{Tables, settle},
};

/// However often it is mounted there.
const NO_BPFFS: &str = "while umount -l /sys/fs/bpf 2>&-; do :; done";

/// How an agent is started that should not come up.
pub struct Attempt {
    /// What runs before it, in a shell, in a mount namespace of its own.
    before: Option<String>,
    /// A command that it runs under.
    under: Vec<OsString>,
    binary: PathBuf,
    manifests: PathBuf,
    /// `--cgroup`.
    pub cgroup: Option<PathBuf>,
    pins: PathBuf,
    arguments: Vec<String>,
}

impl Attempt {
    pub fn new(set: &Set, pins: &Path) -> Self {
        Self {
            before: None,
            under: Vec::new(),
            binary: binary().unwrap(),
            manifests: set.manifests.path().to_owned(),
            cgroup: Some(set.node.cgroup().to_owned()),
            pins: pins.to_owned(),
            arguments: Vec::new(),
        }
    }

    pub fn under(self, command: &str) -> Self {
        Self { under: command.split(' ').map(Into::into).collect(), ..self }
    }

    fn before(self, script: impl Into<String>) -> Self {
        Self { before: Some(script.into()), ..self }
    }

    pub fn arguments(self, arguments: &[&str]) -> Self {
        Self { arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(), ..self }
    }

    fn line(&self) -> Vec<OsString> {
        let mut line = self.under.clone();
        line.push(self.binary.clone().into());
        line.extend(["agent".into(), "--pins".into(), self.pins.clone().into()]);
        line.extend(["--manifests".into(), self.manifests.clone().into()]);
        if let Some(cgroup) = &self.cgroup {
            line.extend(["--cgroup".into(), cgroup.clone().into()]);
        }
        line.extend(self.arguments.iter().map(Into::into));
        line
    }

    pub fn command(&self) -> Command {
        let line = self.line();
        let mut command = match &self.before {
            Some(script) => {
                let mut command = Command::new("unshare");
                let script = format!("set -e; {script}; exec \"$@\"");
                command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).args(&line);
                command
            }
            None => {
                let mut command = Command::new(&line[0]);
                command.args(&line[1..]);
                command
            }
        };
        for variable in ["KUBECONFIG", "HOME", "RUST_LOG"] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs it to its end, which must come by itself, and returns the exit code and the line that says why.
    #[track_caller]
    pub fn fails(&self, set: &Set) -> (i32, String) {
        let output = set.node.host().output(self.command()).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("balancer: ")).collect();
        assert_eq!(errors.len(), 1, "not one line that says why: {output:?}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        (output.status.code().unwrap(), errors[0].to_owned())
    }
}

/// A case: its name, the attempt on given pins, the exit code, and what the message says.
type Case<'a> = (&'a str, Box<dyn Fn(&Set, &Path) -> Attempt + 'a>, i32, &'a [&'a str]);

/// Runs every case twice: where nothing is pinned, and where an earlier agent left what works.
fn run(cases: &[Case<'_>]) {
    let set = Set::new(2);
    let mut agent = set.agent();
    let before = settle(set.pins(), set.expect("shop/web", 1, 0..2));
    let client = set.client.client().unwrap();
    assert!(agent.terminate().unwrap().success());
    let ours = attached(set.node.cgroup(), INET4_CONNECT);
    for (name, attempt, exit, expected) in cases {
        let fresh = Scratch::pins();
        for pins in [fresh.path(), set.pins()] {
            let (code, message) = attempt(&set, pins).fails(&set);
            assert_eq!(code, *exit, "{name}: {message}");
            for expected in *expected {
                assert!(message.contains(expected), "{name}: {expected:?} is not in: {message}");
            }
            assert_eq!(attached(set.node.cgroup(), INET4_CONNECT), ours, "{name}: programs were left");
        }
        let left = fresh.path().join("v1");
        assert!(!left.exists(), "{name}: {} was left", left.display());
        assert_eq!(Tables::read(set.pins()).ids(), before.ids(), "{name}");
        client.ask(vip4(1)).unwrap_or_else(|error| panic!("{name}: what worked does not: {error}"));
    }
    // The pins are as good as ever for an agent that can start.
    agent.spawn().unwrap();
    agent.wait_ready().unwrap();
    assert_eq!(settle(set.pins(), set.expect("shop/web", 1, 0..2)).ids(), before.ids());
}

#[test]
fn what_it_is_told_to_use_is_not_there() {
    let scratch = Scratch::files().unwrap();
    let file = scratch.path().join("file");
    fs::write(&file, "kind: Config\n").unwrap();
    let text = |path: &Path| path.display().to_string();
    let (missing, a_file) = (scratch.path().join("missing"), text(&file));
    let missing_text = text(&missing);
    run(&[
        (
            "no manifests directory",
            Box::new(|set, pins| Attempt { manifests: missing.clone(), ..Attempt::new(set, pins) }),
            2,
            &[&missing_text, "does not exist", "--manifests"],
        ),
        (
            "manifests are a file",
            Box::new(|set, pins| Attempt { manifests: file.clone(), ..Attempt::new(set, pins) }),
            2,
            &[&a_file, "not a directory", "--manifests"],
        ),
        (
            "no such cgroup",
            Box::new(|set, pins| Attempt { cgroup: Some(missing.clone()), ..Attempt::new(set, pins) }),
            5,
            &[&missing_text, "cgroup", "--cgroup"],
        ),
        (
            "the cgroup is a file",
            Box::new(|set, pins| Attempt { cgroup: Some(file.clone()), ..Attempt::new(set, pins) }),
            5,
            &[&a_file, "not a directory of a cgroup2 file system", "mounted at: /"],
        ),
        (
            "the cgroup is an ordinary directory",
            Box::new(|set, pins| Attempt {
                cgroup: Some(scratch.path().to_owned()),
                ..Attempt::new(set, pins)
            }),
            5,
            &[&text(scratch.path()), "not a directory of a cgroup2 file system"],
        ),
        (
            "the HTTP port is taken",
            Box::new(|set, pins| {
                let port = HTTP.port();
                // One that listens in the same network namespace, for as long as the agent lives.
                let listen = format!(
                    "import os,socket; s=socket.create_server(('127.0.0.1',{port})); os.set_inheritable(s.fileno(),True); import sys; os.execvp(sys.argv[1],sys.argv[1:])"
                );
                let mut attempt = Attempt::new(set, pins);
                attempt.under = vec!["python3".into(), "-c".into(), listen.into()];
                attempt
            }),
            5,
            &["127.0.0.1:9990", "in use", "--http"],
        ),
        (
            "contradicting flags",
            Box::new(|set, pins| Attempt::new(set, pins).arguments(&["--source", "kubernetes"])),
            2,
            &["--manifests"],
        ),
        (
            "a level that is none",
            Box::new(|set, pins| Attempt::new(set, pins).arguments(&["--log-level", "loud"])),
            2,
            &["loud", "--log-level"],
        ),
        (
            "a configuration file with a mistake",
            Box::new(|set, pins| Attempt::new(set, pins).arguments(&["--config", &a_file])),
            2,
            &[&a_file, "unknown key \"kind\""],
        ),
    ]);
}

#[test]
fn it_may_not() {
    let scratch = Scratch::files().unwrap();
    // Where anybody may run it.
    let copy = scratch.path().join("balancer");
    fs::copy(binary().unwrap(), &copy).unwrap();
    fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let open =
        |set: &Set| fs::set_permissions(set.manifests.path(), PermissionsExt::from_mode(0o755)).unwrap();
    run(&[
        (
            "an ordinary user",
            Box::new(|set, pins| {
                open(set);
                let attempt =
                    Attempt::new(set, pins).under("setpriv --reuid 65534 --regid 65534 --clear-groups");
                Attempt { binary: copy.clone(), ..attempt }
            }),
            4,
            &["CAP_BPF", "root"],
        ),
        (
            "root without CAP_BPF",
            Box::new(|set, pins| Attempt::new(set, pins).under("setpriv --bounding-set -bpf,-sys_admin")),
            4,
            &["missing CAP_BPF", "run the agent as root"],
        ),
        (
            "root without CAP_NET_ADMIN",
            Box::new(|set, pins| {
                Attempt::new(set, pins).under("setpriv --bounding-set -net_admin,-sys_admin")
            }),
            4,
            &["missing CAP_NET_ADMIN", "run the agent as root"],
        ),
        (
            "root without CAP_PERFMON",
            Box::new(|set, pins| Attempt::new(set, pins).under("setpriv --bounding-set -perfmon,-sys_admin")),
            4,
            &["missing CAP_PERFMON"],
        ),
        (
            "root without any",
            Box::new(|set, pins| Attempt::new(set, pins).under("setpriv --bounding-set -all")),
            4,
            &["missing CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"],
        ),
        (
            "root of a user namespace",
            Box::new(|set, pins| Attempt::new(set, pins).under("unshare --user --map-root-user")),
            4,
            &["refuses bpf(2)", "user namespace", "hostUsers: false"],
        ),
        (
            "root under a seccomp profile",
            Box::new(|set, pins| {
                let mut attempt = Attempt::new(set, pins);
                attempt.under = vec!["python3".into(), "-c".into(), without_bpf().into()];
                attempt
            }),
            4,
            &["refuses bpf(2)", "seccomp profile", "seccompProfile"],
        ),
    ]);
}

/// A Python script that runs its arguments under a seccomp filter to which bpf(2) is forbidden, as runtimes' own
/// profiles have it.
fn without_bpf() -> String {
    format!(
        r"
import ctypes, os, struct, sys
def instruction(code, yes, no, k): return struct.pack('HBBI', code, yes, no, k)
code = (instruction(0x20, 0, 0, 0) + instruction(0x15, 0, 1, {}) + instruction(6, 0, 0, 0x50001)
    + instruction(6, 0, 0, 0x7fff0000))
code = ctypes.create_string_buffer(code, len(code))
program = struct.pack('HxxxxxxQ', 4, ctypes.addressof(code))
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, program, 0, 0) == 0
os.execvp(sys.argv[1], sys.argv[1:])",
        libc::SYS_bpf
    )
}

#[test]
fn few_capabilities_are_enough() {
    let set = Set::new(2);
    let sandbox = "setpriv --bounding-set -all,+bpf,+net_admin,+perfmon";
    let attempt = Attempt::new(&set, set.pins()).under(sandbox);
    let mut command = attempt.command();
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    let mut process = set.node.host().spawn(command).unwrap();
    settle_or_log(&set);
    let client = set.client.client().unwrap();
    client.ask(vip4(1)).unwrap();
    assert_eq!(process.exited().unwrap(), None);
    assert!(process.terminate(balancer_tests::kernel::patience(crate::set::SOON)).unwrap().success());
}

#[track_caller]
fn settle_or_log(set: &Set) {
    crate::set::wait_for("it starts", || {
        pinned(set.pins(), "links/connect6").exists()
            && balancer_userspace::datapath::read_lease(set.pins()).is_ok()
    });
    crate::tables::reach(set.pins(), set.expect("shop/web", 1, 0..2));
}

#[test]
fn the_machine_is_not_made_for_it() {
    let set = Set::new(1);
    let attempt = |pins: &Path| Attempt::new(&set, pins);
    let pins = Scratch::pins();

    let elsewhere = Scratch::files().unwrap();
    let (code, message) = attempt(&elsewhere.path().join("pins")).fails(&set);
    assert_eq!(code, 5, "{message}");
    for expected in [
        "no bpf file system",
        "mount -t bpf -o mode=0700 bpf /sys/fs/bpf",
        &elsewhere.path().display().to_string(),
    ] {
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0, "it left something in {elsewhere:?}");

    // All of cgroup2 unmounted.
    let (code, message) = Attempt { cgroup: None, ..attempt(pins.path()) }
        .before("for at in $(awk '$3 == \"cgroup2\" {print $2}' /proc/mounts); do umount -l $at; done")
        .fails(&set);
    assert_eq!(code, 5, "{message}");
    assert!(message.contains("no cgroup2 file system is mounted: mount -t cgroup2"), "{message}");

    // A bpf file system that cannot be written to.
    let read_only = "mount --bind /sys/fs/bpf /sys/fs/bpf; mount -o remount,ro,bind /sys/fs/bpf";
    let (code, message) = attempt(pins.path()).before(read_only).fails(&set);
    assert_eq!(code, 5, "{message}");
    for expected in ["read-only file system", &pins.path().display().to_string(), "remount"] {
        assert!(message.contains(expected), "{expected:?} is not in: {message}");
    }
    assert!(!pins.path().exists());
    assert_eq!(attached(set.node.cgroup(), INET4_CONNECT), 0);

    // No bpf file system at all, and no right to mount one.
    let (code, message) =
        attempt(pins.path()).before(NO_BPFFS).under("setpriv --bounding-set -sys_admin").fails(&set);
    assert_eq!(code, 5, "{message}");
    assert!(
        message.contains("mount -t bpf -o mode=0700 bpf /sys/fs/bpf") && message.contains("not permitted"),
        "{message}"
    );
}

#[test]
fn a_missing_bpf_file_system_is_mounted() {
    let set = Set::new(1);
    let pins = Scratch::pins();
    let attempt = Attempt::new(&set, pins.path()).before(NO_BPFFS);
    let mut command = attempt.command();
    command.stdin(std::process::Stdio::null());
    let mut process = set.node.host().spawn(command).unwrap();
    let client = set.client.client().unwrap();
    crate::set::wait_for("connects are translated", || client.ask(vip4(1)).is_ok());
    assert!(!pins.path().exists(), "it is mounted where only the agent sees it");
    assert!(process.terminate(balancer_tests::kernel::patience(crate::set::SOON)).unwrap().success());
}

#[test]
fn pins_of_another_layout_are_not_touched() {
    let set = Set::new(1);
    for (what, map, reason) in [
        (
            "keys of another size",
            foreign::map(MapType::Hash, 8, 4, 16),
            "its key has 8 bytes where 20 are expected",
        ),
        (
            "values of another size",
            foreign::map(MapType::Hash, 20, 8, 16),
            "its value has 8 bytes where 4 are expected",
        ),
        ("another type", foreign::map(MapType::Array, 4, 4, 16), "its key has 4 bytes where 20 are expected"),
    ] {
        let pins = Scratch::pins();
        let maps = pinned(pins.path(), "maps");
        fs::create_dir_all(&maps).unwrap();
        foreign::pin(&map, &maps.join("FRONTENDS"));
        let (code, message) = Attempt::new(&set, pins.path()).fails(&set);
        assert_eq!(code, 5, "{what}: {message}");
        for expected in [reason, "balancer detach", &maps.join("FRONTENDS").display().to_string()] {
            assert!(message.contains(expected), "{what}: {expected:?} is not in: {message}");
        }
        assert_eq!(attached(set.node.cgroup(), INET4_CONNECT), 0, "{what}");
        assert!(!pinned(pins.path(), "links/connect4").exists());
    }

    // The right sizes, but a hash where an array is mapped into memory.
    let pins = Scratch::pins();
    let maps = pinned(pins.path(), "maps");
    fs::create_dir_all(&maps).unwrap();
    let size = size_of::<balancer_common::abi::Slot>() as u32;
    foreign::pin(&foreign::map(MapType::Hash, 4, size, 1024), &maps.join("SLOTS"));
    let (code, message) = Attempt::new(&set, pins.path()).fails(&set);
    assert_eq!(code, 5, "{message}");
    assert!(message.contains("SLOTS") && message.contains("balancer detach"), "{message}");
    assert_eq!(attached(set.node.cgroup(), INET4_CONNECT), 0);
    // What the message says helps.
    let mut agent = set.stopped(&[]);
    fs::create_dir_all(pinned(set.pins(), "maps")).unwrap();
    foreign::pin(&foreign::map(MapType::Hash, 8, 4, 16), &pinned(set.pins(), "maps/FRONTENDS"));
    assert!(agent.cli(["detach"]).unwrap().status.success());
    agent.spawn().unwrap();
    agent.wait_ready().unwrap();
}

#[test]
fn an_older_layout_gives_way() {
    let set = Set::new(1);
    let old = set.pins().join("v0/maps");
    fs::create_dir_all(&old).unwrap();
    foreign::pin(&foreign::map(MapType::Array, 4, 4, 1), &old.join("SERVICES"));
    let agent = set.agent();
    assert!(!set.pins().join("v0").exists());
    assert!(agent.log().contains("removed the pins of another layout"), "{}", agent.log());
}
