//! What an API server calls an object by, that no other object will ever be called.

use std::fmt;

/// A `metadata.uid`, without the heap that its text would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid([u8; 16]);

impl Uid {
    /// Reads the form that API servers write, in lower case with hyphens; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        let digits: String = text.split('-').collect();
        if digits.len() != 32 || !digits.is_ascii() {
            return None;
        }
        for (byte, at) in bytes.iter_mut().zip((0..32).step_by(2)) {
            *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
        }
        let uid = Self(bytes);
        (uid.to_string() == text).then_some(uid)
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let lead = if matches!(index, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{lead}{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_is_shown() {
        let text = "7f3c1a2e-0b4d-4c5e-8f60-a1b2c3d4e5f6";
        assert_eq!(Uid::parse(text).unwrap().to_string(), text);
        for other in [
            "",
            "7F3C1A2E-0b4d-4c5e-8f60-a1b2c3d4e5f6",
            "7f3c1a2e0b4d4c5e8f60a1b2c3d4e5f6",
            "é",
            "+f3c1a2e-0b4d-4c5e-8f60-a1b2c3d4e5f6",
        ] {
            assert_eq!(Uid::parse(other), None, "{other}");
        }
    }
}
