//! The status's times: RFC 3339 in UTC, as the agent writes them.

/// Seconds since 1970 of `YYYY-MM-DDThh:mm:ss[.fff]Z`; `None` for anything else.
pub(crate) fn unix_seconds(text: &str) -> Option<f64> {
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

/// The time of day to the second, `14:27:52Z`; the whole text where it is not a time.
pub(crate) fn time_of_day(text: &str) -> String {
    match (unix_seconds(text), text.get(11..19)) {
        (Some(_), Some(clock)) => format!("{clock}Z"),
        _ => text.to_owned(),
    }
}

fn fields(text: &str, separator: char) -> Option<[u64; 3]> {
    let digits = |part: &str| (!part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse().ok());
    let parsed: Vec<u64> = text.split(separator).map(|part| digits(part).flatten()).collect::<Option<_>>()?;
    parsed.try_into().ok()
}

/// Days since 1970-01-01 in the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> u64 {
    // Years that begin in March put the leap day last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let until_march = 719_468; // days from 0000-03-01 to 1970-01-01
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - until_march
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0.0),
            ("2000-02-29T12:00:00Z", 951_825_600.0),
            ("2026-09-14T14:32:07.412Z", 1_789_396_327.412),
            ("2100-03-01T00:00:00.000Z", 4_107_542_400.0),
        ] {
            assert_eq!(unix_seconds(text), Some(seconds), "{text}");
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
    fn time_of_day_leaves_odd_text_alone() {
        assert_eq!(time_of_day("2026-09-14T14:27:52.001Z"), "14:27:52Z");
        assert_eq!(time_of_day("yesterday, I think, or so"), "yesterday, I think, or so");
    }
}
