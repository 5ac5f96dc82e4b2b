//! How much of the kernel's tables is in the agent's memory.

use std::fs;

use crate::{
    set::{Set, vip4, wait_for},
    tables::Tables,
};

/// Resident KiB of all mappings of BPF maps.
fn resident(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/smaps")).unwrap();
    let mut is_map = false;
    let mut sum = 0;
    for line in text.lines() {
        // A mapping begins with its range; its fields follow, each with a colon behind its name.
        let first = line.split_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            is_map = line.contains("bpf-map");
        } else if is_map && first == "Rss:" {
            let kib = line.split_whitespace().nth(1).unwrap();
            sum += kib.parse::<u64>().unwrap();
        }
    }
    sum
}

/// The tables take 22 MiB with the default sizes, and mapping them makes every page of them resident: an agent
/// with few Services maps the beginning of each, also after it has looked through what an earlier one left.
#[test]
fn only_what_is_in_use_of_the_tables_is_in_memory() {
    // The thread that looks after open connections has a mapping of its own of what it has to look at.
    const AT_MOST: u64 = 5_120;
    let set = Set::new(2);
    let mut agent = set.agent();
    for start in ["the first start", "a restart"] {
        let id = agent.process().unwrap().id();
        let kib = resident(id);
        assert!((1..=AT_MOST).contains(&kib), "{kib} KiB after {start}");
        // What was given back is mapped again where it is needed.
        let client = set.client.client().unwrap();
        assert_eq!(client.hold(4, vip4(1)).unwrap().failures.len(), 0);
        wait_for("connects are counted", || Tables::read(set.pins()).total(|stats| stats.active) == 4);
        drop(client);
        wait_for("they are counted as closed", || Tables::read(set.pins()).total(|stats| stats.active) == 0);
        set.backends("shop/web", 0..1);
        wait_for("a pod is gone", || Tables::read(set.pins()).slots == 2);
        set.backends("shop/web", 0..2);
        wait_for("it is back", || Tables::read(set.pins()).slots == 4);
        let kib = resident(id);
        assert!((1..=AT_MOST).contains(&kib), "{kib} KiB after changes, after {start}");
        agent.restart().unwrap();
    }
}
