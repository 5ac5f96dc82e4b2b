//! Finding one function in the kernel's own type information (BTF).
//!
//! Format: `Documentation/bpf/btf.rst`. Only sizes are needed to step from type to type, so a kind that a
//! later kernel adds in front of what is searched makes the search fail, not misread.

use std::{fs, path::Path};

use super::SocketsError;

/// Where the kernel shows its type information.
const PATH: &str = "/sys/kernel/btf/vmlinux";

/// `BTF_KIND_FUNC`.
const FUNC: u32 = 12;

/// The BTF id of a kernel function.
///
/// # Errors
/// [`SocketsError::KernelTypes`] when there is no such function or no type information.
pub(super) fn function_id(name: &str) -> Result<u32, SocketsError> {
    let problem = |problem: String| SocketsError::KernelTypes { path: PATH.into(), problem };
    let btf = fs::read(Path::new(PATH)).map_err(|error| problem(format!("cannot be read: {error}")))?;
    find(&btf, name)
        .map_err(|what| problem(what.to_owned()))?
        .ok_or_else(|| problem(format!("has no function {name}")))
}

/// Searches BTF bytes; `Ok(None)` when the function is not there.
fn find(btf: &[u8], name: &str) -> Result<Option<u32>, &'static str> {
    const SHORT: &str = "is cut short";
    let word = |at: usize| -> Option<u32> { btf.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes) };
    if btf.first_chunk() != Some(&0xeb9f_u16.to_ne_bytes()) {
        return Err("does not begin as BTF does");
    }
    let field = |index: usize| word(index * 4).map(|value| value as usize).ok_or(SHORT);
    let (header, types, types_length, strings, strings_length) =
        (field(1)?, field(2)?, field(3)?, field(4)?, field(5)?);
    let types = section(btf, header, types, types_length).ok_or(SHORT)?;
    let strings = section(btf, header, strings, strings_length).ok_or(SHORT)?;

    let mut at = 0;
    let mut id = 0;
    while at < types.len() {
        id += 1;
        let head: [u8; 12] = *types.get(at..).and_then(<[u8]>::first_chunk).ok_or(SHORT)?;
        let [name_offset, info, _]: [u32; 3] = bytemuck::cast(head);
        let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        if kind == FUNC && has_name(strings, name_offset as usize, name) {
            return Ok(Some(id));
        }
        // After the head: what is particular to the kind (numbers of `BTF_KIND_…`).
        let extra = match kind {
            1 | 14 | 17 => 4,              // INT, VAR, DECL_TAG
            3 => 12,                       // ARRAY
            4 | 5 | 15 | 19 => 12 * count, // STRUCT, UNION, DATASEC, ENUM64
            6 | 13 => 8 * count,           // ENUM, FUNC_PROTO
            2 | 7..=12 | 16 | 18 => 0, // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
            _ => return Err("has a kind of type that this version does not know"),
        };
        at += 12 + extra;
    }
    Ok(None)
}

fn section(btf: &[u8], header: usize, offset: usize, length: usize) -> Option<&[u8]> {
    let start = header.checked_add(offset)?;
    btf.get(start..start.checked_add(length)?)
}

fn has_name(strings: &[u8], offset: usize, name: &str) -> bool {
    strings
        .get(offset..)
        .and_then(|rest| rest.strip_prefix(name.as_bytes()))
        .is_some_and(|rest| rest.first() == Some(&0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// BTF with an int, a struct of two members, and functions `first` and `second`: ids 1 to 4.
    fn sample() -> Vec<u8> {
        let strings = b"\0first\0second\0";
        let types: Vec<u32> = [
            &[0, 1 << 24, 4, 32][..],
            &[0, 4 << 24 | 2, 8, 0, 1, 0, 0, 1, 32],
            &[1, 12 << 24, 1],
            &[7, 12 << 24 | 1, 1],
        ]
        .concat();
        let mut btf = Vec::new();
        btf.extend(0xeb9f_u16.to_ne_bytes());
        btf.extend([1, 0]);
        let length = (types.len() * 4) as u32;
        for word in [24, 0, length, length, strings.len() as u32] {
            btf.extend(word.to_ne_bytes());
        }
        btf.extend(types.iter().flat_map(|word| word.to_ne_bytes()));
        btf.extend(strings);
        btf
    }

    #[test]
    fn a_function_is_found_behind_types_of_other_sizes() {
        assert_eq!(find(&sample(), "first"), Ok(Some(3)));
        assert_eq!(find(&sample(), "second"), Ok(Some(4)));
        assert_eq!(find(&sample(), "sec"), Ok(None));
        assert_eq!(find(&sample(), "third"), Ok(None));
    }

    #[test]
    fn what_is_no_btf_or_a_piece_of_it_is_refused() {
        let btf = sample();
        for length in 0..btf.len() {
            assert!(find(&btf[..length], "absent").is_err(), "{length} bytes");
        }
        assert!(find(b"\x7fELF", "first").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(at in 4_usize..100, byte: u8, garbage: Vec<u8>) {
            let _ = find(&garbage, "first");
            let mut btf = sample();
            btf[at] = byte;
            let _ = find(&btf, "first");
        }
    }
}
