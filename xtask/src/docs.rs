//! `cargo xtask docs`: the reference of every crate, man pages and shell completions.

use std::{fs, process::ExitCode};

use anyhow::{Context, Result};

use crate::{
    build::{self, Profile},
    build_ebpf,
    cmd::Cmd,
    setup,
    toolchain::cargo,
    ui, workspace,
};

/// The shells that completions are written for, and the name under which each looks for them.
const SHELLS: [(&str, &str); 3] =
    [("bash", "balancer.bash"), ("zsh", "_balancer"), ("fish", "balancer.fish")];

/// Writes everything and says where it is.
pub fn run() -> Result<ExitCode> {
    setup::toolchain()?;
    build_ebpf::build()?;
    let binary = build::host(Profile::Debug)?;
    rustdoc()?;

    let docs = workspace::target().join("docs");
    let man = docs.join("man");
    let completions = docs.join("completions");
    for dir in [&man, &completions] {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", workspace::shown(dir)))?;
    }
    Cmd::new(&binary).arg("man").arg("--dir").arg(&man).run()?;
    for (shell, name) in SHELLS {
        let path = completions.join(name);
        let script = Cmd::new(&binary).args(["completions", shell]).output()?;
        fs::write(&path, script).with_context(|| format!("cannot write {}", workspace::shown(&path)))?;
    }

    let target = workspace::shown(&workspace::target());
    ui::say(format_args!("crates: {target}/doc/balancer_userspace/index.html and its neighbours"));
    ui::say(format_args!("eBPF programs: {}", workspace::shown(&build_ebpf::doc())));
    ui::say(format_args!("man pages: {}", workspace::shown(&man)));
    ui::say(format_args!("completions: {}", workspace::shown(&completions)));
    Ok(ExitCode::SUCCESS)
}

/// The reference of every crate; a warning is an error.
///
/// # Errors
/// When rustdoc finds a broken link or the like.
pub fn rustdoc() -> Result<()> {
    cargo("doc")?
        .args(["--workspace", "--exclude", "balancer-ebpf", "--no-deps"])
        .env("RUSTDOCFLAGS", "--deny warnings")
        .run()?;
    build_ebpf::cross("doc")?
        .args(["--profile", "bpf", "--no-deps"])
        .env("RUSTDOCFLAGS", "--deny warnings")
        .run()
}
