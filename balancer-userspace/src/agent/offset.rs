//! Where each node begins, so that nodes of one cluster do not all choose the same pods.

use std::net::Ipv4Addr;

/// Where a node's tie order starts: FNV-1a of its name without the number at its end, plus that number (a last letter that stands
/// alone counts as one), both of the name's first part, before a domain; an IPv4 address is a number as a whole. Nodes that
/// are numbered, as most are, thus start one behind the other, and two neighbours never at the same of several backends; others
/// start anywhere.
pub fn node_offset(node: &str) -> u32 {
    if let Ok(address) = node.parse::<Ipv4Addr>() {
        return address.into();
    }
    let (name, number) = numbered(node.split('.').next().unwrap_or(node));
    let hash =
        name.bytes().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.wrapping_add(number)
}

/// `node-12` is `node-` and 12, `node-b` is `node-` and the letter's code, `node` is itself and 0. A number is taken as far as
/// its last nine digits.
fn numbered(node: &str) -> (&str, u32) {
    let name = node.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &node[name.len()..];
    if !digits.is_empty() {
        let last = &digits[digits.len().saturating_sub(9)..];
        return (name, last.parse().unwrap_or(0));
    }
    let Some(letter) = node.bytes().last() else { return (node, 0) };
    let before = node.as_bytes().iter().rev().nth(1);
    if letter.is_ascii_lowercase() && before.is_none_or(|byte| !byte.is_ascii_alphanumeric()) {
        return (&node[..node.len() - 1], letter.into());
    }
    (node, 0)
}

#[cfg(test)]
mod tests {
    use super::{node_offset, numbered};

    #[test]
    fn nodes_that_are_numbered_start_one_behind_the_other() {
        for nodes in [["node-1", "node-2", "node-3"], ["a", "b", "c"], ["rack-a", "rack-b", "rack-c"]] {
            let [first, second, third] = nodes.map(node_offset);
            assert_eq!((second, third), (first.wrapping_add(1), first.wrapping_add(2)), "{nodes:?}");
        }
        assert_eq!(node_offset("ip-10-0-3-255"), node_offset("ip-10-0-3-0").wrapping_add(255));
        assert_eq!(node_offset("ip-10-0-3-17.ec2.internal"), node_offset("ip-10-0-3-16.ec2.internal") + 1);
        assert_eq!(node_offset("10.0.3.17"), node_offset("10.0.3.16") + 1);
        // kind's names.
        assert_eq!(node_offset("kind-worker2"), node_offset("kind-worker").wrapping_add(2));
    }

    #[test]
    fn only_a_number_or_a_letter_at_the_end_counts() {
        assert_eq!(numbered("node-012"), ("node-", 12));
        assert_eq!(numbered("17"), ("", 17));
        assert_eq!(numbered("n99912345678901"), ("n", 345_678_901));
        assert_eq!(numbered("worker"), ("worker", 0));
        assert_eq!(numbered("node1a"), ("node1a", 0));
        assert_eq!(numbered("zone-a.example"), ("zone-a.example", 0));
        assert_eq!(numbered("node-\u{e9}"), ("node-\u{e9}", 0));
        assert_eq!(numbered(""), ("", 0));
    }

    #[test]
    fn other_nodes_start_apart() {
        let offsets: std::collections::HashSet<_> =
            (0..100).map(|node| node_offset(&format!("pool-{node}-x")) % 100).collect();
        assert!(offsets.len() > 50, "only {} different starts of 100", offsets.len());
    }
}
