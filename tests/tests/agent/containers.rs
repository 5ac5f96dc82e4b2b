//! The agent in containers: which cgroup it finds with what is mounted there, and what it says of it.
//!
//! A container here is what a runtime makes: mount, PID and cgroup namespaces of its own, the cgroup2 mount of
//! that namespace, and volumes as bind mounts. Nothing in it leads to this machine's root cgroup, which is
//! made sure of before the agent starts; where the root is to be found, only `balancer check` runs, which
//! attaches nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use balancer_tests::{
    agent::binary,
    topology::{Process, Scratch},
};
use balancer_userspace::datapath::{self, Pins};

use crate::set::{Set, pinned, vip4, wait_for};

/// What the DaemonSet has.
const CAPABILITIES: &str = "setpriv --bounding-set -all,+bpf,+net_admin,+perfmon";

/// Ends the script where a mount shows the root of this machine's hierarchy.
const NOTHING_REAL: &str = r#"
for at in $(awk '$3 == "cgroup2" { print $2 }' /proc/mounts); do
    if [ "$(stat -c %i "$at")" = 1 ]; then echo "the machine's root is in reach at $at" >&2; exit 99; fi
done
"#;

/// Makes a directory below `$W` that shows what a container sees by itself, `$W/own`, after all other cgroup2
/// mounts are gone, and volumes are where they were asked for.
const MOUNTS: &str = r#"
set -e
hide=$(awk '$3 == "cgroup2" { print $2 }' /proc/mounts)
mkdir -p "$W/own" "$W/volume"
if [ -n "$VOLUME" ]; then
    mount --bind "$VOLUME" "$W/volume"
    mount -o remount,bind,ro "$W/volume"
fi
for at in $hide; do umount -l "$at"; done
mount -t cgroup2 none "$W/own"
"#;

/// Namespaces of its own, and a shell script in them.
const UNSHARE: &str = "unshare --cgroup --mount --propagation private --pid --fork --kill-child --mount-proc";

struct Container<'s> {
    set: &'s Set,
    scratch: Scratch,
    /// The root of its cgroup namespace; without one, that of a pod of the host's network.
    root: Option<PathBuf>,
    /// The cgroup2 directory that is mounted as a volume.
    volume: Option<PathBuf>,
    /// What else the script does before it runs anything.
    script: String,
    /// What everything runs under.
    under: &'static str,
}

impl<'s> Container<'s> {
    fn new(set: &'s Set) -> Self {
        let scratch = Scratch::files().unwrap();
        let script = NOTHING_REAL.to_owned();
        Self { set, scratch, root: None, volume: None, script, under: CAPABILITIES }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let root = self
            .root
            .as_deref()
            .map_or(String::new(), |root| format!("echo 0 > {}/cgroup.procs || exit 98; ", root.display()));
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{root}exec {UNSHARE} sh -c \"$0\" sh \"$@\"")]);
        command.arg(format!("{MOUNTS}{}\nexec {} \"$@\"", self.script, self.under));
        command.arg(binary().unwrap()).args(arguments).arg("--pins").arg(self.set.pins());
        command.env("W", self.scratch.path());
        command.env("VOLUME", self.volume.as_deref().unwrap_or(Path::new("")));
        command
    }

    fn agent_line(&self) -> Command {
        let manifests = self.set.manifests.path().to_str().unwrap();
        self.command(&["agent", "--manifests", manifests, "--http", "off"])
    }

    /// Starts the agent, and waits until it is at work.
    #[track_caller]
    fn agent(&self) -> Process {
        let log = fs::File::create(self.scratch.path().join("agent.log")).unwrap();
        let mut command = self.agent_line();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut process = self.set.node.host().spawn(command).unwrap();
        wait_for("the agent is at work", || {
            assert!(process.exited().unwrap().is_none(), "{}", self.log());
            datapath::read_lease(self.set.pins())
                .is_ok_and(|lease| lease != balancer_userspace::view::Lease::Never)
        });
        process
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.path().join("agent.log")).unwrap()
    }

    /// What the agent says when it does not start.
    #[track_caller]
    fn refusal(&self) -> String {
        let output = self.set.node.host().output(self.agent_line()).unwrap();
        assert_eq!(output.status.code(), Some(5), "{output:?}");
        assert!(!pinned(self.set.pins(), "").exists());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Lines of `balancer check` by their names: outcome, detail and remedy.
    #[track_caller]
    fn check(&self) -> serde_json::Value {
        let output = self.set.node.host().output(self.command(&["check", "-o", "json"])).unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }
}

