//! Failure switches: faults that a real guest agent may have, on demand.

use std::str::FromStr;
use std::time::Duration;

/// How one instance misbehaves; the default is not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Every answer waits this long.
    pub slow: Option<Duration>,
    /// Every call is answered with status 400 and an error.
    pub error400: bool,
    /// `signature_chain[1]` is a valid signature, by a root that is not the announced one.
    pub wrong_root: bool,
    /// `signature_chain[1]` is empty, as on an agent whose key provider is no KMS.
    pub no_kms: bool,
}

impl Faults {
    /// Adds the switches of `other` to these.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            slow: other.slow.or(self.slow),
            error400: self.error400 || other.error400,
            wrong_root: self.wrong_root || other.wrong_root,
            no_kms: self.no_kms || other.no_kms,
        }
    }
}

/// One `--fail` argument: `[INDEX:]KIND`, for the instance of that index or for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultSwitch {
    /// 1-based index of the instance, `None` for every instance.
    pub index: Option<u32>,
    /// What it switches on.
    pub faults: Faults,
}

/// A `--fail` argument that names no failure.
#[derive(Clone, Debug, thiserror::Error)]
#[error("`{0}` is no failure; use `[INDEX:]KIND` with KIND one of slow=MILLISECONDS, error400, wrong-root, no-kms")]
pub struct UnknownFault(String);

impl FromStr for FaultSwitch {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownFault(text.to_owned());
        let (index, kind) = match text.split_once(':') {
            None => (None, text),
            Some((index, kind)) => {
                let index = index.parse().ok().filter(|index| *index > 0).ok_or_else(unknown)?;
                (Some(index), kind)
            }
        };
        let none = Faults::default();
        let faults = match kind {
            "error400" => Faults { error400: true, ..none },
            "wrong-root" => Faults { wrong_root: true, ..none },
            "no-kms" => Faults { no_kms: true, ..none },
            slow => {
                let millis = slow.strip_prefix("slow=").and_then(|millis| millis.parse().ok());
                Faults { slow: Some(Duration::from_millis(millis.ok_or_else(unknown)?)), ..none }
            }
        };
        Ok(Self { index, faults })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_parse() {
        let parse = |text: &str| text.parse::<FaultSwitch>().unwrap();
        let slow = Faults { slow: Some(Duration::from_secs(5)), ..Faults::default() };
        assert_eq!(parse("2:slow=5000"), FaultSwitch { index: Some(2), faults: slow });
        let refuse = Faults { error400: true, ..Faults::default() };
        assert_eq!(parse("error400"), FaultSwitch { index: None, faults: refuse });
        assert!(parse("1:wrong-root").faults.wrong_root);
        assert!(parse("no-kms").faults.no_kms);
        assert_eq!(slow.and(refuse), Faults { error400: true, ..slow });
        for bad in ["", "slow", "slow=", "slow=-1", "0:no-kms", "x:no-kms", "1:", "1:2:no-kms", "wrong_root"] {
            assert!(bad.parse::<FaultSwitch>().is_err(), "{bad}");
        }
    }
}
