//! Numbers as people read them.

use std::time::Duration;

/// `950B`, `1.2KiB`, `3.4GiB`: three or four significant characters, powers of 1024.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1023.5 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if value < 9.95 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}

/// A length of time by its two largest units: `12s`, `3m20s`, `5h`, `2d4h`; below 10 s with a decimal.
pub fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    if length < Duration::from_secs(1) {
        return format!("{}ms", length.as_millis());
    }
    if seconds < 10 {
        return format!("{:.1}s", length.as_secs_f64());
    }
    let (large, unit, small, subunit) = match seconds {
        ..60 => return format!("{seconds}s"),
        60..3600 => (seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => (seconds / 3600, "h", seconds / 60 % 60, "m"),
        _ => (seconds / 86_400, "d", seconds / 3600 % 24, "h"),
    };
    if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{subunit}") }
}

/// A number of nanoseconds to three figures: `33us`, `1.05ms`, `4.29s`.
pub fn nanoseconds(ns: u64) -> String {
    let (value, unit) = match ns {
        ..1_000 => return format!("{ns}ns"),
        1_000..1_000_000 => (ns as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    match value {
        ..9.995 => format!("{value:.2}{unit}"),
        9.995..99.95 => format!("{value:.1}{unit}"),
        _ => format!("{value:.0}{unit}"),
    }
}

/// `no backends`, `1 backend`, `5 backends`.
pub fn count(number: u64, singular: &str, plural: &str) -> String {
    match number {
        0 => format!("no {plural}"),
        1 => format!("1 {singular}"),
        _ => format!("{number} {plural}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_few_figures() {
        let texts = [0, 1023, 1024, 10_189, 1_048_064, 1 << 20, u64::MAX].map(bytes);
        assert_eq!(texts, ["0B", "1023B", "1.0KiB", "10KiB", "1.0MiB", "1.0MiB", "16EiB"]);
    }

    #[test]
    fn durations_keep_two_units() {
        let texts = [0, 999, 1_500, 12_000, 60_000, 200_000, 3_600_000, 187_200_000]
            .map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(texts, ["0ms", "999ms", "1.5s", "12s", "1m", "3m20s", "1h", "2d4h"]);
    }

    #[test]
    fn nanoseconds_keep_three_figures() {
        let texts = [999, 16_384, 131_072, 1_048_576, 16_777_216, 4_294_967_296].map(nanoseconds);
        assert_eq!(texts, ["999ns", "16.4us", "131us", "1.05ms", "16.8ms", "4.29s"]);
    }
}
