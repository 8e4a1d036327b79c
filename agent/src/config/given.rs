//! Which flags were given, to tell what has changed when the settings are read again. Values are not kept, because they may hold API
//! keys: only what tells whether they are the same.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    sync::LazyLock,
};

use clap::ArgMatches;

use super::source::flag_names;

/// The flags that were given, in whichever way, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given(BTreeMap<String, u64>);

impl Given {
    pub(super) fn of(matches: &ArgMatches) -> Self {
        // Drawn for each process: nothing can be told from what it makes of a value.
        static HASH: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let hash = |flag: String| {
            let values: Vec<_> = matches.get_raw(&flag.replace('-', "_"))?.collect();
            Some((flag, HASH.hash_one(values)))
        };
        Self(flag_names().into_iter().filter_map(hash).collect())
    }

    /// The flags that were given differently, or only once.
    #[must_use]
    pub fn changed(&self, now: &Self) -> Vec<String> {
        let mut all: Vec<&String> = self.0.keys().chain(now.0.keys()).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().filter(|flag| self.0.get(*flag) != now.0.get(*flag)).cloned().collect()
    }
}
