//! How the backends of a Service port become slots.

use std::{cmp::Reverse, collections::BinaryHeap, net::SocketAddr};

use balancer_common::abi::{Algorithm, FULL_SCAN, Slot};

/// A backend that has its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Backend id.
    pub id: u32,
    /// 1 to 65535.
    pub weight: u32,
    /// Address and port: what a Maglev table hashes, so that all nodes lay out the same.
    pub addr: SocketAddr,
}

/// The most slots that weights may ask for, per backend: what a finer ratio would add nobody could tell.
const SLOTS_PER_BACKEND: u64 = 32;

/// The slots for `members`, which are sorted by address and port.
///
/// Least-connections gets one slot per backend, in the order of a hash where it will compare a window of
/// them only: new backends, whose addresses are often next to each other, then stand in every window, and
/// fill up first. Source-hash gets a Maglev table; the others a schedule in
/// which each backend stands as often as its weight asks, as evenly spread as that allows.
pub fn layout(algorithm: Algorithm, members: &[Member]) -> Vec<Slot> {
    match algorithm {
        Algorithm::LeastConnections if members.len() as u32 > FULL_SCAN => ring(members),
        Algorithm::LeastConnections => plain(members),
        Algorithm::SourceHash => maglev(members),
        Algorithm::RoundRobin | Algorithm::ClientRoundRobin | Algorithm::Random => schedule(members),
    }
}

/// One slot for each of `members`: what least-connections reads, and what any algorithm can do with where
/// there is no room for more.
pub fn plain(members: &[Member]) -> Vec<Slot> {
    members.iter().map(slot).collect()
}

/// One slot for each of `members`, in the order of [`ring_place`].
fn ring(members: &[Member]) -> Vec<Slot> {
    let mut ring: Vec<&Member> = members.iter().collect();
    ring.sort_by_cached_key(|member| ring_place(&member.addr));
    ring.into_iter().map(slot).collect()
}

/// Where a backend stands in the ring of a large Service: the same on every node.
pub fn ring_place(addr: &SocketAddr) -> u64 {
    stable_hash(addr, 3)
}

fn slot(member: &Member) -> Slot {
    Slot { backend: member.id, weight: member.weight }
}

