//! How long and how much: every limit of the gateway, with the values that dstack's `gateway.toml` has.

use std::num::NonZeroUsize;
use std::time::Duration;

/// Longer limits are refused: a year is as good as none.
pub const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// What a connection may cost; the default is dstack's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Until the server name is known (`handshake`, 5 s).
    pub hello: Duration,
    /// Until one instance has accepted the connection (`connect`, 5 s).
    pub connect: Duration,
    /// Without a byte in either direction (`idle`, 10 min).
    pub idle: Duration,
    /// Until a receiver that takes nothing takes something (`write`, 5 s).
    pub write_stall: Duration,
    /// From accepting to a forced end, whatever moves (`total`, 5 h).
    pub lifetime: Duration,
    /// Open at once to the instances that a name leads to; 0 for any number (`max_connections_per_app`, 2000).
    pub connections_per_app: u64,
    /// Instances of an app that are tried at once (`connect_top_n`, 3).
    pub race: NonZeroUsize,
    /// Bytes held for each direction (`buffer_size`, 65,536; 8,192 in dstack 0.5).
    pub buffer: NonZeroUsize,
}

impl Default for Limits {
    fn default() -> Self {
        const RACE: NonZeroUsize = NonZeroUsize::new(3).unwrap();
        const BUFFER: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
        Self {
            hello: Duration::from_secs(5),
            connect: Duration::from_secs(5),
            idle: Duration::from_secs(10 * 60),
            write_stall: Duration::from_secs(5),
            lifetime: Duration::from_secs(5 * 3600),
            connections_per_app: 2000,
            race: RACE,
            buffer: BUFFER,
        }
    }
}

/// Reads `500ms`, `20s`, `10m` or `5h`: whole numbers, above zero, up to [`MAX_DURATION`].
///
/// # Errors
/// With what was expected, for an argument's error message.
pub fn duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("`{text}` is no duration; use a whole number with ms, s, m or h, up to 8784h");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let unit: u64 = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(expected());
    }
    let millis = digits.parse().ok().and_then(|number: u64| number.checked_mul(unit)).ok_or_else(expected)?;
    let duration = Duration::from_millis(millis);
    if duration.is_zero() || duration > MAX_DURATION { Err(expected()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_a_unit() {
        for (text, millis) in
            [("1ms", 1), ("500ms", 500), ("20s", 20_000), ("10m", 600_000), ("5h", 18_000_000), ("007s", 7000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("8784h"), Ok(MAX_DURATION));
        for bad in ["", "s", "5", "0s", "-1s", "+1s", "1.5s", "1 s", "1d", "1S", "s1", "1m30s", "8785h", "9e9h", "１s"]
        {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(duration("18446744073709551615h").is_err());
        assert!(duration("18446744073709551616ms").is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_lies_within_the_limits(text in "\\PC{0,24}|[0-9]{1,20}(ms|s|m|h)") {
            if let Ok(duration) = duration(&text) {
                prop_assert!(!duration.is_zero() && duration <= MAX_DURATION);
            }
        }
    }
}
