//! Units as people read them, and `-` for what is unknown.

use mesh_core::unix_seconds;

/// What stands for an unknown value in text.
pub(crate) const UNKNOWN: &str = "-";

/// A value by its formatter, or [`UNKNOWN`].
pub(crate) fn or_unknown<T>(value: Option<T>, format: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), format)
}

/// The time of day to the second, `14:27:52Z`; the whole text where it is not a time.
pub(crate) fn time_of_day(text: &str) -> String {
    match (unix_seconds(text), text.get(11..19)) {
        (Some(_), Some(clock)) => format!("{clock}Z"),
        _ => text.to_owned(),
    }
}

/// Bytes in binary units: `812 B`, `39.3 MiB`, `211 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // 1023.5 of one unit would print as 1024.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let unit = UNITS[unit];
    if value < 99.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// How long ago, exact below ten seconds: `0.4s`, `41s`, `1m4s`, `2h3m`, `6d4h`. Seconds; negative counts as zero.
pub(crate) fn seen(seconds: f64) -> String {
    if seconds < 9.95 { format!("{:.1}s", seconds.max(0.0)) } else { age(seconds) }
}

/// A duration in its two largest units: `41s`, `1m4s`, `2h3m`, `6d4h`. Seconds; negative counts as zero.
pub(crate) fn age(seconds: f64) -> String {
    parts(seconds).into_iter().take(2).collect()
}

/// A duration in its three largest units, spaced: `59m 57s`, `6d 4h 21m`.
pub(crate) fn long(seconds: f64) -> String {
    parts(seconds).into_iter().take(3).collect::<Vec<_>>().join(" ")
}

/// From the largest nonzero unit down; units after it may be zero.
fn parts(seconds: f64) -> Vec<String> {
    let total = seconds.max(0.0) as u64;
    let all = [(total / 86_400, "d"), (total / 3_600 % 24, "h"), (total / 60 % 60, "m"), (total % 60, "s")];
    let first = all.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    all[first..].iter().map(|(count, unit)| format!("{count}{unit}")).collect()
}

/// A round trip: `0.8ms`, `123ms`, `1.2s`. Milliseconds.
pub(crate) fn round_trip(ms: f64) -> String {
    match ms {
        ms if ms < 99.95 => format!("{ms:.1}ms"),
        ms if ms < 999.5 => format!("{ms:.0}ms"),
        ms => format!("{:.1}s", ms / 1000.0),
    }
}

/// `0%`, `0.1%`, `100%`. Loss that is not zero never prints as zero, and loss that is not total never as total.
pub(crate) fn percent(value: f64) -> String {
    if value <= 0.0 {
        "0%".to_owned()
    } else if value >= 100.0 {
        "100%".to_owned()
    } else if value < 10.0 {
        format!("{:.1}%", value.max(0.1))
    } else {
        format!("{:.0}%", value.min(99.0))
    }
}

/// The first and last four characters: `8Qm1…N3E=`.
pub(crate) fn short(text: &str) -> String {
    shorten(text, 4)
}

/// The first and last four digits of a `0x` number: `0x7Ae1…9C04`.
pub(crate) fn short_hex(text: &str) -> String {
    shorten(text, 6)
}

fn shorten(text: &str, head: usize) -> String {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= head + 5 {
        return text.to_owned();
    }
    chars[..head].iter().chain(&['…']).chain(&chars[chars.len() - 4..]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts() {
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (41_231_220, "39.3 MiB"),
            (211 << 20, "211 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            ((100 << 10) - 1, "100 KiB"),
            (5_905_580_032, "5.5 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn durations() {
        for (seconds, short, exact, spaced) in [
            (-3.0, "0s", "0.0s", "0s"),
            (0.42, "0s", "0.4s", "0s"),
            (9.96, "9s", "9s", "9s"),
            (41.9, "41s", "41s", "41s"),
            (64.0, "1m4s", "1m4s", "1m 4s"),
            (252.0, "4m12s", "4m12s", "4m 12s"),
            (3597.0, "59m57s", "59m57s", "59m 57s"),
            (3600.0, "1h0m", "1h0m", "1h 0m 0s"),
            (534_067.0, "6d4h", "6d4h", "6d 4h 21m"),
        ] {
            assert_eq!((age(seconds), seen(seconds), long(seconds)), (short.into(), exact.into(), spaced.into()));
        }
    }

    #[test]
    fn round_trips_and_losses() {
        for (ms, text) in [(0.04, "0.0ms"), (0.8, "0.8ms"), (99.96, "100ms"), (999.6, "1.0s"), (1234.0, "1.2s")] {
            assert_eq!(round_trip(ms), text);
        }
        for (loss, text) in [(0.0, "0%"), (0.01, "0.1%"), (0.1, "0.1%"), (12.6, "13%"), (99.9, "99%"), (100.0, "100%")]
        {
            assert_eq!(percent(loss), text);
        }
    }

    #[test]
    fn long_names_keep_their_ends() {
        assert_eq!(short_hex("0x7Ae1000000000000000000000000000000009C04"), "0x7Ae1…9C04");
        assert_eq!(short("3f9c0b6a7d1e4c52a8b09d3e6f7122aa55c104ef"), "3f9c…04ef");
        assert_eq!(short("12345678"), "12345678");
    }

    #[test]
    fn unknown_is_a_dash_and_never_zero() {
        assert_eq!(or_unknown(None::<u64>, bytes), "-");
        assert_eq!(or_unknown(Some(0), bytes), "0 B");
    }

    #[test]
    fn time_of_day_leaves_odd_text_alone() {
        assert_eq!(time_of_day("2026-09-14T14:27:52.001Z"), "14:27:52Z");
        assert_eq!(time_of_day("yesterday, I think, or so"), "yesterday, I think, or so");
    }
}
