//! Names that Phala Cloud takes.

/// Phala Cloud's rule for names, with room for a number.
pub(super) fn parse_name(text: &str) -> Result<String, String> {
    let is_good = (3..=56).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !text.contains("--")
        && !text.ends_with('-');
    if is_good {
        Ok(text.to_owned())
    } else {
        Err("3 to 56 letters, digits and single hyphens, a letter first".to_owned())
    }
}

/// Names that Phala Cloud gives to sizes and images.
pub(super) fn parse_word(text: &str) -> Result<String, String> {
    let is_good = !text.is_empty()
        && text.len() <= 100
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if is_good { Ok(text.to_owned()) } else { Err("a name of letters, digits, `-`, `.` and `_`".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_phala_cloud_takes() {
        for good in ["abc", "prod-db", "A1-b2", &"a".repeat(56)] {
            assert!(parse_name(good).is_ok(), "{good}");
        }
        for wrong in ["", "ab", "1abc", "a--b", "abc-", "a_b", "a b", "é-db", &"a".repeat(57)] {
            assert!(parse_name(wrong).is_err(), "{wrong}");
        }
        assert!(parse_word("tdx.small").is_ok() && parse_word("a b").is_err() && parse_word("").is_err());
    }
}
