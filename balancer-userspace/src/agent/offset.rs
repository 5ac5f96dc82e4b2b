//! Where each node begins, so that nodes of one cluster do not all choose the same pods.

use std::net::Ipv4Addr;

/// How far behind a node the one with the next number starts.
///
/// A prime, and so without a divisor in common with any number of backends but its multiples: as many consecutive numbers as
/// there are backends start at each of them once. Not 1, because nodes that hold a few connections each, from their starts on,
/// would hold them to the same backends as their neighbours, and leave others idle: two nodes with two each would reach three
/// of five. Of the primes below 2^17 this one makes the fullest backend of consecutive nodes stand out least, over 2 to 64
/// backends (few of them count most) and equally many connections per node, up to six per backend in all.
const STRIDE: u32 = 90_547;

/// Where a node's tie order starts: FNV-1a of its name without the number at its end, halved, plus that number times
/// `STRIDE` (a last letter that stands alone counts as one), both of the name's first part, before a domain; an IPv4 address
/// is a number as a whole. Nodes that are numbered, as most are, thus start at one distance from each other, and two neighbours,
/// as long as both have made equally many connects, never at the same of several backends (save for multiples of the stride);
/// others start anywhere.
///
/// Numbers below 23,000 fit into the half that the hash leaves free. Beyond, 32 bits are full once in 47,000 numbers, as they
/// are of addresses, and the distance is another one there.
pub fn node_offset(node: &str) -> u32 {
    if let Ok(address) = node.parse::<Ipv4Addr>() {
        return u32::from(address).wrapping_mul(STRIDE);
    }
    let (name, number) = numbered(node.split('.').next().unwrap_or(node));
    let hash =
        name.bytes().fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash >> 1).wrapping_add(number.wrapping_mul(STRIDE))
}

/// `node-12` is `node-` and 12, `node-b` is `node-` and the letter's code, `node` is itself and 1: kind calls its workers
/// `worker`, `worker2`, `worker3`. A number is taken as far as its last nine digits.
fn numbered(node: &str) -> (&str, u32) {
    let name = node.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &node[name.len()..];
    if !digits.is_empty() {
        let last = &digits[digits.len().saturating_sub(9)..];
        return (name, last.parse().unwrap_or(0));
    }
    let Some(letter) = node.bytes().last() else { return (node, 1) };
    let before = node.as_bytes().iter().rev().nth(1);
    if letter.is_ascii_lowercase() && before.is_none_or(|byte| !byte.is_ascii_alphanumeric()) {
        return (&node[..node.len() - 1], letter.into());
    }
    (node, 1)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, ops::Range};

    use super::{STRIDE, node_offset, numbered};

    /// Asserts that each node starts [`STRIDE`] behind the one before it.
    fn check_consecutive(nodes: &[&str]) {
        let offsets: Vec<u32> = nodes.iter().map(|node| node_offset(node)).collect();
        for pair in offsets.windows(2) {
            assert_eq!(pair[1], pair[0].wrapping_add(STRIDE), "{nodes:?}: {offsets:?}");
        }
    }

    #[test]
    fn nodes_that_are_numbered_start_at_equal_distances() {
        check_consecutive(&["node-1", "node-2", "node-3"]);
        check_consecutive(&["node-099", "node-100"]);
        check_consecutive(&["a", "b", "c"]);
        check_consecutive(&["rack-a", "rack-b", "rack-c"]);
        check_consecutive(&["ip-10-0-3-16.ec2.internal", "ip-10-0-3-17.ec2.internal"]);
        check_consecutive(&["kind-worker", "kind-worker2", "kind-worker3"]);
        check_consecutive(&["10.0.3.255", "10.0.4.0", "10.0.4.1"]);
    }

    /// Where fresh nodes of a pool start, by number, among so many backends.
    fn starts(pool: u32, numbers: Range<u32>, backends: u32) -> Vec<u32> {
        numbers.map(|number| node_offset(&format!("pool-{pool}-{number}")) % backends).collect()
    }

    #[test]
    fn as_many_neighbours_as_backends_start_at_each_of_them_once() {
        for backends in (1..=256).chain([1000, 65_534]) {
            for (pool, first) in [(1, 0), (2, 7), (3, 22_000 - backends.min(1000))] {
                let last = first + backends.min(1000);
                let mut starts = starts(pool, first..last, backends);
                starts.sort_unstable();
                starts.dedup();
                assert_eq!(
                    starts.len() as u32,
                    last - first,
                    "{backends} backends, from pool-{pool}-{first} on"
                );
            }
        }
    }

    /// Asserts how many backends the connections of fresh neighbours reach, each of whom holds `each` from its start on.
    fn check_reached(backends: u32, nodes: u32, each: u32, expect: usize) {
        for pool in 0..50 {
            let starts = starts(pool, 1..1 + nodes, backends);
            let reached: HashSet<u32> = starts
                .iter()
                .flat_map(|start| (0..each).map(move |turn| (start + turn) % backends))
                .collect();
            assert_eq!(
                reached.len(),
                expect,
                "{nodes} nodes with {each} each on {backends}, pool {pool}: {starts:?}"
            );
        }
    }

    #[test]
    fn neighbours_with_two_connections_each_have_none_in_common() {
        for backends in [5].into_iter().chain(7..=256) {
            check_reached(backends, 2, 2, 4);
        }
        check_reached(5, 3, 2, 5);
        check_reached(12, 5, 2, 10);
        // No distance but 1 and -1 leads to each of four, or of six.
        check_reached(4, 2, 2, 3);
        check_reached(6, 2, 2, 3);
    }

    #[test]
    fn only_a_number_or_a_letter_at_the_end_counts() {
        assert_eq!(numbered("node-012"), ("node-", 12));
        assert_eq!(numbered("17"), ("", 17));
        assert_eq!(numbered("n99912345678901"), ("n", 345_678_901));
        assert_eq!(numbered("worker"), ("worker", 1));
        assert_eq!(numbered("node1a"), ("node1a", 1));
        assert_eq!(numbered("zone-a.example"), ("zone-a.example", 1));
        assert_eq!(numbered("node-\u{e9}"), ("node-\u{e9}", 1));
        assert_eq!(numbered(""), ("", 1));
    }

    #[test]
    fn other_nodes_start_apart() {
        let offsets: HashSet<_> = (0..100).map(|node| node_offset(&format!("pool-{node}-x")) % 100).collect();
        assert!(offsets.len() > 50, "only {} different starts of 100", offsets.len());
    }
}
