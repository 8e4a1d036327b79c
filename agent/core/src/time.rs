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

/// Seconds since 1970 of `YYYY-MM-DDThh:mm:ss[.fff]Z`, as [`rfc3339`] writes it; `None` for anything else.
#[must_use]
pub fn unix_seconds(text: &str) -> Option<f64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = fields(date, '-')?;
    let (clock, fraction) = time.split_once('.').map_or((time, "0"), |(clock, fraction)| (clock, fraction));
    let [hour, minute, second] = fields(clock, ':')?;
    let in_range = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !in_range || hour > 23 || minute > 59 || second > 60 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let fraction: f64 = format!("0.{fraction}").parse().ok()?;
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(seconds as f64 + fraction)
}

fn fields(text: &str, separator: char) -> Option<[u64; 3]> {
    let digits = |part: &str| (!part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse().ok());
    let parsed: Vec<u64> = text.split(separator).map(|part| digits(part).flatten()).collect::<Option<_>>()?;
    parsed.try_into().ok()
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

/// Days from 0000-03-01 to 1970-01-01.
const UNTIL_1970: u64 = 719_468;

/// Days since 1970-01-01 of a proleptic Gregorian date. Years are taken to begin in March, so that the leap day ends them.
const fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - UNTIL_1970
}

/// Proleptic Gregorian date of a day counted from 1970-01-01: what [`days`] undoes.
const fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097; // 400 years
    let shifted = days + UNTIL_1970;
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
    fn times_are_read_as_they_are_written() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0.0),
            ("2000-02-29T12:00:00Z", 951_825_600.0),
            ("2026-09-14T14:32:07.412Z", 1_789_396_327.412),
            ("2100-03-01T00:00:00.000Z", 4_107_542_400.0),
        ] {
            assert_eq!(unix_seconds(text), Some(seconds), "{text}");
        }
        for day in (0..60_000).step_by(17) {
            assert_eq!(unix_seconds(&rfc3339(Duration::from_secs(day * 86_400))), Some((day * 86_400) as f64));
        }
    }

    #[test]
    fn other_text_is_not_a_time() {
        for text in ["", "now", "2026-09-14", "2026-09-14T14:32:07", "2026-13-14T14:32:07Z", "2026-09-14T24:00:00Z"] {
            assert_eq!(unix_seconds(text), None, "{text}");
        }
        for text in ["2026-09-14T14:32:07+02:00", "2026-09-14T14:32:07.Z1Z", "-026-09-14T14:32:07Z"] {
            assert_eq!(unix_seconds(text), None, "{text}");
        }
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
