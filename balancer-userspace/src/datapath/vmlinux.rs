//! Finding a function, or a field of a structure, in the kernel's own type information (BTF).
//!
//! Format: `Documentation/bpf/btf.rst`. Only sizes are needed to step from type to type, so a kind that a
//! later kernel adds in front of what is searched makes the search fail, not misread.

use std::fs;

/// Where the kernel shows its type information.
pub const PATH: &str = "/sys/kernel/btf/vmlinux";

/// `BTF_KIND_STRUCT`.
const STRUCT: u32 = 4;
/// `BTF_KIND_FUNC`.
const FUNC: u32 = 12;

/// The BTF id of a kernel function.
///
/// # Errors
/// What is wrong with [`PATH`], or that there is no such function.
pub fn function_id(name: &str) -> Result<u32, String> {
    let found = find(&read()?, |kind| (kind.kind == FUNC && kind.is(name)).then_some(kind.id))?;
    found.ok_or_else(|| format!("has no function {name}"))
}

/// How many bytes behind the beginning of each structure its field is, for `(structure, field)`s.
///
/// # Errors
/// What is wrong with [`PATH`], or that one of them is not there.
pub fn offsets<const N: usize>(fields: [(&str, &str); N]) -> Result<[u32; N], String> {
    let btf = read()?;
    let mut offsets = [0; N];
    for ((structure, field), offset) in fields.into_iter().zip(&mut offsets) {
        let found =
            find(
                &btf,
                |kind| if kind.kind == STRUCT && kind.is(structure) { kind.offset(field) } else { None },
            )?;
        *offset = found.ok_or_else(|| format!("has no struct {structure} with a field {field}"))?;
    }
    Ok(offsets)
}

fn read() -> Result<Vec<u8>, String> {
    fs::read(PATH).map_err(|error| format!("cannot be read: {error}"))
}

/// One type.
struct Kind<'a> {
    id: u32,
    kind: u32,
    /// Whether the offsets of fields have the sizes of bit fields in their upper 8 bits.
    has_bit_fields: bool,
    name: usize,
    /// What is particular to the kind.
    extra: &'a [u8],
    strings: &'a [u8],
}

impl Kind<'_> {
    fn is(&self, name: &str) -> bool {
        has_name(self.strings, self.name, name)
    }

    /// Where a field of this structure begins; `None` for bit fields that begin within a byte.
    fn offset(&self, field: &str) -> Option<u32> {
        for member in self.extra.as_chunks::<12>().0 {
            let [name, _, offset]: [u32; 3] = bytemuck::cast(*member);
            if has_name(self.strings, name as usize, field) {
                let bits = if self.has_bit_fields { offset & 0xff_ffff } else { offset };
                return bits.is_multiple_of(8).then_some(bits / 8);
            }
        }
        None
    }
}

/// Searches BTF bytes for the first type of which `accept` makes something.
fn find<T>(btf: &[u8], accept: impl Fn(&Kind<'_>) -> Option<T>) -> Result<Option<T>, &'static str> {
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
        let [name, info, _]: [u32; 3] = bytemuck::cast(head);
        let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        // After the head: what is particular to the kind (numbers of `BTF_KIND_…`).
        let extra = match kind {
            1 | 14 | 17 => 4,              // INT, VAR, DECL_TAG
            3 => 12,                       // ARRAY
            4 | 5 | 15 | 19 => 12 * count, // STRUCT, UNION, DATASEC, ENUM64
            6 | 13 => 8 * count,           // ENUM, FUNC_PROTO
            2 | 7..=12 | 16 | 18 => 0, // PTR, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT, FUNC, FLOAT, TYPE_TAG
            _ => return Err("has a kind of type that this version does not know"),
        };
        at += 12;
        let particular = types.get(at..at + extra).ok_or(SHORT)?;
        let has_bit_fields = info >> 31 == 1;
        let kind = Kind { id, kind, has_bit_fields, name: name as usize, extra: particular, strings };
        if let Some(found) = accept(&kind) {
            return Ok(Some(found));
        }
        at += extra;
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
        let strings = b"\0first\0second\0whole\0";
        let types: Vec<u32> = [
            &[0, 1 << 24, 4, 32][..],
            &[14, 4 << 24 | 2, 8, 1, 1, 0, 7, 1, 32],
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

    fn function(btf: &[u8], name: &str) -> Result<Option<u32>, &'static str> {
        find(btf, |kind| (kind.kind == FUNC && kind.is(name)).then_some(kind.id))
    }

    #[test]
    fn fields_are_found() {
        let offset =
            |name, field| find(&sample(), |kind| if kind.is(name) { kind.offset(field) } else { None });
        assert_eq!(offset("whole", "first"), Ok(Some(0)));
        assert_eq!(offset("whole", "second"), Ok(Some(4)));
        assert_eq!(offset("whole", "third"), Ok(None));
        // The kernel's own, where it shows them.
        if std::path::Path::new(PATH).exists() {
            let [aux, name] = offsets([("bpf_prog", "aux"), ("bpf_prog_aux", "name")]).unwrap();
            assert!(aux > 0 && name > 0);
            assert!(offsets([("bpf_prog", "nothing of this name")]).is_err());
        }
    }

    #[test]
    fn a_function_is_found_behind_types_of_other_sizes() {
        assert_eq!(function(&sample(), "first"), Ok(Some(3)));
        assert_eq!(function(&sample(), "second"), Ok(Some(4)));
        assert_eq!(function(&sample(), "sec"), Ok(None));
        assert_eq!(function(&sample(), "third"), Ok(None));
    }

    #[test]
    fn what_is_no_btf_or_a_piece_of_it_is_refused() {
        let btf = sample();
        for length in 0..btf.len() {
            assert!(function(&btf[..length], "absent").is_err(), "{length} bytes");
        }
        assert!(function(b"\x7fELF", "first").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(at in 4_usize..100, byte: u8, garbage: Vec<u8>) {
            let _ = function(&garbage, "first");
            let mut btf = sample();
            btf[at] = byte;
            let _ = function(&btf, "first");
        }
    }
}
