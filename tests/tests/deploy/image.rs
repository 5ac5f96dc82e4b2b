//! The image: what is in it, and its agent run by a container runtime as the DaemonSet says.

use std::{path::PathBuf, process::Command};

use balancer_tests::topology::Scratch;
use serde_json::{Value, json};

use crate::{container::Container, kustomize::render, node::Node, objects::VERSION};

/// An image unpacked by buildah, in storage of its own.
pub struct Image {
    files: Scratch,
    container: String,
}

impl Image {
    /// The one that `cargo xtask test` or `cargo xtask image` has built.
    #[track_caller]
    pub fn open() -> Self {
        let built = |profile: &str| {
            let target = std::env::current_exe().unwrap();
            let target = target.ancestors().nth(3).unwrap().to_owned();
            target.join("image").join(profile).join("balancer.oci.tar")
        };
        let named = std::env::var_os("BALANCER_IMAGE").map(PathBuf::from);
        let archive = named.into_iter().chain([built("debug"), built("release")]).find(|path| path.is_file());
        let archive = archive
            .expect("no image: build one with `cargo xtask image --debug`, or name it in BALANCER_IMAGE");
        let mut image = Self { files: Scratch::files().unwrap(), container: String::new() };
        image.container = image.buildah(&["from", "--quiet", &format!("oci-archive:{}", archive.display())]);
        image
    }

    /// Runs buildah and returns what it prints.
    #[track_caller]
    fn buildah(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(self.files.path().join("storage"));
        command.arg("--runroot").arg(self.files.path().join("run"));
        command.args(["--storage-driver", "vfs"]).args(arguments);
        let output = command.output().expect("buildah: cargo xtask setup installs it");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Where its files are.
    pub fn root(&self) -> PathBuf {
        self.buildah(&["mount", &self.container]).into()
    }

    fn configuration(&self) -> Value {
        let document: Value = serde_json::from_str(&self.buildah(&["inspect", &self.container])).unwrap();
        document["OCIv1"].clone()
    }
}

#[test]
fn it_holds_the_binary_and_says_what_it_is() {
    let image = Image::open();
    let run = |arguments: &[&str]| {
        image.buildah(
            &[&["run", "--isolation", "chroot", &image.container, "--", "/balancer"], arguments].concat(),
        )
    };
    assert_eq!(run(&["--version"]), format!("balancer {VERSION}"));
    assert!(run(&["agent", "--help"]).contains("--lease"));

    let image_configuration = image.configuration();
    let configuration = &image_configuration["config"];
    assert_eq!(configuration["Entrypoint"], json!(["/balancer"]));
    assert_eq!(configuration["User"], "0:0");
    let labels = &configuration["Labels"];
    assert_eq!(labels["org.opencontainers.image.version"], VERSION);
    for label in ["title", "description", "licenses", "url", "source", "documentation", "revision"] {
        let value = labels[format!("org.opencontainers.image.{label}")].as_str();
        assert!(value.is_some_and(|value| !value.is_empty()), "{label}: {value:?}");
    }
    assert_eq!(image_configuration["created"], "1970-01-01T00:00:00Z", "or else no two builds are the same");
}

/// Where it was built would make every image another one, and is nobody's business.
#[test]
fn its_binary_names_no_directory_of_this_machine() {
    let image = Image::open();
    let binary = std::fs::read(image.root().join("balancer")).unwrap();
    let has = |text: &str| binary.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("/cargo/registry/src/"), "the paths that stand for them");
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    assert!(!has(root.parent().unwrap().to_str().unwrap()));
    assert!(!has(&format!("{}/.cargo", std::env::var("HOME").unwrap())));
}

/// The files of the image and the words of the manifest: only source, pins and cgroup are the test's own.
#[test]
fn a_runtime_runs_its_agent_as_the_manifest_says() {
    let (node, image) = (Node::new(), Image::open());
    let mut container = Container::of_the_manifest(&render("base"), &node, &image.root());
    container.start(&node);
    container.wait_until(&node, "/livez");
    container.wait_until(&node, "/readyz");
    let client = node.client.client().unwrap();
    for _ in 0..4 {
        client.ask(Node::frontend()).unwrap();
    }
    // As `kubectl exec` does it: in the container, with its variables.
    let stats = container.exec(&["/balancer", "stats", "-A", "-o", "json"]);
    assert!(stats.status.success(), "{stats:?}");
    let stats: Value = serde_json::from_slice(&stats.stdout).unwrap();
    let opened: u64 = stats["items"][0]["backends"]
        .as_array()
        .unwrap()
        .iter()
        .map(|backend| backend["opened"].as_u64().unwrap())
        .sum();
    assert_eq!(opened, 4, "{stats:#}");
    let check = container.exec(&["/balancer", "check"]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    // As the first process of a PID namespace it gets only the signals that it asked for.
    container.signal("TERM");
    assert_eq!(container.wait(), Some(0), "{}", container.log());
    client.ask(Node::frontend()).unwrap();
}

/// What runtimes do whose default seccomp profile lets nobody but CAP_SYS_ADMIN use bpf(2): see the overlay `cri-o`.
#[test]
fn a_runtime_that_refuses_bpf_is_named_as_such() {
    let (node, image) = (Node::new(), Image::open());
    let mut container = Container::of_the_manifest(&render("base"), &node, &image.root());
    container.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    });
    container.start(&node);
    assert_eq!(container.wait(), Some(4), "{}", container.log());
    assert!(container.log().contains("a seccomp profile is in force"), "{}", container.log());
}
