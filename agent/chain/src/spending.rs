//! What an account's transactions may cost: how many a day, how much a day, and how much for one unit of gas.
//!
//! Prices come from RPC endpoints. What they said over the last days is the measure for what they say now, in the chain's own terms.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt, io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy_primitives::U256;
use serde::{Deserialize, Serialize};

use crate::fees::{ether, gwei};

const DAY: Duration = Duration::from_secs(86_400);
/// A price above so many times the median of those of the last days is not paid.
const PRICE_FACTOR: u128 = 5;
/// A price is noted this often, at most.
const NOTE_EVERY: Duration = Duration::from_secs(3600);
/// And kept so long.
const PRICES_FOR: Duration = Duration::from_secs(7 * 86_400);
/// Prices that are kept, at most: of two days in which one is named every hour.
const MAX_PRICES: usize = 48;
const WEI_PER_GWEI: u128 = 1_000_000_000;

/// What an operator allows for one day, that is the last 24 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DailyLimit {
    /// So many transactions. One that replaces another is the same one.
    pub transactions: u32,
    /// Together they may cost so much, gwei of the chain's coin.
    pub gwei: u64,
}

impl Default for DailyLimit {
    /// Two an hour; 0.05 of the coin, which is the price of a few registrations on expensive chains and of hundreds on others.
    fn default() -> Self {
        Self { transactions: 48, gwei: 50_000_000 }
    }
}

/// Why a transaction is not paid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverLimit {
    /// Far above the usual price.
    #[error(
        "the RPC endpoints name a gas price of {} gwei, more than {PRICE_FACTOR} times the usual {}: not paid; wait, or have it relayed, by `meshctl register` or `meshctl leader relay`",
        gwei(U256::from(*named)),
        gwei(U256::from(*usual))
    )]
    Price {
        /// For one unit of gas, wei.
        named: u128,
        /// Median of the last days, wei.
        usual: u128,
    },
    /// Too many.
    #[error(
        "{limit} transactions were sent within 24 h, and that is the limit: not sent; see why so many are needed, raise `--max-transactions-per-day`, or have it relayed, by `meshctl register` or `meshctl leader relay`"
    )]
    Count {
        /// A day.
        limit: u32,
    },
    /// Too expensive together.
    #[error(
        "with this transaction those of 24 h may cost {} ether, more than the limit of {}: not paid; raise `--max-spending-per-day`, or have it relayed, by `meshctl register` or `meshctl leader relay`",
        of_gwei(*total),
        of_gwei(*limit)
    )]
    Budget {
        /// With this one, gwei.
        total: u64,
        /// A day, gwei.
        limit: u64,
    },
    /// What is not on disk is forgotten by a restart.
    #[error(
        "the account of what was spent cannot be kept: {reason}: not paid; the state directory must be writable and its disk not full"
    )]
    Unkept {
        /// The system's words.
        reason: String,
    },
}

/// Gwei as ether, as the limit is given.
fn of_gwei(amount: u64) -> String {
    ether(U256::from(amount) * U256::from(WEI_PER_GWEI))
}

/// One transaction before it is sent.
#[derive(Debug, Clone, Copy)]
pub struct Expense {
    /// One that takes the place of another has the same.
    pub nonce: u64,
    /// Gas limit.
    pub gas: u64,
    /// The most that is paid for one unit of gas, wei.
    pub price: u128,
}

/// Where the account is kept, so that a restart brings no new budget.
pub trait Store: Send {
    /// Replaces what was kept.
    ///
    /// # Errors
    /// The system's.
    fn keep(&mut self, account: &Account) -> io::Result<()>;
}

/// The account, its limit, and where it is kept.
#[derive(Default)]
pub struct Spending {
    limit: DailyLimit,
    account: Account,
    store: Option<Box<dyn Store>>,
}

/// What was spent, and at which prices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// By nonce: one that takes the place of another is not paid besides it.
    sent: BTreeMap<u64, Sent>,
    /// What endpoints agreed on, oldest first: Unix time and wei.
    prices: VecDeque<(u64, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Sent {
    /// Unix time.
    at: u64,
    gwei: u64,
}

impl Spending {
    /// Goes on with an account that was kept.
    #[must_use]
    pub fn new(limit: DailyLimit, account: Account, store: Box<dyn Store>) -> Self {
        Self { limit, account, store: Some(store) }
    }

    /// Books a transaction, before it is sent.
    ///
    /// # Errors
    /// Why it must not be sent.
    pub fn book(&mut self, expense: Expense) -> Result<(), OverLimit> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut account = self.account.clone();
        let booked = account.book(expense, self.limit, now);
        // Refused prices are prices, too: what lasts becomes the usual.
        let changed = account != self.account;
        if let Some(store) = self.store.as_mut().filter(|_| changed) {
            store.keep(&account).map_err(|error| OverLimit::Unkept { reason: error.to_string() })?;
        }
        self.account = account;
        booked
    }
}

