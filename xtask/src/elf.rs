//! Reads the section names of an ELF object: enough to know that the object is what it should be.

use anyhow::{Context, Result, bail};

/// The machine number of eBPF.
const EM_BPF: u16 = 247;

/// The names of all sections of a 64-bit eBPF object.
///
/// # Errors
/// When the bytes are not such an object.
pub fn sections(bytes: &[u8]) -> Result<Vec<String>> {
    if bytes.get(..4) != Some(b"\x7fELF") {
        bail!("not an ELF file");
    }
    if bytes.get(4) != Some(&2) {
        bail!("not a 64-bit ELF file");
    }
    let elf = Elf { bytes, big: bytes.get(5) == Some(&2) };
    let machine = elf.number(18, 2)?;
    if machine != u64::from(EM_BPF) {
        bail!("built for machine {machine}, not for eBPF ({EM_BPF})");
    }
    let table = elf.number(40, 8)?;
    let entry = elf.number(58, 2)?;
    let count = elf.number(60, 2)?;
    let names = elf.number(62, 2)?;
    let header = |index: u64| index.checked_mul(entry).and_then(|at| at.checked_add(table));
    let end = header(count).context("truncated ELF file")?;
    if end > bytes.len() as u64 {
        bail!("truncated ELF file");
    }
    let names = header(names).context("truncated ELF file")?;
    let strings = elf.number(names + 24, 8)?;
    (0..count)
        .map(|index| {
            let at = header(index).context("truncated ELF file")?;
            elf.string(strings + elf.number(at, 4)?)
        })
        .collect()
}

struct Elf<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl Elf<'_> {
    fn number(&self, at: u64, len: usize) -> Result<u64> {
        let at = usize::try_from(at)?;
        let bytes =
            at.checked_add(len).and_then(|end| self.bytes.get(at..end)).context("truncated ELF file")?;
        let fold = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Ok(if self.big { bytes.iter().fold(0, fold) } else { bytes.iter().rev().fold(0, fold) })
    }

    fn string(&self, at: u64) -> Result<String> {
        let rest = self.bytes.get(usize::try_from(at)?..).context("truncated ELF file")?;
        let len = rest.iter().position(|byte| *byte == 0).context("truncated ELF file")?;
        Ok(String::from_utf8_lossy(&rest[..len]).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A little-endian object with the given section names and nothing in them.
    fn object(names: &[&str]) -> Vec<u8> {
        let mut strings = vec![0];
        let mut headers = Vec::new();
        for name in names.iter().chain(&[".strtab"]) {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&u32::try_from(strings.len()).unwrap().to_le_bytes());
            strings.extend_from_slice(name.as_bytes());
            strings.push(0);
            headers.push(header);
        }
        let count = u16::try_from(headers.len()).unwrap();
        headers.last_mut().unwrap()[24..32].copy_from_slice(&64_u64.to_le_bytes());
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18..20].copy_from_slice(&EM_BPF.to_le_bytes());
        elf[40..48].copy_from_slice(&(64 + strings.len() as u64).to_le_bytes());
        elf[58..60].copy_from_slice(&64_u16.to_le_bytes());
        elf[60..62].copy_from_slice(&count.to_le_bytes());
        elf[62..64].copy_from_slice(&(count - 1).to_le_bytes());
        elf.extend(strings);
        elf.extend(headers.concat());
        elf
    }

    #[test]
    fn names_every_section() {
        assert_eq!(sections(&object(&["license", ".BTF"])).unwrap(), ["license", ".BTF", ".strtab"]);
    }

    #[test]
    fn refuses_what_is_not_an_object_for_ebpf() {
        let mut other = object(&[]);
        other[18] = 62;
        assert_eq!(sections(&other).unwrap_err().to_string(), "built for machine 62, not for eBPF (247)");
        assert_eq!(sections(b"#!/bin/sh").unwrap_err().to_string(), "not an ELF file");
    }

    #[test]
    fn a_truncated_object_is_an_error_at_every_length() {
        let whole = object(&["license"]);
        for len in 0..whole.len() {
            assert!(sections(&whole[..len]).is_err(), "cut at {len}");
        }
    }
}
