//! Requests to nf_tables, as bytes (`include/uapi/linux/netfilter/nf_tables.h`). Pure.
//!
//! Numbers in attributes are big-endian, those of headers the machine's. What changes the ruleset is a batch: all
//! of it is done, or none.

use crate::model::Family;

/// `NFNL_SUBSYS_NFTABLES`, in the upper half of a message's type.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// `NFT_MSG_…`.
pub(super) const NEW_TABLE: u16 = 0;
pub(super) const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
pub(super) const GET_CHAIN: u16 = 4;
pub(super) const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const NEW_SET: u16 = 9;
pub(super) const NEW_ELEMENTS: u16 = 12;
const GET_ELEMENTS: u16 = 13;
const DELETE_ELEMENTS: u16 = 14;

/// `NLM_F_…`.
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const NESTED: u16 = 0x8000;

/// Length of a netlink header.
pub(super) const HEADER: usize = 16;

/// Bytes of a batch after which another is begun. A socket takes 212,960 at once unless told otherwise.
pub(super) const FULL: usize = 100 << 10;

/// Bytes of a list of elements, an attribute whose length is a number of 16 bits.
const LIST: usize = 48 << 10;

/// The family as netfilter numbers it.
pub(super) const fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => libc::AF_INET as u8,
        Family::V6 => libc::AF_INET6 as u8,
    }
}

