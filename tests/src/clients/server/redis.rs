//! Redis. It counts each request under a key of its own.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{PORT, Server, Setting, retry, run, spawn_quiet};
use crate::topology::{Pod, Process};

/// Prints `ID COUNT` for each counter of `use_redis.py`.
const COUNTERS: &str = "local lines = {} \
    for _, key in ipairs(redis.call('KEYS', 'request:*')) do \
        lines[#lines + 1] = string.sub(key, 9) .. ' ' .. redis.call('GET', key) \
    end \
    return lines";

/// A server. Dropping it kills it.
pub struct Redis<'r> {
    pod: &'r Pod,
    _process: Process,
}

impl<'r> Redis<'r> {
    /// Starts it, in memory alone, and waits until it answers.
    pub fn start(pod: &'r Pod, setting: Setting<'_>) -> Result<Self> {
        let mut command = Command::new("redis-server");
        command.args(["--port", &PORT.to_string(), "--bind", "0.0.0.0", "--protected-mode", "no"]);
        // How often it looks whether a client has waited long enough.
        command.args(["--hz", "100"]);
        command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(setting.scratch);
        let process = spawn_quiet(pod, command)?;
        retry("redis-server does not answer", || {
            let answer = run(pod, cli(&["PING"]))?;
            ensure!(answer.trim() == "PONG", "redis-server answers {answer:?}");
            Ok(())
        })?;
        Ok(Self { pod, _process: process })
    }
}

fn cli(arguments: &[&str]) -> Command {
    let mut command = Command::new("redis-cli");
    command.args(["-h", "127.0.0.1", "-p", &PORT.to_string()]).args(arguments);
    command
}

impl Server for Redis<'_> {
    fn executed(self: Box<Self>) -> Result<Vec<String>> {
        repeated(&run(self.pod, cli(&["EVAL", COUNTERS, "0"]))?)
    }
}

/// Each id as often as its count says.
fn repeated(counters: &str) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    // An empty list is an empty line.
    for line in counters.lines().filter(|line| !line.is_empty()) {
        let (id, count) = line.split_once(' ').with_context(|| format!("not a counter: {line}"))?;
        let count: usize = count.parse().with_context(|| format!("not a counter: {line}"))?;
        ids.extend(std::iter::repeat_n(id.to_owned(), count));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::repeated;

    #[test]
    fn a_counter_is_as_many_executions() {
        assert_eq!(repeated("0-0 1\n0-1 3\n").unwrap(), ["0-0", "0-1", "0-1", "0-1"]);
        assert!(repeated("\n").unwrap().is_empty());
        assert!(repeated("(error) NOSCRIPT").is_err());
    }
}
