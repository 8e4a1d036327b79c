//! What a transaction may cost. The endpoint names the price and the amount of gas: one that lies must not burn the operator's
//! funds.

use alloy::primitives::{U256, utils::format_units};

use crate::failure::Failure;

/// The most gas one transaction may use on Ethereum (EIP-7825).
const MAX_GAS: u64 = 1 << 24;
/// The state may move before the block: that much more than the estimate, in percent.
const GAS_MARGIN: u64 = 20;

/// Gas that a transaction gets, and its price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fees {
    /// Gas limit.
    pub(crate) gas: u64,
    /// Wei for one unit of gas, at most.
    pub(crate) max_fee_per_gas: u128,
    /// Wei of it for the block's producer; `None` on a chain without a base fee (EIP-1559).
    pub(crate) tip: Option<u128>,
}

impl Fees {
    /// Twice the base fee fits six full blocks in a row.
    ///
    /// # Errors
    /// More than the operator's limit, or more gas than any transaction may use.
    pub(crate) fn new(
        estimate: u64,
        least_gas: u64,
        base_fee: Option<u64>,
        gas_price: u128,
        limit: u128,
    ) -> Result<Self, Failure> {
        let gas = estimate.saturating_add(estimate.saturating_mul(GAS_MARGIN) / 100).max(least_gas);
        if estimate > MAX_GAS {
            let what =
                format!("the endpoint estimates {estimate} gas, more than the {MAX_GAS} that a transaction may use");
            return Err(Failure::new(what).hint("use an endpoint that you trust"));
        }
        let base_fee = base_fee.map(u128::from);
        let tip = base_fee.map(|base| gas_price.saturating_sub(base));
        let max_fee_per_gas = match base_fee {
            Some(base) => base.saturating_add(base).saturating_add(tip.unwrap_or_default()),
            None => gas_price,
        };
        if max_fee_per_gas > limit {
            let what = format!(
                "the endpoint asks for {} gwei per gas, more than the limit of {}",
                gwei(U256::from(max_fee_per_gas)),
                gwei(U256::from(limit))
            );
            return Err(Failure::new(what).hint("wait, compare with another endpoint, or raise `--max-gas-price`"));
        }
        Ok(Self { gas: gas.min(MAX_GAS), max_fee_per_gas, tip })
    }

    /// Wei, at most.
    pub(crate) fn max_cost(&self) -> U256 {
        U256::from(self.max_fee_per_gas) * U256::from(self.gas)
    }
}

/// Wei as ether without trailing zeros: `0.0012`.
pub(crate) fn ether(wei: U256) -> String {
    units(wei, "ether")
}

/// Wei as ether, rounded up to four digits that count: for what something costs at most.
pub(crate) fn about(wei: U256) -> String {
    let digits = wei.to_string().len();
    let unit = U256::from(10).pow(U256::from(digits.saturating_sub(4)));
    ether(wei.div_ceil(unit).saturating_mul(unit))
}

/// Wei as gwei without trailing zeros: `1.5`.
pub(crate) fn gwei(wei: U256) -> String {
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

    fn fees(estimate: u64, base: Option<u64>, price: u128) -> Result<Fees, String> {
        Fees::new(estimate, 110, base, price, 300 * GWEI).map_err(|failure| failure.to_string())
    }

    #[test]
    fn fees_follow_the_base_fee() {
        let base = 10 * GWEI as u64;
        let with_base = Fees { gas: 120, max_fee_per_gas: 22 * GWEI, tip: Some(2 * GWEI) };
        assert_eq!(fees(100, Some(base), 12 * GWEI), Ok(with_base));
        assert_eq!(fees(100, None, 12 * GWEI), Ok(Fees { gas: 120, max_fee_per_gas: 12 * GWEI, tip: None }));
        assert_eq!(fees(90, None, GWEI).unwrap().gas, 110, "what it gets at least");
        // A price below the base fee leaves no tip, and is no reason to underflow.
        assert_eq!(fees(100, Some(base), 1).unwrap().tip, Some(0));
    }

    #[test]
    fn an_endpoint_cannot_burn_the_operators_funds() {
        for (base, price) in [(Some(200 * GWEI as u64), 200 * GWEI), (Some(u64::MAX), u128::MAX), (None, 301 * GWEI)] {
            let refusal = fees(100, base, price).unwrap_err();
            assert!(refusal.contains("more than the limit of 300"), "{refusal}");
        }
        for estimate in [MAX_GAS + 1, u64::MAX] {
            assert!(fees(estimate, None, 1).unwrap_err().contains("may use"));
        }
        assert_eq!(fees(MAX_GAS, None, 1).unwrap().gas, MAX_GAS);
    }

    #[test]
    fn amounts_as_people_write_them() {
        let wei = |amount: u128| U256::from(amount);
        assert_eq!(ether(wei(1_200_000_000_000_000)), "0.0012");
        assert_eq!((ether(wei(0)), ether(wei(1))), ("0".to_owned(), "0.000000000000000001".to_owned()));
        assert_eq!(ether(wei(10 * GWEI * GWEI)), "10");
        assert_eq!(gwei(wei(1_500_000_000)), "1.5");
        assert_eq!(about(wei(361_700_021_400_885)), "0.0003618");
        assert_eq!((about(wei(0)), about(wei(10 * GWEI * GWEI))), ("0".to_owned(), "10".to_owned()));
        assert!(about(U256::MAX).starts_with("1157920892"));
    }
}