/// Attributes, appended to a message.
pub(super) struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    /// One with a value.
    pub(super) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.within(kind, |inner| inner.0.extend_from_slice(value))
    }

    /// One with a text, which the kernel wants ended by NUL.
    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.within(kind, |inner| {
            inner.0.extend_from_slice(value.as_bytes());
            inner.0.push(0);
        })
    }

    /// One with a number.
    pub(super) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// One that holds others.
    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.within(kind | NESTED, fill)
    }

    fn within(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        fill(&mut Attributes(self.0));
        let length = self.0.len() - start;
        debug_assert!(length <= usize::from(u16::MAX), "an attribute of {length} bytes");
        self.0[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// Appends a message: its header, `nfgenmsg` and attributes.
fn message(
    bytes: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    (family, resource): (u8, u16),
    fill: impl FnOnce(&mut Attributes<'_>),
) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; HEADER]);
    bytes.extend_from_slice(&[family, 0]);
    bytes.extend_from_slice(&resource.to_be_bytes());
    fill(&mut Attributes(bytes));
    let length = (bytes.len() - start) as u32;
    let header = &mut bytes[start..start + HEADER];
    header[0..4].copy_from_slice(&length.to_ne_bytes());
    header[4..6].copy_from_slice(&kind.to_ne_bytes());
    header[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
    header[8..12].copy_from_slice(&sequence.to_ne_bytes());
}

const fn nft(kind: u16) -> u16 {
    SUBSYSTEM << 8 | kind
}

/// What is asked of the kernel: one object, or all of a kind.
#[derive(Clone, Copy, Debug)]
pub(super) enum Query<'a> {
    /// A table, by name.
    Table(&'a str),
    /// A chain of a table.
    Chain(&'a str, &'a str),
    /// All rules of a table.
    Rules(&'a str),
    /// All elements of a set of a table.
    Elements(&'a str, &'a str),
}

impl Query<'_> {
    /// Whether the answer ends with a message that says so.
    pub(super) const fn is_dump(self) -> bool {
        matches!(self, Self::Rules(_) | Self::Elements(..))
    }
}

/// A question.
pub(super) fn query(family: Family, query: Query<'_>, sequence: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    let flags = if query.is_dump() { DUMP } else { 0 };
    let kind = match query {
        Query::Table(_) => GET_TABLE,
        Query::Chain(..) => GET_CHAIN,
        Query::Rules(_) => GET_RULE,
        Query::Elements(..) => GET_ELEMENTS,
    };
    message(&mut bytes, nft(kind), flags, sequence, (family_number(family), 0), |it| match query {
        Query::Table(table) | Query::Rules(table) => {
            it.text(1, table);
        }
        Query::Chain(table, chain) => {
            it.text(1, table).text(3, chain);
        }
        Query::Elements(table, set) => {
            it.text(1, table).text(2, set);
        }
    });
    bytes
}

/// Changes of the ruleset that are made together.
#[derive(Debug)]
pub(super) struct Batch {
    family: Family,
    bytes: Vec<u8>,
    first: u32,
    next: u32,
    /// Where the last message begins.
    last: usize,
    /// What each message does, from the second on.
    steps: Vec<&'static str>,
}

impl Batch {
    /// Without any change; its messages are numbered from `sequence` on.
    pub(super) fn new(family: Family, sequence: u32) -> Self {
        let mut bytes = Vec::with_capacity(4096);
        message(&mut bytes, BATCH_BEGIN, 0, sequence, (libc::AF_UNSPEC as u8, SUBSYSTEM), |_| {});
        Self { family, bytes, first: sequence, next: sequence.wrapping_add(1), last: 0, steps: Vec::new() }
    }

    /// Whether it should be sent before more is put in.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= FULL
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Ready to be sent: the last change is acknowledged once all are made. With the numbers of its begin and of
    /// that change, and what each message does, the begin first.
    pub(super) fn finish(mut self) -> Finished {
        let flags = &mut self.bytes[self.last + 6..self.last + 8];
        flags.copy_from_slice(&(u16::from_ne_bytes([flags[0], flags[1]]) | ACK).to_ne_bytes());
        message(&mut self.bytes, BATCH_END, 0, self.next, (libc::AF_UNSPEC as u8, SUBSYSTEM), |_| {});
        Finished { bytes: self.bytes, begin: self.first, last: self.next.wrapping_sub(1), steps: self.steps }
    }

    /// Removes a table with all that is in it.
    pub(super) fn delete_table(&mut self, table: &str) {
        self.add("removing the table", DELETE_TABLE, 0, |it| {
            it.text(1, table);
        });
    }

    /// Makes a table, unless it is there.
    pub(super) fn new_table(&mut self, table: &str) {
        self.add("adding a table", NEW_TABLE, CREATE, |it| {
            it.text(1, table);
        });
    }

    /// Makes a set. Its id is needed where it is used in the same batch.
    pub(super) fn new_set(&mut self, table: &str, set: &SetSpec<'_>) {
        self.add("adding a set", NEW_SET, CREATE, |it| {
            it.text(1, table).text(2, set.name);
            it.number(3, set.flags).number(4, set.key_type).number(5, set.key_length).number(10, set.id);
        });
    }

    /// Makes a chain of type nat that hangs on `hook`, before those of others.
    pub(super) fn new_nat_chain(&mut self, table: &str, chain: &str, hook: u32, priority: i32) {
        self.add("adding a chain of type nat", NEW_CHAIN, CREATE, |it| {
            it.text(1, table).text(3, chain).text(7, "nat");
            it.nest(4, |hook_it| {
                hook_it.number(1, hook).put(2, &priority.to_be_bytes());
            });
        });
    }

    /// Makes a rule, behind those that are there.
    pub(super) fn new_rule(
        &mut self,
        table: &str,
        chain: &str,
        note: &[u8],
        expressions: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.add("adding a rule", NEW_RULE, CREATE | APPEND, |it| {
            it.text(1, table).text(2, chain).nest(4, expressions).put(7, note);
        });
    }

    /// Puts one element with a time-out into a set.
    pub(super) fn add_element(&mut self, table: &str, set: &str, key: &[u8], timeout_ms: u64) {
        self.add("adding an element", NEW_ELEMENTS, CREATE, |it| {
            it.text(1, table).text(2, set).nest(3, |list| {
                list.nest(1, |element| {
                    element.nest(1, |data| {
                        data.put(1, key);
                    });
                    element.put(4, &timeout_ms.to_be_bytes());
                });
            });
        });
    }

    /// Removes all elements of a set.
    pub(super) fn flush_set(&mut self, table: &str, set: &str) {
        self.add("emptying a set", DELETE_ELEMENTS, 0, |it| {
            it.text(1, table).text(2, set);
        });
    }

    /// Puts elements into a set, as many as fit into one message; those that are there stay.
    pub(super) fn add_elements(&mut self, table: &str, set: &str, keys: &mut dyn Iterator<Item = Vec<u8>>) {
        self.elements("adding endpoints", (NEW_ELEMENTS, CREATE), table, set, keys);
    }

    /// Takes elements out of a set, as many as fit into one message; one that is not there fails the batch.
    pub(super) fn delete_elements(
        &mut self,
        table: &str,
        set: &str,
        keys: &mut dyn Iterator<Item = Vec<u8>>,
    ) {
        self.elements("removing endpoints", (DELETE_ELEMENTS, 0), table, set, keys);
    }

    fn elements(
        &mut self,
        step: &'static str,
        (kind, flags): (u16, u16),
        table: &str,
        set: &str,
        keys: &mut dyn Iterator<Item = Vec<u8>>,
    ) {
        self.add(step, kind, flags, |it| {
            it.text(1, table).text(2, set).nest(3, |list| {
                let begin = list.0.len();
                while list.0.len() - begin < LIST
                    && let Some(key) = keys.next()
                {
                    list.nest(1, |element| {
                        element.nest(1, |data| {
                            data.put(1, &key);
                        });
                    });
                }
            });
        });
    }

    fn add(&mut self, step: &'static str, kind: u16, flags: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.last = self.bytes.len();
        let sequence = self.next;
        self.next = self.next.wrapping_add(1);
        self.steps.push(step);
        message(&mut self.bytes, nft(kind), flags, sequence, (family_number(self.family), 0), fill);
    }
}

/// A batch that is ready to be sent.
#[derive(Debug)]
pub(super) struct Finished {
    /// What is sent.
    pub(super) bytes: Vec<u8>,
    /// Number of its first message.
    pub(super) begin: u32,
    /// Number of the last that changes anything.
    pub(super) last: u32,
    steps: Vec<&'static str>,
}

impl Finished {
    /// What the message of this number does.
    pub(super) fn step(&self, sequence: u32) -> &'static str {
        let index = sequence.wrapping_sub(self.begin) as usize;
        index.checked_sub(1).and_then(|index| self.steps.get(index)).copied().unwrap_or("a transaction")
    }
}