/// One line of `balancer check`, as text that begins with its outcome.
#[track_caller]
pub fn line(check: &serde_json::Value, name: &str) -> String {
    let items = check["items"].as_array().unwrap();
    let item = items.iter().find(|item| item["name"] == name).unwrap_or_else(|| panic!("{name}: {check}"));
    format!(
        "{}: {}; {}",
        item["outcome"].as_str().unwrap(),
        item["detail"].as_str().unwrap(),
        item["remedy"].as_str().unwrap_or_default()
    )
}

#[track_caller]
fn assert_has(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

/// The cgroup that everything is attached to.
fn attached(set: &Set) -> u64 {
    let attachments = datapath::attachments(&Pins::new(set.pins()));
    assert!(attachments.iter().all(|(_, cgroup)| *cgroup == attachments[0].1), "{attachments:?}");
    attachments[0].1.unwrap()
}

fn id(cgroup: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(cgroup).unwrap().ino()
}

#[test]
fn a_pod_that_sees_only_itself_is_told_so() {
    let set = Set::new(1);
    let message = Container::new(&set).refusal();
    assert_has(
        &message,
        &["sees only its own", "/own:", "/sys/fs/cgroup", "hostPath", "--cgroup", "PID namespace"],
    );
}

#[test]
fn a_pod_with_a_volume_attaches_to_the_outermost_that_is_in_it() {
    let set = Set::new(2);
    let container = Container { volume: Some(set.node.cgroup().to_owned()), ..Container::new(&set) };
    let _agent = container.agent();
    assert_eq!(attached(&set), id(set.node.cgroup()));
    // Beside the agent's cgroup, not below it.
    set.client.client().unwrap().ask(vip4(1)).unwrap();
    let log = container.log();
    assert_has(&log, &["attached to", "/volume, which is not the root of the hierarchy", "kind"]);

    // In the same container, and by the same capabilities; and on the host.
    let check = container.check();
    assert_has(&line(&check, "mounts"), &["ok: a part of cgroup2 at", "/volume"]);
    assert_has(
        &line(&check, "programs"),
        &["warning: attached to", "/volume", "processes outside are not balanced"],
    );
    assert_has(&line(&check, "self-probe"), &["ok:"]);
    assert_has(&line(&check, "neighbours"), &["ok: nobody else"]);
    assert_has(&line(&check, "agent"), &["ok: version"]);
}

#[test]
fn the_root_is_found_in_a_volume_at_any_path() {
    let set = Set::new(1);
    let root = balancer_tests::kernel::cgroup2().unwrap();
    // The root of this machine is in reach: nothing but `check` may run here.
    let container = Container { volume: Some(root), script: String::new(), ..Container::new(&set) };
    assert_has(&line(&container.check(), "mounts"), &["ok: the root of cgroup2 at", "/volume"]);
    let container = Container { script: String::new(), ..Container::new(&set) };
    assert_has(&line(&container.check(), "mounts"), &["failed:", "sees only its own", "hostPath"]);
}

/// A node as kind makes one: a container whose cgroup namespace ends at the topology's cgroup, and whose
/// services and pods are in cgroups below that.
fn kind(set: &Set) -> Container<'_> {
    Container { root: Some(set.node.cgroup().to_owned()), ..Container::new(set) }
}

