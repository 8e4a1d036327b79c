//! Amounts of the chain's coin.

use std::fmt;

use alloy_primitives::U256;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An amount in wei. In JSON it is text in decimal, because many readers take numbers for floating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wei(pub U256);

impl fmt::Display for Wei {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Wei {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Wei {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let amount = U256::from_str_radix(&text, 10).ok().filter(|amount| amount.to_string() == text);
        amount.map(Self).ok_or_else(|| de::Error::custom("not an amount of wei in decimal"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_decimal_text() {
        let wei = Wei(U256::from(10).pow(U256::from(18)));
        let json = serde_json::to_string(&wei).unwrap();
        assert_eq!(json, "\"1000000000000000000\"");
        assert_eq!(serde_json::from_str::<Wei>(&json).unwrap(), wei);
        for wrong in ["\"\"", "\"0x10\"", "\"-1\"", "\"01\"", "\"1.5\"", "7"] {
            assert!(serde_json::from_str::<Wei>(wrong).is_err(), "{wrong}");
        }
    }
}
