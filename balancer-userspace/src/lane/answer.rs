//! The kernel's answers, from bytes. Pure; never panics, whatever the bytes are.

use netlink_packet_core::{NLM_F_DUMP_INTR, NetlinkBuffer, NlasIterator};

use super::{LaneError, message};

/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;

/// `nfgenmsg`, which every answer about an object begins with.
const HEAD: usize = 4;

/// One message of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A request was carried out (`None`) or refused, with the kernel's error number, a positive one.
    Result {
        /// Number of the request.
        sequence: u32,
        /// Why it was refused.
        errno: Option<i32>,
    },
    /// A listing is over; or it failed, with the kernel's error number.
    Done {
        /// Number of the request.
        sequence: u32,
        /// Why it failed.
        errno: Option<i32>,
    },
    /// What a listing goes through changed meanwhile: it has to be repeated.
    Disturbed,
    /// A table or a chain that was asked for by name.
    Found,
    /// A rule.
    Rule {
        /// Chain that it is in.
        chain: String,
        /// What whoever made it noted.
        note: Vec<u8>,
    },
    /// Elements of a set: their keys.
    Elements(Vec<Vec<u8>>),
}

/// Reads the messages of one datagram.
///
/// # Errors
/// [`LaneError::Malformed`] when a message or an attribute reaches beyond what contains it.
pub fn datagram(mut bytes: &[u8], mut each: impl FnMut(Answer)) -> Result<(), LaneError> {
    while !bytes.is_empty() {
        let message = NetlinkBuffer::new_checked(bytes).map_err(malformed)?;
        let (kind, sequence) = (message.message_type(), message.sequence_number());
        if message.flags() & NLM_F_DUMP_INTR != 0 {
            each(Answer::Disturbed);
        }
        match kind {
            // Both begin with a negative error number, or with 0 for none.
            ERROR => each(Answer::Result { sequence, errno: errno(message.payload()) }),
            DONE => each(Answer::Done { sequence, errno: errno(message.payload()) }),
            kind if kind >> 8 == 10 => {
                let attributes = message.payload().get(HEAD..).unwrap_or_default();
                if let Some(answer) = object(kind & 0xff, attributes)? {
                    each(answer);
                }
            }
            _ => {}
        }
        let step = (message.length() as usize).next_multiple_of(4);
        bytes = bytes.get(step..).unwrap_or_default();
    }
    Ok(())
}

fn object(kind: u16, attributes: &[u8]) -> Result<Option<Answer>, LaneError> {
    Ok(match kind {
        message::NEW_TABLE | NEW_CHAIN => Some(Answer::Found),
        message::NEW_RULE => {
            let (mut chain, mut note) = (String::new(), Vec::new());
            each(attributes, |kind, value| {
                match kind {
                    2 => chain = text(value),
                    7 => note = value.to_vec(),
                    _ => {}
                }
                Ok(())
            })?;
            Some(Answer::Rule { chain, note })
        }
        message::NEW_ELEMENTS => {
            let mut keys = Vec::new();
            each(attributes, |kind, list| match kind {
                3 => each(list, |_, element| {
                    each(element, |kind, data| match kind {
                        1 => each(data, |kind, key| {
                            if kind == 1 {
                                keys.push(key.to_vec());
                            }
                            Ok(())
                        }),
                        _ => Ok(()),
                    })
                }),
                _ => Ok(()),
            })?;
            Some(Answer::Elements(keys))
        }
        _ => None,
    })
}

/// `NFT_MSG_NEWCHAIN`.
const NEW_CHAIN: u16 = 3;

fn each(bytes: &[u8], mut it: impl FnMut(u16, &[u8]) -> Result<(), LaneError>) -> Result<(), LaneError> {
    for attribute in NlasIterator::new(bytes) {
        let attribute = attribute.map_err(malformed)?;
        it(attribute.kind(), attribute.value())?;
    }
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn errno(payload: &[u8]) -> Option<i32> {
    let number = payload.first_chunk().copied().map_or(0, i32::from_ne_bytes);
    (number != 0).then(|| number.wrapping_neg())
}

fn malformed(error: impl std::fmt::Display) -> LaneError {
    LaneError::Malformed { what: error.to_string() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        lane::message::{Batch, Query, query},
        model::Family,
    };

    fn read(bytes: &[u8]) -> Result<Vec<Answer>, LaneError> {
        let mut all = Vec::new();
        datagram(bytes, |answer| all.push(answer))?;
        Ok(all)
    }

    /// What the kernel would say: a request's form is that of its answer.
    fn elements() -> Vec<u8> {
        let mut batch = Batch::new(Family::V4, 7);
        batch.add_elements("t", "s", &mut [vec![1; 12], vec![2; 12]].into_iter());
        batch.finish().bytes
    }

    #[test]
    fn elements_and_rules_are_read() {
        assert_eq!(read(&elements()).unwrap(), [Answer::Elements(vec![vec![1; 12], vec![2; 12]])]);
        let mut batch = Batch::new(Family::V4, 7);
        batch.new_rule("t", "prerouting", b"note", |_| {});
        let rule = Answer::Rule { chain: "prerouting".to_owned(), note: b"note".to_vec() };
        assert_eq!(read(&batch.finish().bytes).unwrap(), [rule]);
    }

    #[test]
    fn results_are_told_from_the_end_of_a_listing() {
        let answer = |kind: u16, flags: u16, errno: i32| {
            let mut bytes = 20u32.to_ne_bytes().to_vec();
            bytes.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
            bytes.extend([9u32.to_ne_bytes(), 0u32.to_ne_bytes(), errno.to_ne_bytes()].concat());
            read(&bytes).unwrap()
        };
        assert_eq!(answer(2, 0, -2), [Answer::Result { sequence: 9, errno: Some(2) }]);
        assert_eq!(answer(2, 0, 0), [Answer::Result { sequence: 9, errno: None }]);
        assert_eq!(answer(3, 0, 0), [Answer::Done { sequence: 9, errno: None }]);
        assert_eq!(answer(3, 0x10, 0), [Answer::Disturbed, Answer::Done { sequence: 9, errno: None }]);
        assert_eq!(answer(3, 0, i32::MIN), [Answer::Done { sequence: 9, errno: Some(i32::MIN) }]);
        assert_eq!(answer(1, 0, 0), []);
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        let whole = elements();
        // Within the second message, behind the header.
        for length in 21..whole.len() - 20 {
            assert!(read(&whole[..length]).is_err(), "{length}");
        }
        assert!(read(&query(Family::V4, Query::Table("t"), 1)[..8]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = read(&bytes);
        }

        #[test]
        fn nor_do_flipped_ones(place in any::<prop::sample::Index>(), value in any::<u8>()) {
            let mut bytes = elements();
            let place = place.index(bytes.len());
            bytes[place] = value;
            let _ = read(&bytes);
        }
    }
}
