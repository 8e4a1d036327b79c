//! What a transaction costs, and amounts as people write them. The endpoint names the price and the amount of gas; how much of it is
//! paid, the caller decides.

use alloy_primitives::{U256, utils::format_units};

/// What is paid for one unit of gas, wei.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GasPrice {
    /// At most, the tip included.
    pub max: u128,
    /// For the block's producer; `None` on a chain without a base fee (EIP-1559).
    pub tip: Option<u128>,
}

impl GasPrice {
    /// By the newest block's base fee and what the endpoint calls the usual price. Twice the base fee fits six full blocks in a row.
    /// Whether that is too much, the caller's limits say.
    #[must_use]
    pub fn named(base_fee: Option<U256>, gas_price: U256) -> Self {
        let wanted = match base_fee {
            Some(base) => base.saturating_add(base).saturating_add(gas_price.saturating_sub(base)),
            None => gas_price,
        };
        let tip = base_fee.map(|base| gas_price.saturating_sub(base).saturating_to());
        Self { max: wanted.saturating_to(), tip }
    }
}

/// Gas that a transaction gets, and its price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fees {
    /// Gas limit.
    pub gas: u64,
    /// For one unit of it.
    pub price: GasPrice,
}

impl Fees {
    /// Wei, at most.
    #[must_use]
    pub fn max_cost(&self) -> U256 {
        U256::from(self.price.max).saturating_mul(U256::from(self.gas))
    }
}

/// An estimate of gas and so many percent more: the state may move between the estimate and the block.
#[must_use]
pub const fn with_margin(estimate: u64, percent: u64) -> u64 {
    estimate.saturating_add(estimate.saturating_mul(percent) / 100)
}

/// Wei as ether without trailing zeros: `0.0012`.
#[must_use]
pub fn ether(wei: U256) -> String {
    units(wei, "ether")
}

/// Wei as ether, rounded up to four digits that count: for what something costs at most.
#[must_use]
pub fn ether_at_most(wei: U256) -> String {
    let digits = wei.to_string().len();
    let unit = U256::from(10).pow(U256::from(digits.saturating_sub(4)));
    ether(wei.div_ceil(unit).saturating_mul(unit))
}

/// Wei as gwei without trailing zeros: `1.5`.
#[must_use]
pub fn gwei(wei: U256) -> String {
    units(wei, "gwei")
}

fn units(wei: U256, unit: &str) -> String {
    let text = format_units(wei, unit).unwrap_or_else(|_| format!("{wei} wei, not in"));
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GWEI: u128 = 1_000_000_000;

    #[test]
    fn fees_follow_the_base_fee() {
        let gwei = |number: u64| U256::from(number) * U256::from(GWEI);
        let price = GasPrice::named(Some(gwei(10)), gwei(12));
        assert_eq!(price, GasPrice { max: 22 * GWEI, tip: Some(2 * GWEI) });
        assert_eq!(GasPrice::named(None, gwei(12)), GasPrice { max: 12 * GWEI, tip: None });
        // A price below the base fee leaves no tip, and is no reason to underflow.
        assert_eq!(GasPrice::named(Some(gwei(10)), U256::ONE), GasPrice { max: 20 * GWEI, tip: Some(0) });
        assert_eq!(GasPrice::named(Some(U256::MAX), U256::MAX).max, u128::MAX);
    }

    #[test]
    fn neither_margin_nor_cost_overflows() {
        assert_eq!((with_margin(100, 20), with_margin(u64::MAX, 25)), (120, u64::MAX));
        let most = Fees { gas: u64::MAX, price: GasPrice { max: u128::MAX, tip: None } };
        assert!(most.max_cost() > U256::from(u128::MAX));
    }

    #[test]
    fn amounts_as_people_write_them() {
        let wei = |amount: u128| U256::from(amount);
        assert_eq!(ether(wei(1_200_000_000_000_000)), "0.0012");
        assert_eq!((ether(wei(0)), ether(wei(1))), ("0".to_owned(), "0.000000000000000001".to_owned()));
        assert_eq!(ether(wei(10 * GWEI * GWEI)), "10");
        assert_eq!(gwei(wei(1_500_000_000)), "1.5");
        assert_eq!(ether_at_most(wei(361_700_021_400_885)), "0.0003618");
        assert_eq!((ether_at_most(wei(0)), ether_at_most(wei(10 * GWEI * GWEI))), ("0".to_owned(), "10".to_owned()));
        assert!(ether_at_most(U256::MAX).starts_with("1157920892"));
    }
}