/// Each backend at the middles of as many equal parts as its weight.
fn schedule(members: &[Member]) -> Vec<Slot> {
    let divisor = members.iter().fold(0, |divisor, member| gcd(divisor, u64::from(member.weight)));
    if divisor == 0 {
        return Vec::new();
    }
    let total: u64 = members.iter().map(|member| u64::from(member.weight) / divisor).sum();
    let limit = (members.len() as u64 * SLOTS_PER_BACKEND).max(1);
    let count = |member: &Member| {
        let weight = u64::from(member.weight) / divisor;
        if total <= limit { weight } else { (weight * limit / total).max(1) }
    };
    let mut places: Vec<(u64, usize)> = members
        .iter()
        .enumerate()
        .flat_map(|(index, member)| {
            let count = count(member);
            // The middle of part k of n is at (2k + 1) / 2n, here in units of 2^-32.
            (0..count).map(move |part| (((2 * part + 1) << 32) / (2 * count), index))
        })
        .collect();
    places.sort_unstable();
    places.into_iter().map(|(_, index)| slot(&members[index])).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Sizes of Maglev tables: primes, so that every step visits every place.
const TABLE_SIZES: [u32; 12] =
    [251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071, 262_139, 524_287];
/// The largest table that is made for the sake of evenness alone.
const EVEN_TABLE: u32 = 65_521;

/// The table size for `backends`: about a hundred places each, so that shares differ by about 1%.
fn table_size(backends: usize) -> u32 {
    let wanted = (backends as u64 * 100).min(u64::from(EVEN_TABLE)).max(backends as u64 * 2);
    TABLE_SIZES.into_iter().find(|&size| u64::from(size) >= wanted).unwrap_or(524_287)
}

/// Fills a Maglev table (Eisenbud et al., NSDI 2016, section 3.4): backends take turns at claiming their
/// next preferred free place, as often as their weights ask.
fn maglev(members: &[Member]) -> Vec<Slot> {
    let Some(heaviest) = members.iter().map(|member| u64::from(member.weight).max(1)).max() else {
        return Vec::new();
    };
    let size = table_size(members.len());
    let mut table: Vec<Option<u32>> = vec![None; size as usize];
    let preferences: Vec<(u64, u64)> = members
        .iter()
        .map(|member| {
            let hash = |salt| stable_hash(&member.addr, salt);
            (hash(1) % u64::from(size), hash(2) % u64::from(size - 1) + 1)
        })
        .collect();
    let mut next = vec![0_u64; members.len()];
    // Whose turn it is: the round in which a backend has gathered the weight for its next claim, counted
    // ahead and not gone through, because where one backend outweighs thousands most rounds are empty.
    let turn = |claim: u64, index: usize| {
        let weight = u64::from(members[index].weight).max(1);
        Reverse(((claim * heaviest).div_ceil(weight), index, claim))
    };
    let mut turns: BinaryHeap<_> = (0..members.len()).map(|index| turn(1, index)).collect();
    for _ in 0..size {
        let Some(Reverse((_, index, claim))) = turns.pop() else { break };
        turns.push(turn(claim + 1, index));
        let (offset, skip) = preferences[index];
        loop {
            let place = (offset + next[index] * skip) % u64::from(size);
            next[index] += 1;
            let entry = &mut table[place as usize];
            if entry.is_none() {
                *entry = Some(index as u32);
                break;
            }
        }
    }
    table.into_iter().flatten().map(|index| slot(&members[index as usize])).collect()
}

/// FNV-1a over address and port, then mixed: the same on every node and in every version.
fn stable_hash(addr: &SocketAddr, salt: u64) -> u64 {
    let text = addr.to_string();
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64 ^ salt, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 29)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn members(weights: &[u32]) -> Vec<Member> {
        weights
            .iter()
            .enumerate()
            .map(|(index, &weight)| Member {
                id: index as u32 + 2,
                weight,
                addr: SocketAddr::from(([10, 0, (index / 250) as u8, (index % 250) as u8], 80)),
            })
            .collect()
    }

    fn shares(slots: &[Slot]) -> HashMap<u32, usize> {
        slots.iter().fold(HashMap::new(), |mut shares, slot| {
            *shares.entry(slot.backend).or_default() += 1;
            shares
        })
    }

    fn check(weights: &[u32], expect: &[u32]) {
        let slots = layout(Algorithm::RoundRobin, &members(weights));
        assert_eq!(slots.iter().map(|slot| slot.backend).collect::<Vec<_>>(), expect);
    }

    #[test]
    fn a_schedule_spreads_weights_evenly() {
        check(&[], &[]);
        check(&[7], &[2]);
        check(&[1, 1, 1], &[2, 3, 4]);
        check(&[10, 10], &[2, 3]);
        check(&[3, 1], &[2, 2, 3, 2]);
        check(&[2, 1, 1], &[2, 3, 4, 2]);
    }

    #[test]
    fn extreme_weights_stay_bounded_and_nobody_is_forgotten() {
        let slots = layout(Algorithm::Random, &members(&[65_535, 1, 65_534]));
        assert!(slots.len() <= 3 * 32 + 1, "{}", slots.len());
        assert_eq!(shares(&slots).len(), 3);
    }

    #[test]
    fn a_maglev_table_is_even_weighted_and_moves_little() {
        let ten = members(&[1; 10]);
        let table = layout(Algorithm::SourceHash, &ten);
        let shares = shares(&table);
        let fair = table.len() / 10;
        assert!(shares.values().all(|&share| share.abs_diff(fair) <= fair / 50 + 1), "{shares:?}");

        let nine: Vec<_> = ten.iter().filter(|member| member.id != 5).copied().collect();
        let smaller = layout(Algorithm::SourceHash, &nine);
        assert_eq!(smaller.len(), table.len());
        let moved = table.iter().zip(&smaller).filter(|(a, b)| a != b && a.backend != 5).count();
        assert!(moved < table.len() / 10, "{moved} of {} moved without need", table.len());

        let weighted = layout(Algorithm::SourceHash, &members(&[3, 1]));
        let shares = self::shares(&weighted);
        assert!((shares[&2] as f64 / shares[&3] as f64 - 3.0).abs() < 0.1, "{shares:?}");
    }

    #[test]
    fn a_large_ring_separates_backends_that_came_together() {
        let small = layout(Algorithm::LeastConnections, &members(&[1; 64]));
        assert!(small.is_sorted_by_key(|slot| slot.backend));
        let large = layout(Algorithm::LeastConnections, &members(&[1; 200]));
        assert_eq!(shares(&large).len(), 200);
        // The last 50 by address are in every eighth of the ring.
        for window in large.chunks(25) {
            assert!(window.iter().any(|slot| slot.backend >= 152), "{window:?}");
        }
    }

    #[test]
    fn tables_grow_with_the_service_up_to_a_bound() {
        for (backends, size) in [(1, 251), (10, 1021), (1_000, 65_521), (40_000, 131_071), (100_000, 262_139)]
        {
            assert_eq!(table_size(backends), size, "{backends}");
        }
    }

    /// Backends take turns, each as soon as it has gathered the weight for it: the paper, word by word.
    fn turn_by_turn(members: &[Member]) -> Vec<u32> {
        let size = table_size(members.len());
        let heaviest = members.iter().map(|member| member.weight).max().unwrap_or(0);
        let mut table = vec![None; size as usize];
        let mut left = size;
        let mut state: Vec<(u32, u64)> = vec![(0, 0); members.len()];
        while left > 0 {
            for (member, (credit, next)) in members.iter().zip(&mut state) {
                *credit += member.weight;
                if *credit < heaviest || left == 0 {
                    continue;
                }
                *credit -= heaviest;
                let hash = |salt| stable_hash(&member.addr, salt);
                let (offset, skip) = (hash(1) % u64::from(size), hash(2) % u64::from(size - 1) + 1);
                let free = |next: &u64| table[((offset + next * skip) % u64::from(size)) as usize].is_none();
                *next = (*next..).find(free).unwrap();
                table[((offset + *next * skip) % u64::from(size)) as usize] = Some(member.id);
                left -= 1;
            }
        }
        table.into_iter().flatten().collect()
    }

    #[test]
    fn a_maglev_table_is_filled_turn_by_turn() {
        for weights in
            [&[1][..], &[1; 7], &[3, 1, 2], &[65_535, 1, 1, 40_000], &[7, 7, 5, 1, 1, 1, 1, 1, 1, 6]]
        {
            let members = members(weights);
            let table: Vec<u32> = maglev(&members).iter().map(|slot| slot.backend).collect();
            assert_eq!(table, turn_by_turn(&members), "{weights:?}");
        }
    }

    #[test]
    fn one_heavy_backend_among_thousands_costs_no_empty_rounds() {
        // Round by round, this is 10^9 steps.
        let mut weights = vec![1; 20_000];
        weights[0] = 65_535;
        let table = layout(Algorithm::SourceHash, &members(&weights));
        assert_eq!(table.len(), 65_521);
        assert!(layout(Algorithm::SourceHash, &members(&[0, 0])).len() == 251, "whatever stands in a map");
    }
}
