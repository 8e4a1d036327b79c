//! What an account has, as the endpoints say: for people to see, and to try again what funds were missing for.

use mesh_core::{id::Address, wei::Wei};

use super::{
    Sources,
    gather::{answered, gather_in_time},
};

impl Sources {
    /// What an account has at the newest block: the lower median of what the endpoints say, where as many answer as must agree about a
    /// read. No payment depends on it.
    pub async fn balance(&self, account: Address) -> Option<Wei> {
        let asked = self.sources.iter().map(|source| source.balance(account));
        let answers = gather_in_time(asked, |answers| answered(answers) >= self.need).await;
        let mut balances: Vec<_> = answers.into_iter().flatten().flatten().collect();
        balances.sort_unstable();
        let middle = balances.len().checked_sub(1)? / 2;
        (balances.len() >= self.need).then(|| Wei(balances[middle]))
    }
}