/// A set to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct SetSpec<'a> {
    pub(super) name: &'a str,
    /// `NFT_SET_…`.
    pub(super) flags: u32,
    /// What `nft list` takes keys for; the kernel does not ask.
    pub(super) key_type: u32,
    pub(super) key_length: u32,
    /// Any number that no other set of the batch has.
    pub(super) id: u32,
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{NetlinkBuffer, NlasIterator};

    use super::*;

    /// The messages of a datagram: type, flags, sequence, payload.
    fn messages(mut bytes: &[u8]) -> Vec<(u16, u16, u32, &[u8])> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let message = NetlinkBuffer::new_checked(bytes).unwrap();
            let (length, kind, flags, sequence) = (
                message.length() as usize,
                message.message_type(),
                message.flags(),
                message.sequence_number(),
            );
            assert!(length.is_multiple_of(4));
            all.push((kind, flags, sequence, &bytes[HEADER..length]));
            bytes = &bytes[length..];
        }
        all
    }

    fn attributes(payload: &[u8]) -> Vec<(u16, Vec<u8>)> {
        NlasIterator::new(payload)
            .map(|attribute| {
                let attribute = attribute.unwrap();
                (attribute.kind(), attribute.value().to_vec())
            })
            .collect()
    }

    #[test]
    fn a_batch_is_framed_and_its_last_change_acknowledged() {
        let mut batch = Batch::new(Family::V6, u32::MAX);
        assert!(batch.is_empty());
        batch.new_table("t");
        batch.delete_table("t");
        let finished = batch.finish();
        let all = messages(&finished.bytes);
        let seen: Vec<_> = all.iter().map(|(kind, flags, sequence, _)| (*kind, *flags, *sequence)).collect();
        assert_eq!(
            seen,
            [(16, 1, u32::MAX), (0x0a00, 0x401, 0), (0x0a02, 5, 1), (17, 1, 2)],
            "begin, two changes, end"
        );
        // The subsystem, big-endian, in the framing; the family in what is framed.
        assert_eq!((all[0].3, &all[1].3[..4]), (&[0, 0, 0, 10][..], &[10, 0, 0, 0][..]));
        assert_eq!(attributes(&all[1].3[4..]), [(1, b"t\0".to_vec())]);
        assert_eq!((finished.begin, finished.last), (u32::MAX, 1));
        assert_eq!(finished.step(1), "removing the table");
        assert_eq!(finished.step(u32::MAX), "a transaction");
        assert_eq!(finished.step(77), "a transaction");
    }

    #[test]
    fn lists_of_elements_stay_within_an_attribute() {
        let mut keys = (0..10_000u32).map(|n| [n.to_be_bytes(), [6, 0, 0, 0], [0, 80, 0, 0]].concat());
        let mut batch = Batch::new(Family::V4, 1);
        let mut rounds = 0;
        while keys.len() > 0 {
            batch.add_elements("t", "s", &mut keys);
            rounds += 1;
        }
        let finished = batch.finish();
        let all = messages(&finished.bytes);
        assert_eq!(all.len(), rounds + 2);
        let counts: Vec<usize> = all[1..=rounds]
            .iter()
            .map(|(_, _, _, payload)| {
                let list = attributes(&payload[4..]).pop().unwrap();
                assert_eq!(list.0, 3);
                attributes(&list.1).len()
            })
            .collect();
        assert_eq!(counts.iter().sum::<usize>(), 10_000);
        assert!(counts[..rounds - 1].iter().all(|count| *count > 2_000), "{counts:?}");
    }

    #[test]
    fn a_question_names_what_it_is_about() {
        let bytes = query(Family::V4, Query::Chain("nat", "KUBE-SERVICES"), 9);
        let [(kind, flags, sequence, payload)] = messages(&bytes)[..] else { panic!("{bytes:?}") };
        assert_eq!((kind, flags, sequence), (0x0a04, 1, 9));
        assert_eq!(attributes(&payload[4..]), [(1, b"nat\0".to_vec()), (3, b"KUBE-SERVICES\0".to_vec())]);
        let bytes = query(Family::V4, Query::Elements("t", "s"), 9);
        assert_eq!(messages(&bytes)[0].1, 0x301);
    }
}
