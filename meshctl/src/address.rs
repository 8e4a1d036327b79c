//! Addresses as people type them. A mixed case is a checksum (EIP-55), and a digit that is wrong is found by it.

use alloy_primitives::Address;
use mesh_core::id::AppId;

const DIGITS: usize = 40;

/// An account or contract: 40 hex digits, with or without `0x`. Says what else it may be.
pub(crate) fn parse_address(text: &str) -> Result<Address, String> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    if text.contains('.') && !text.contains(['/', ':']) {
        return Err("names are not looked up: give the address behind it, 0x and 40 hex digits".to_owned());
    }
    if let Some(wrong) = digits.chars().find(|c| !c.is_ascii_hexdigit()) {
        return Err(format!("`{}` is no hex digit: an address is 0x and 40 of them", wrong.escape_debug()));
    }
    if digits.len() == 64 {
        return Err("64 hex digits are a hash or a key: an address has 40".to_owned());
    }
    if digits.len() != DIGITS {
        return Err(format!("it has {} hex digits, an address has 40", digits.len()));
    }
    let address: Address = digits.parse().map_err(|_| "not an address".to_owned())?;
    if is_of_one_case(digits) || checksummed(address) == digits {
        return Ok(address);
    }
    let meant = meant(digits).map_or_else(String::new, |meant| format!("; did you mean {meant}?"));
    Err(format!("its checksum (EIP-55) does not hold: a digit is wrong, or a letter's case{meant}"))
}

/// The same for dstack's name of an app, which is its contract's address.
pub(crate) fn parse_app_id(text: &str) -> Result<AppId, String> {
    parse_address(text).map(Into::into)
}

fn is_of_one_case(digits: &str) -> bool {
    let has = |is: fn(&u8) -> bool| digits.bytes().any(|byte| is(&byte));
    !(has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase))
}

/// Without `0x`.
fn checksummed(address: Address) -> String {
    address.to_checksum(None).split_off(2)
}

/// The only address whose checksum holds, and which has one other digit or two neighbours the other way round. The case of what was
/// typed is evidence for all digits but those.
fn meant(digits: &str) -> Option<Address> {
    let lower = digits.to_ascii_lowercase();
    let holds = |candidate: String, typed: &str, changed: [usize; 2]| {
        let address: Address = candidate.parse().ok()?;
        let right = checksummed(address);
        let pairs = right.bytes().zip(typed.bytes()).enumerate();
        pairs.filter(|(at, _)| !changed.contains(at)).all(|(_, (right, typed))| right == typed).then_some(address)
    };
    let put = |text: &str, at: usize, digit: &str| format!("{}{digit}{}", &text[..at], &text[at + 1..]);
    let others = (0..DIGITS).flat_map(|at| (0..16_u8).map(move |digit| (at, format!("{digit:x}"))));
    let replaced = others.filter(|(at, digit)| lower[*at..=*at] != **digit);
    let replaced = replaced.filter_map(|(at, digit)| holds(put(&lower, at, &digit), digits, [at, at]));
    let swapped = (1..DIGITS).filter(|at| lower[at - 1..*at] != lower[*at..=*at]).filter_map(|at| {
        let swap = |text: &str| put(&put(text, at - 1, &text[at..=at]), at, &text[at - 1..at]);
        holds(swap(&lower), &swap(digits), [DIGITS, DIGITS])
    });
    let mut candidates = replaced.chain(swapped);
    let first = candidates.next()?;
    candidates.all(|other| other == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: &str = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";

    #[test]
    fn a_checksum_that_is_there_must_hold() {
        let address: Address = RIGHT.parse().unwrap();
        for text in [RIGHT, &RIGHT[2..], &RIGHT.to_lowercase(), &RIGHT[2..].to_uppercase()] {
            assert_eq!(parse_address(text), Ok(address), "{text}");
        }
        // A digit, a letter, a case, two neighbours.
        for (wrong, hint) in [
            (RIGHT.replace("6053", "6054"), true),
            (RIGHT.replace("aAe", "aAf"), true),
            (RIGHT.replace("6053", "0653"), true),
            (RIGHT.replace("F3E94C", "f3e94c"), false),
            (RIGHT.replace("6053", "7164"), false),
        ] {
            let error = parse_address(&wrong).unwrap_err();
            assert!(error.contains("EIP-55"), "{wrong}: {error}");
            assert_eq!(error.contains(&format!("did you mean {RIGHT}?")), hint, "{wrong}: {error}");
        }
    }

    #[test]
    fn what_is_no_address_is_named() {
        for (text, said) in [
            ("vitalik.eth", "names are not looked up"),
            ("0x12", "it has 2 hex digits, an address has 40"),
            ("", "it has 0 hex digits"),
            ("0xO000000000000000000000000000000000000001", "`O` is no hex digit"),
            ("\u{1b}[2J", "`\\u{1b}` is no hex digit"),
            (&"11".repeat(32), "64 hex digits are a hash or a key"),
        ] {
            let error = parse_address(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        assert_eq!(parse_app_id(&"11".repeat(20)), Ok(AppId([0x11; 20])));
    }
}
