//! The clock of all times in the maps.
//!
//! The programs read the kernel's own boot time (`bpf_ktime_get_boot_ns`). What `CLOCK_BOOTTIME` says to a
//! process in a time namespace (`CONFIG_TIME_NS`) differs from it by the namespace's offset, by years if
//! its maker likes: an agent in a container that has one would renew a lease that lapsed long ago, or one
//! that never lapses. So the offset is taken off. The wall clock has no say in anything.

use std::{fs, sync::OnceLock, time::Duration};

/// Nanoseconds of the kernel's `CLOCK_BOOTTIME`, whatever time namespace this process is in.
pub fn boot_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let now = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    u64::try_from(now - i128::from(boot_offset_ns())).unwrap_or(0)
}

/// For how long this thread has had a processor: what others do on the machine does not count.
pub fn thread_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
}

/// By how much this process's `CLOCK_BOOTTIME` is ahead of the kernel's. A process is never moved to another
/// time namespace while it runs.
pub fn boot_offset_ns() -> i64 {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    *OFFSET.get_or_init(|| {
        let text = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        parse(&text).unwrap_or(0)
    })
}

/// The offset of boot time in the text of `/proc/PID/timens_offsets`: lines of a clock's name (before
/// Linux 5.7 its number, 7), seconds and nanoseconds.
fn parse(text: &str) -> Option<i64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        if !matches!(words.next()?, "boottime" | "7") {
            return None;
        }
        let (seconds, nanoseconds): (i64, i64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_of_a_time_namespace_are_read() {
        assert_eq!(parse("monotonic           0         0\nboottime            0         0\n"), Some(0));
        assert_eq!(parse("monotonic  -5 0\nboottime   86400 500000000\n"), Some(86_400_500_000_000));
        assert_eq!(parse("monotonic 0 0\nboottime -7 999999999\n"), Some(-6_000_000_001));
        assert_eq!(parse("1 3 4\n7 9 8\n"), Some(9_000_000_008));
        for nonsense in ["", "boottime", "boottime x 0", "boottime 9223372036854775807 0"] {
            assert_eq!(parse(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn time_goes_on() {
        let first = boot_ns();
        assert!(first > 0 && boot_ns() >= first);
    }
}
