//! Texts in map values: UTF-8, padded with NUL.

use balancer_common::abi::BackendMeta;

/// `text` as a padded value, cut at a character boundary to fit with a final NUL.
pub fn to_text<const N: usize>(text: &str) -> [u8; N] {
    let mut value = [0; N];
    let text = cut(text, N.saturating_sub(1));
    value[..text.len()].copy_from_slice(text.as_bytes());
    value
}

/// The text of a padded value; bytes that are not UTF-8 are replaced.
pub fn from_text(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// Pod, node and zone in one value, each with a final NUL. Where they do not fit, the longest is cut.
pub fn backend_meta(pod: &str, node: &str, zone: &str) -> BackendMeta {
    let mut meta = BackendMeta { text: [0; 440] };
    let mut parts = [pod, node, zone];
    let mut excess = (parts.iter().map(|part| part.len() + 1).sum::<usize>()).saturating_sub(meta.text.len());
    while excess > 0 {
        let longest = if parts[0].len() >= parts[1].len() { 0 } else { 1 };
        let longest = if parts[2].len() > parts[longest].len() { 2 } else { longest };
        let before = parts[longest].len();
        parts[longest] = cut(parts[longest], before.saturating_sub(excess.min(before / 2 + 1)));
        excess = excess.saturating_sub(before - parts[longest].len());
    }
    let mut at = 0;
    for part in parts {
        meta.text[at..at + part.len()].copy_from_slice(part.as_bytes());
        at += part.len() + 1;
    }
    meta
}

/// Pod, node and zone out of one value.
pub fn backend_names(meta: &BackendMeta) -> [String; 3] {
    let mut parts = meta.text.split(|&byte| byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(from_text(&to_text::<8>("balancer")), "balance");
        assert_eq!(from_text(&to_text::<8>("aaaaaaé")), "aaaaaa");
        assert_eq!(from_text(&to_text::<8>("")), "");
    }

    #[test]
    fn names_come_back_and_the_longest_gives_way() {
        let names = |pod: &str, node: &str, zone: &str| backend_names(&backend_meta(pod, node, zone));
        assert_eq!(names("web-1", "", "a"), ["web-1", "", "a"]);
        let (long, zone) = ("x".repeat(253), "z".repeat(63));
        let cut = names(&long, &long, &zone);
        assert_eq!(cut.iter().map(|name| name.len() + 1).sum::<usize>(), 440);
        assert_eq!(cut[2], zone);
        assert_eq!(names(&"é".repeat(300), "n", "z")[1..], ["n", "z"]);
    }
}
