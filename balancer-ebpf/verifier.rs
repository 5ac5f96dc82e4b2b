//! How much work each program may be to the kernel's verifier: what `verifier.txt` records, and the bound that
//! follows from it. Pure, and without dependencies: `verify-object` and xtask have it as a module of theirs.

use std::fmt;

/// The record: a line for each program, a column for each kernel.
const RECORD: &str = include_str!("verifier.txt");

/// What the verifier follows before it gives up (`BPF_COMPLEXITY_LIMIT_INSNS`).
pub const LIMIT: u64 = 1_000_000;

/// No program may come nearer to [`LIMIT`] than this, whatever is recorded.
pub const MOST: u64 = LIMIT / 2;

/// A release of the kernel, as far as it matters: its first two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(pub u32, pub u32);

impl Release {
    /// Of `6.12.9+deb13-amd64` and the like.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self(next()?, next()?))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// What may be asked of the verifier for one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Of the kernel whose record this is.
    pub release: Release,
    /// Instructions that its verifier followed when they were recorded.
    pub recorded: u64,
    /// Instructions that it may follow: a quarter more, and never above [`MOST`].
    pub most: u64,
}

/// The kernels that are recorded, oldest first.
pub fn releases() -> Vec<Release> {
    rows()
        .next()
        .into_iter()
        .flat_map(|(_, columns)| columns.iter().filter_map(|word| Release::parse(word)).collect::<Vec<_>>())
        .collect()
}

/// The programs that are recorded.
pub fn programs() -> Vec<&'static str> {
    rows().skip(1).map(|(program, _)| program).collect()
}

/// The bound of a program on a kernel: that kernel's own or, where it is not recorded, that of the nearest one before it,
/// else of the oldest. `None` for a program that is not recorded.
pub fn bound(kernel: Release, program: &str) -> Option<Bound> {
    let (_, counts) = rows().skip(1).find(|(name, _)| *name == program)?;
    let releases = releases();
    let column = releases.iter().rposition(|release| *release <= kernel).unwrap_or(0);
    let recorded = counts.get(column)?.parse().ok()?;
    let most = MOST.min(recorded + recorded / 4);
    Some(Bound { release: *releases.get(column)?, recorded, most })
}

/// Whether `count` instructions are more than `program` may cost on `kernel`: in words, if they are.
pub fn over_bound(kernel: Release, program: &str, count: u64) -> Option<String> {
    let Bound { release, recorded, most } = bound(kernel, program)?;
    (count > most).then(|| {
        let other = if release == kernel { String::new() } else { format!(" (Linux {kernel} is not recorded)") };
        format!(
            "{program} took the verifier {count} instructions, more than {most}: {recorded} are recorded for Linux \
             {release}{other}. Make it simpler, or record it in balancer-ebpf/verifier.txt with the reason"
        )
    })
}

/// The rows of the record: its first word, and the others. The first row names the kernels.
fn rows() -> impl Iterator<Item = (&'static str, Vec<&'static str>)> {
    RECORD.lines().filter(|line| !line.trim_start().starts_with('#')).filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.collect()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_whole() {
        let releases = releases();
        assert!(!releases.is_empty() && releases.is_sorted());
        for (program, counts) in rows().skip(1) {
            assert_eq!(counts.len(), releases.len(), "{program}");
            for release in &releases {
                let Bound { recorded, most, .. } = bound(*release, program).unwrap();
                assert!(recorded <= most && most <= MOST, "{program} on {release}: {recorded} of {most}");
            }
        }
    }

    #[test]
    fn a_kernel_that_is_not_recorded_is_held_to_the_one_before_it() {
        let [oldest, newest] = [releases()[0], *releases().last().unwrap()];
        let of = |release| bound(release, "connect4").unwrap().release;
        assert_eq!(of(newest), newest);
        assert_eq!(of(Release(newest.0, newest.1 + 1)), newest);
        assert_eq!(of(Release(4, 19)), oldest);
        assert_eq!(bound(newest, "unheard_of"), None);
        assert_eq!(Release::parse("6.12.9+deb13-amd64\n"), Some(Release(6, 12)));
        assert_eq!(Release::parse("linux"), None);
    }

    #[test]
    fn what_is_over_the_bound_is_said() {
        let newest = *releases().last().unwrap();
        let most = bound(newest, "sendmsg4").unwrap().most;
        assert_eq!(over_bound(newest, "sendmsg4", most), None);
        let words = over_bound(newest, "sendmsg4", most + 1).unwrap();
        assert!(words.contains(&most.to_string()) && words.contains("verifier.txt"), "{words}");
        let later = over_bound(Release(newest.0 + 1, 0), "sendmsg4", LIMIT).unwrap();
        assert!(later.contains("is not recorded"), "{later}");
    }
}