#[test]
fn a_service_of_a_node_that_is_a_container_attaches_to_the_node() {
    let set = Set::new(2);
    let mut node = kind(&set);
    node.script.push_str("mkdir -p $W/own/system.slice; echo 0 > $W/own/system.slice/cgroup.procs\n");
    let _agent = node.agent();
    assert_eq!(attached(&set), id(set.node.cgroup()));
    set.client.client().unwrap().ask(vip4(1)).unwrap();
    assert_has(
        &node.log(),
        &["not the root of the hierarchy", "right for a node that is itself a container (kind)"],
    );
}

#[test]
fn a_pod_of_a_node_that_is_a_container_attaches_to_the_node() {
    let set = Set::new(2);
    let mut node = kind(&set);
    // Two levels of namespaces: of the node, and of the pod in a cgroup of the node; the pod has the node's
    // hierarchy as a volume.
    node.script.push_str(&format!(
        r#"
pod=$W/own/kubelet/kubepods/pod1
mkdir -p $pod $W/node
echo 0 > $pod/cgroup.procs
mount --bind $W/own $W/node
exec unshare --cgroup --mount --propagation private --pid --fork --kill-child --mount-proc sh -c '
    set -e
    umount -l $W/own
    mount -t cgroup2 none $W/own
    [ $(cut -d: -f3 /proc/self/cgroup | tail -n 1) = / ]
    {NOTHING_PLAIN}
    exec {CAPABILITIES} "$@"' sh "$@"
"#
    ));
    let _agent = node.agent();
    assert_eq!(attached(&set), id(set.node.cgroup()));
    set.client.client().unwrap().ask(vip4(1)).unwrap();
    assert_has(&node.log(), &["/node, which is not the root of the hierarchy"]);
}

/// As [`NOTHING_REAL`], without quotes of its own.
const NOTHING_PLAIN: &str = r"
    while read -r _ at kind _; do
        if [ $kind = cgroup2 ] && [ $(stat -c %i $at) = 1 ]; then exit 99; fi
    done < /proc/mounts";

#[test]
fn with_the_nodes_pid_namespace_the_first_process_shows_the_way() {
    let set = Set::new(2);
    // The node's first process goes on seeing the node's hierarchy; the pod sees its own, and the process.
    let pod = |capabilities: &str| {
        format!(
            r#"
pod=$W/own/kubepods/pod1
mkdir -p $pod
unshare --cgroup --mount --propagation private sh -c '
    set -e
    echo 0 > $0/cgroup.procs
    exec unshare --cgroup sh -c "$@"' $pod '
        set -e
        umount -l $W/own
        mount -t cgroup2 none $W/own
        {NOTHING_PLAIN}
        [ $(stat -c %i /proc/1/root/$W/own) != 1 ]
        exec setpriv --bounding-set -all,+bpf,+net_admin,+perfmon{capabilities} "$@"' sh "$@"
exit $?
"#
        )
    };
    let mut node = kind(&set);
    let before = node.script.clone();
    node.script = format!("{before}{}", pod(""));
    assert_has(&node.refusal(), &["sees only its own", "CAP_SYS_PTRACE"]);
    node.script = format!("{before}{}", pod(",+sys_ptrace"));
    let _agent = node.agent();
    assert_eq!(attached(&set), id(set.node.cgroup()));
    set.client.client().unwrap().ask(vip4(1)).unwrap();
    assert_has(&node.log(), &["/proc/1/root/", "not the root of the hierarchy"]);
}

#[test]
fn a_child_cgroup_given_by_mistake_is_named() {
    let set = Set::new(2);
    let agent = set.agent();
    let path = set.node.cgroup().display().to_string();
    let words =
        [&*path, "not the root of the hierarchy: processes outside are not balanced", "leave out --cgroup"];
    assert_has(&agent.log(), &words);
    let check: serde_json::Value =
        serde_json::from_slice(&agent.cli(["check", "-o", "json"]).unwrap().stdout).unwrap();
    assert_has(&line(&check, "programs"), &words);
    assert!(line(&check, "programs").starts_with("warning"), "{check}");
}
