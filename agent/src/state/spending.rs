//! The account of what this node's own transactions cost, on disk: a restart brings no new budget.

use std::{
    fs::OpenOptions,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use mesh_chain::{Account, DailyLimit, Spending, Store};

use super::dir::{open_regular, replace};

const FILE_NAME: &str = "spending.json";
/// An account of ours is far shorter.
const MAX_LENGTH: u64 = 1 << 20;

/// The account that is kept in this directory.
#[must_use]
pub fn kept_in(state_dir: &Path, limit: DailyLimit) -> Spending {
    let account = load(&state_dir.join(FILE_NAME)).unwrap_or_else(|error| {
        tracing::warn!(%error, "the account of what was spent begins anew: {FILE_NAME} cannot be read");
        Account::default()
    });
    Spending::new(limit, account, Box::new(StateDir(state_dir.to_owned())))
}

struct StateDir(PathBuf);

impl Store for StateDir {
    fn keep(&mut self, account: &Account) -> io::Result<()> {
        replace(&self.0, FILE_NAME, &serde_json::to_vec(account)?)
    }
}

fn load(path: &Path) -> io::Result<Account> {
    let file = match open_regular(OpenOptions::new().read(true), path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Account::default()),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_LENGTH).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use mesh_chain::{Expense, OverLimit};

    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_restart_brings_no_new_budget() {
        let dir = Scratch::new();
        let limit = DailyLimit { transactions: 3, gwei: 10_000_000 };
        let expense = |nonce| Expense { nonce, gas: 250_000, price: 1_000_000_000 };
        for nonce in 1..=3 {
            kept_in(dir.path(), limit).book(expense(nonce)).unwrap();
        }
        assert_eq!(kept_in(dir.path(), limit).book(expense(4)), Err(OverLimit::Count { limit: 3 }));
        std::fs::create_dir(dir.path().join(".spending.json")).unwrap();
        let unkept = kept_in(dir.path(), DailyLimit::default()).book(expense(4));
        assert!(matches!(unkept, Err(OverLimit::Unkept { .. })), "what cannot be kept is not spent: {unkept:?}");
    }
}