impl fmt::Debug for Spending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spending").field("limit", &self.limit).field("account", &self.account).finish_non_exhaustive()
    }
}

impl Account {
    fn book(&mut self, expense: Expense, limit: DailyLimit, now: u64) -> Result<(), OverLimit> {
        // With a clock that was set back, what is in its future was spent all the same.
        self.sent.retain(|_, sent| sent.at.saturating_add(DAY.as_secs()) > now);
        let usual = self.usual_price(expense.price, now);
        if expense.price > usual.saturating_mul(PRICE_FACTOR) {
            return Err(OverLimit::Price { named: expense.price, usual });
        }
        let gwei =
            u64::try_from(expense.price.saturating_mul(expense.gas.into()).div_ceil(WEI_PER_GWEI)).unwrap_or(u64::MAX);
        let gwei = self.sent.get(&expense.nonce).map_or(gwei, |before| gwei.max(before.gwei));
        let others = || self.sent.iter().filter(|(nonce, _)| **nonce != expense.nonce).map(|(_, sent)| sent.gwei);
        if others().count() >= usize::try_from(limit.transactions).unwrap_or(usize::MAX) {
            return Err(OverLimit::Count { limit: limit.transactions });
        }
        let total = others().fold(gwei, u64::saturating_add);
        if total > limit.gwei {
            return Err(OverLimit::Budget { total, limit: limit.gwei });
        }
        self.sent.insert(expense.nonce, Sent { at: now, gwei });
        Ok(())
    }

    /// The median of what was noted, this price included: of an even number the lower one.
    fn usual_price(&mut self, price: u128, now: u64) -> u128 {
        self.prices.retain(|(at, _)| at.saturating_add(PRICES_FOR.as_secs()) > now);
        let is_due = self.prices.back().is_none_or(|(at, _)| now.abs_diff(*at) >= NOTE_EVERY.as_secs());
        let price = u64::try_from(price).unwrap_or(u64::MAX);
        if is_due {
            self.prices.push_back((now, price));
        }
        while self.prices.len() > MAX_PRICES {
            self.prices.pop_front();
        }
        let mut known: Vec<u64> = self.prices.iter().map(|(_, price)| *price).collect();
        known.sort_unstable();
        known.get(known.len().saturating_sub(1) / 2).copied().unwrap_or(price).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GWEI: u128 = WEI_PER_GWEI;
    const LIMIT: DailyLimit = DailyLimit { transactions: 3, gwei: 10_000_000 };

    fn expense(nonce: u64, price: u128) -> Expense {
        Expense { nonce, gas: 250_000, price }
    }

    #[test]
    fn a_day_has_a_number_and_a_replacement_counts_once() {
        let mut account = Account::default();
        for nonce in [1, 1, 2, 2, 3, 3] {
            account.book(expense(nonce, GWEI), LIMIT, 1000).unwrap();
        }
        assert_eq!(account.book(expense(4, GWEI), LIMIT, 1000), Err(OverLimit::Count { limit: 3 }));
        account.book(expense(3, GWEI), LIMIT, 1000).unwrap();
        assert!(account.book(expense(4, GWEI), LIMIT, 10).is_err(), "nor with a clock that is set back");
        account.book(expense(4, GWEI), LIMIT, 1000 + DAY.as_secs()).unwrap();
    }

    #[test]
    fn a_day_has_a_budget() {
        let mut account = Account::default();
        account.book(expense(1, 30 * GWEI), LIMIT, 1000).unwrap();
        assert_eq!(
            account.book(expense(2, 30 * GWEI), LIMIT, 1000),
            Err(OverLimit::Budget { total: 15_000_000, limit: 10_000_000 })
        );
        account.book(expense(1, 30 * GWEI), LIMIT, 1000).unwrap();
        account.book(expense(2, GWEI), LIMIT, 1000).unwrap();
        let huge = Account::default().book(expense(1, u128::MAX), LIMIT, 1000);
        assert!(matches!(huge, Err(OverLimit::Budget { .. } | OverLimit::Price { .. })), "{huge:?}");
    }

    #[test]
    fn a_price_far_above_the_usual_is_not_paid_until_it_is_the_usual() {
        let (mut account, hour) = (Account::default(), NOTE_EVERY.as_secs());
        let limit = DailyLimit { transactions: u32::MAX, gwei: u64::MAX };
        for at in 0..5 {
            account.book(expense(at, GWEI), limit, 1000 + at * hour).unwrap();
        }
        account.book(expense(5, 5 * GWEI), limit, 1000 + 4 * hour).unwrap();
        let refused = |account: &mut Account, at| account.book(expense(6, 6 * GWEI), limit, 1000 + at * hour);
        for at in 5..9 {
            assert_eq!(refused(&mut account, at), Err(OverLimit::Price { named: 6 * GWEI, usual: GWEI }), "{at}");
        }
        let usual = (9..60).find(|at| refused(&mut account, *at).is_ok()).unwrap();
        assert!(usual <= 12, "{usual}");
    }
}
