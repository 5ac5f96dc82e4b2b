//! A container of runc's, made from the DaemonSet as a kubelet and a runtime would make it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use balancer_tests::{
    kernel::cgroup2,
    topology::{Process, Scratch},
};
use serde_json::{Value, json};

use crate::{agent, node::Node, objects::Objects};

/// A bundle of runc's, and its container while one runs.
pub struct Container {
    files: Scratch,
    pins: Scratch,
    pub config: Value,
    process: Option<Process>,
}

/// Where the manifests are in the container.
const MANIFESTS: &str = "/host/manifests";

impl Container {
    /// With the mounts, arguments, variables and capabilities of the manifest, except that it reads manifests, pins below a
    /// name of its own, and attaches to the test's cgroup.
    #[track_caller]
    pub fn of_the_manifest(objects: &Objects, node: &Node, root: &Path) -> Self {
        let daemon_set = objects.daemon_set();
        let agent = agent::container(&daemon_set);
        let pod = daemon_set.spec.unwrap().template.spec.unwrap();
        let (files, pins) = (Scratch::files().unwrap(), Scratch::pins());

        let context = agent.security_context.clone().unwrap();
        let names: Vec<String> =
            context.capabilities.unwrap().add.unwrap().iter().map(|name| format!("CAP_{name}")).collect();
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "ro"]}),
            bind(node.manifests.path(), MANIFESTS, true),
        ];
        for mount in agent.volume_mounts.clone().unwrap() {
            let volume = pod.volumes.iter().flatten().find(|volume| volume.name == mount.name).unwrap();
            let source = PathBuf::from(&volume.host_path.as_ref().unwrap().path);
            assert_eq!(mount.mount_propagation.as_deref(), Some("HostToContainer"));
            mounts.push(bind(&source, &mount.mount_path, mount.read_only.unwrap_or(false)));
        }

        let below = node.topology.cgroup().strip_prefix(cgroup2().unwrap()).unwrap();
        let own = |argument: &str| match argument {
            "--source=kubernetes" => format!("--manifests={MANIFESTS}"),
            // On hosts with both hierarchies the agent would find `unified` by itself, but here it gets a child.
            "--cgroup=/host/cgroup" if Path::new("/sys/fs/cgroup/unified").exists() => {
                format!("--cgroup=/host/cgroup/unified/{}", below.display())
            }
            "--cgroup=/host/cgroup" => format!("--cgroup=/host/cgroup/{}", below.display()),
            other => other.to_owned(),
        };
        let words = agent.args.clone().unwrap();
        let arguments: Vec<String> =
            std::iter::once("/balancer".to_owned()).chain(words.iter().map(|word| own(word))).collect();
        assert!(arguments.iter().zip(words.iter()).count() == words.len());
        let name = pins.path().file_name().unwrap().to_str().unwrap();
        let environment: Vec<String> = agent::variables(&agent)
            .into_iter()
            .map(|(variable, value)| match variable.as_str() {
                "BALANCER_PINS" => format!("{variable}={}", value.replace("/balancer", &format!("/{name}"))),
                _ => format!("{variable}={value}"),
            })
            .collect();
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": context.run_as_user, "gid": context.run_as_group},
                "args": arguments,
                "env": environment,
                "cwd": "/",
                "noNewPrivileges": context.allow_privilege_escalation == Some(false),
                "capabilities": {"bounding": names, "effective": names, "permitted": names},
            },
            "root": {"path": root, "readonly": context.read_only_root_filesystem},
            "mounts": mounts,
            // Host network, and nothing else of the host's.
            "linux": {"namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"}
            ]},
        });
        Self { files, pins, config, process: None }
    }

    /// Starts it on the node, whose network it shares.
    pub fn start(&mut self, node: &Node) {
        let bundle = self.files.path().join("config.json");
        fs::write(bundle, serde_json::to_vec(&self.config).unwrap()).unwrap();
        let log = File::create(self.files.path().join("log")).unwrap();
        let mut command = self.runc();
        command.arg("run").arg("--bundle").arg(self.files.path()).arg(self.id());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process =
            Some(node.topology.host().spawn(command).expect("runc: cargo xtask setup installs it"));
    }

    /// Waits until it answers a probe with 200.
    #[track_caller]
    pub fn wait_until(&mut self, node: &Node, path: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !node.get(path).is_ok_and(|(status, _)| status == 200) {
            assert_eq!(self.process.as_mut().unwrap().exited().unwrap(), None, "{}", self.log());
            assert!(Instant::now() < deadline, "{path}: {}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> Option<i32> {
        self.process.as_mut().unwrap().wait(Duration::from_secs(30)).unwrap().code()
    }

    /// Sends its first process a signal.
    #[track_caller]
    pub fn signal(&self, name: &str) {
        let output = self.runc().arg("kill").arg(self.id()).arg(name).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// Runs a command in it, as `kubectl exec` does.
    pub fn exec(&self, command: &[&str]) -> Output {
        self.runc().arg("exec").arg(self.id()).args(command).output().unwrap()
    }

    /// All that it has written.
    pub fn log(&self) -> String {
        fs::read_to_string(self.files.path().join("log")).unwrap_or_default()
    }

    fn id(&self) -> String {
        self.pins.path().file_name().unwrap().to_string_lossy().into_owned()
    }

    fn runc(&self) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.files.path().join("state"));
        command
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Kills its processes too; an error means that there is none.
        let _ = self.runc().args(["delete", "--force"]).arg(self.id()).output();
    }
}

fn bind(source: &Path, destination: &str, read_only: bool) -> Value {
    let mode = if read_only { "ro" } else { "rw" };
    json!({"destination": destination, "type": "none", "source": source, "options": ["rbind", "rslave", mode]})
}
