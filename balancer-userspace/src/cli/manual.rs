//! The manuals in the root of the repository, `docs/` and `deploy/`, checked against the code: flags,
//! commands, paths and links that they name exist, and what they must name is there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use balancer_common::abi::{self, Algorithm};
use clap::Arg;

use super::command;
use crate::model::annotations;

const AGENT: &str = include_str!("../../../docs/agent.md");
const OUTPUT: &str = include_str!("../../../docs/output.md");
const README: &str = include_str!("../../../README.md");

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Every manual, with its path from the root.
fn manuals() -> Vec<(PathBuf, String)> {
    ["", "docs"]
        .into_iter()
        .flat_map(|dir| fs::read_dir(root().join(dir)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| (path.strip_prefix(root()).unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect()
}

/// The texts between single backquotes, outside of fenced blocks.
fn spans(manual: &str) -> Vec<&str> {
    let mut fenced = false;
    let outside = manual.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    outside.flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

/// The commands of console blocks, without the prompt: lines that begin with `$ ` or `# `.
fn console_lines(manual: &str) -> Vec<&str> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in manual.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if inside && let Some(command) = line.strip_prefix("$ ").or(line.strip_prefix("# ")) {
            lines.push(command);
        }
    }
    lines
}

/// The words of the call of `balancer` in a command line or code span, if there is one.
fn call(text: &str) -> Option<Vec<&str>> {
    let mut words = text.split_whitespace().skip_while(|word| *word != "balancer");
    let first = words.next()?;
    let rest = words.take_while(|word| !matches!(*word, "|" | ">" | "2>" | "&&" | "&" | "#" | ";"));
    Some(std::iter::once(first).chain(rest).collect())
}

#[test]
fn every_flag_of_the_agent_stands_in_its_manual_with_variable_and_default() {
    let command = command();
    let agent = command.find_subcommand("agent").unwrap();
    let own = |arg: &&Arg| !["help", "version"].contains(&arg.get_id().as_str());
    for arg in agent.get_arguments().chain(command.get_arguments()).filter(own) {
        let flag = format!("| `--{}", arg.get_long().unwrap());
        let row = AGENT
            .lines()
            .find(|line| line.strip_prefix(&flag).is_some_and(|rest| rest.starts_with([' ', '`'])))
            .unwrap_or_else(|| panic!("docs/agent.md has no row {flag}"));
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        // A variable that only a pod has is named beside it.
        let variable = arg.get_env().map(|name| name.to_str().unwrap()).filter(|name| *name != "NODE_NAME");
        let variable = variable.unwrap_or_default();
        assert!(cells[2].contains(variable), "{flag}: {} instead of {variable}", cells[2]);
        for default in arg.get_default_values() {
            let default = default.to_str().unwrap();
            assert!(cells[3].contains(&format!("`{default}`")), "{flag}: {} instead of {default}", cells[3]);
        }
    }
}

#[test]
fn flags_and_variables_that_the_manual_names_exist() {
    let command = command();
    let nested = command.get_subcommands().flat_map(clap::Command::get_subcommands);
    let all: Vec<&clap::Command> =
        std::iter::once(&command).chain(command.get_subcommands()).chain(nested).collect();
    let arguments = || all.iter().flat_map(|command| command.get_arguments());
    let flags: BTreeSet<&str> = arguments().filter_map(Arg::get_long).collect();
    let variables: BTreeSet<&str> =
        arguments().filter_map(Arg::get_env).filter_map(|name| name.to_str()).collect();
    for span in spans(AGENT).into_iter().chain(spans(OUTPUT)) {
        for word in span.split_whitespace() {
            if let Some(flag) = word.strip_prefix("--").filter(|flag| flag.starts_with(char::is_alphabetic)) {
                assert!(flags.contains(flag), "--{flag} in {span:?} does not exist");
            }
            // The agent has no other way to name the variable of `--node` where NODE_NAME is set.
            if word.starts_with("BALANCER_") && word != "BALANCER_NODE" {
                assert!(variables.contains(word), "{word} does not exist");
            }
        }
    }
}

#[test]
fn every_command_in_a_manual_parses() {
    let mut checked = 0;
    for (path, manual) in manuals() {
        for line in console_lines(&manual) {
            let Some(words) = call(line) else { continue };
            if let Err(error) = command().try_get_matches_from(&words) {
                assert!(!error.use_stderr(), "{}: {line}\n{error}", path.display());
            }
            checked += 1;
        }
        // In the text a command may be mentioned without what it needs.
        for words in spans(&manual).into_iter().filter(|span| span.starts_with("balancer ")).filter_map(call)
        {
            let name = words.get(1).copied().unwrap_or_default();
            let known = command().get_subcommands().any(|known| known.get_name() == name);
            assert!(known || name.starts_with('-') || name == "help", "{}: {words:?}", path.display());
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} commands found");
}

#[test]
fn the_readme_names_every_subcommand_algorithm_and_annotation() {
    for subcommand in command().get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        let name = subcommand.get_name();
        assert!(README.contains(&format!("balancer {name}")), "README.md does not mention {name}");
    }
    for algorithm in Algorithm::ALL {
        assert!(README.contains(&format!("| `{}` |", algorithm.name())), "{}", algorithm.name());
    }
    for annotation in annotations::ON_SERVICE.into_iter().chain(["weight"]) {
        assert!(README.contains(&format!("`balancer.dev/{annotation}`")), "{annotation}");
    }
}

#[test]
fn limits_in_the_readme_are_those_of_the_code() {
    let row = |start: &str| {
        README.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}"))
    };
    let check = |start: &str, number: String| assert!(row(start).contains(&number), "{}", row(start));
    check(
        "| Backends that least-connections compares",
        format!("up to {}; of more, {} ", abi::FULL_SCAN, abi::WINDOW),
    );
    check("| Services per unconnected UDP socket", abi::UDP_FLOWS.to_string());
    check("| Idle time of a UDP flow", format!("{} s", abi::UDP_FLOW_IDLE_NS / 1_000_000_000));
    check("| Weight", "65,535".to_owned());
    assert_eq!(abi::MAX_WEIGHT, 65_535);
}

#[test]
fn sizes_of_map_entries_are_those_of_the_code() {
    for (map, bytes) in [
        ("SERVICES", size_of::<abi::Service>()),
        ("SLOTS", size_of::<abi::Slot>()),
        ("BACKENDS", size_of::<abi::Backend>()),
        ("BACKEND_STATS", size_of::<abi::BackendStats>()),
        ("SERVICE_STATS", size_of::<abi::ServiceStats>()),
        ("CLIENTS", size_of::<abi::ClientKey>() + size_of::<abi::ClientState>()),
        ("FRONTENDS", size_of::<abi::FrontendKey>() + size_of::<u32>()),
        ("SERVICE_META", size_of::<abi::ServiceMeta>()),
        ("BACKEND_META", size_of::<abi::BackendMeta>()),
        ("CONTROL", size_of::<abi::Control>()),
        ("SOCKETS", size_of::<abi::SocketState>()),
    ] {
        let start = format!("| `{map}` | {bytes}");
        assert!(AGENT.lines().any(|line| line.starts_with(&start)), "docs/agent.md has no row {start}");
    }
    assert_eq!(size_of::<abi::UdpFlows>(), 1_024);
    assert!(AGENT.contains("| `UDP_FLOWS` | 1,024"));
}

#[test]
fn paths_and_links_in_manuals_lead_somewhere() {
    let roots = ["balancer-", "tests/", "xtask/", "docs/", "deploy/", ".config/", ".ci/", "fuzz/"];
    for (path, manual) in manuals() {
        for span in spans(&manual) {
            let is_path = roots.iter().any(|root| span.starts_with(root)) && span.contains('/');
            if is_path && !span.contains([' ', '*', '…', '{', '<']) {
                assert!(root().join(span).exists(), "{}: {span} does not exist", path.display());
            }
        }
        for link in manual.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            if file.contains("://") {
                continue;
            }
            let target = if file.is_empty() {
                root().join(&path)
            } else {
                root().join(path.parent().unwrap()).join(file)
            };
            let text = fs::read_to_string(&target).unwrap_or_else(|_| {
                assert!(target.is_dir(), "{}: {link} leads nowhere", path.display());
                String::new()
            });
            let known = anchor.is_empty() || text.lines().filter_map(heading).any(|known| known == anchor);
            assert!(known, "{}: {link}: no such section", path.display());
        }
    }
}

/// The anchor of a heading, as code hosts make it.
fn heading(line: &str) -> Option<String> {
    let title = line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' ')?;
    let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    Some(kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect())
}

#[test]
fn every_module_stands_in_the_code_map() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for source in
        ["balancer-common/src", "balancer-ebpf/src", "balancer-userspace/src", "tests/src", "xtask/src"]
    {
        for entry in fs::read_dir(root().join(source)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            // The module is named, alone or with its extension or a slash.
            let named = ["", ".rs", "/"].iter().any(|end| map.contains(&format!("`{name}{end}`")));
            let named = named || ["main", "lib"].contains(&name);
            assert!(named, "ARCHITECTURE.md does not mention {source}/{name}");
        }
    }
}
