//! Times for people: RFC 3339 in UTC.

use std::time::Duration;

/// A time since the Unix epoch as `2026-09-14T14:32:07.412Z`. Years above 9999 (no clock of ours) still print in full.
#[must_use]
pub fn rfc3339(unix: Duration) -> String {
    let seconds = unix.as_secs();
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", unix.subsec_millis())
}

/// The time of day of it: `14:32:07Z`.
pub(crate) fn time_of_day(unix: Duration) -> String {
    rfc3339(Duration::from_secs(unix.as_secs() % 86_400))[11..19].to_owned() + "Z"
}

/// How long something takes, in its two largest units: `18s`, `4m12s`, `2h3m`, `6d4h`.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let first = units.iter().position(|(count, _)| *count > 0).unwrap_or(units.len() - 1);
    units[first..].iter().take(2).map(|(count, unit)| format!("{count}{unit}")).collect()
}

/// Proleptic Gregorian date of a day counted from 1970-01-01. Years are taken to begin in March, so that the leap day ends them.
const fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097; // 400 years
    let shifted = days + 719_468; // days from 0000-03-01
    let era = shifted / DAYS_PER_ERA;
    let day_of_era = shifted % DAYS_PER_ERA;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_known_times() {
        let cases = [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, 5, "2000-02-29T00:00:00.005Z"),
            (1_709_251_199, 999, "2024-02-29T23:59:59.999Z"),
            (1_735_689_599, 0, "2024-12-31T23:59:59.000Z"),
            (1_789_396_327, 412, "2026-09-14T14:32:07.412Z"),
            (4_102_444_800, 0, "2100-01-01T00:00:00.000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000Z"),
        ];
        for (seconds, milliseconds, text) in cases {
            assert_eq!(rfc3339(Duration::from_secs(seconds) + Duration::from_millis(milliseconds)), text);
        }
        assert_eq!(time_of_day(Duration::from_millis(1_789_396_327_412)), "14:32:07Z");
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (seconds, text) in
            [(0, "0s"), (18, "18s"), (60, "1m0s"), (252, "4m12s"), (7_380, "2h3m"), (3_600, "1h0m"), (533_000, "6d4h")]
        {
            assert_eq!(span(Duration::from_millis(seconds * 1000 + 999)), text);
        }
    }
}
