//! Two lists that ascend by token are gone through side by side: with thousands of peers, a search for each costs more than all else.

use std::iter::Peekable;

use crate::id::TokenId;

/// What is known by token, ascending, to be looked up by tokens that ascend, each once.
pub struct Ascending<I: Iterator> {
    rest: Peekable<I>,
}

impl<T, I: Iterator<Item = (TokenId, T)>> Ascending<I> {
    /// `known` ascends by token, and has each once: a map's entries, or a list in the order of a registry.
    pub fn new(known: impl IntoIterator<IntoIter = I>) -> Self {
        Self { rest: known.into_iter().peekable() }
    }

    /// What is known of this token, if it is higher than the last one that was looked up.
    #[must_use]
    pub fn find(&mut self, token: TokenId) -> Option<T> {
        while self.rest.next_if(|(known, _)| *known < token).is_some() {}
        self.rest.next_if(|(known, _)| *known == token).map(|(_, what)| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_found_and_nothing_else() {
        let token = |id| TokenId::new(id).unwrap();
        let mut known = Ascending::new([2, 3, 7].map(|id| (token(id), id * 10)));
        let found: Vec<_> = [1, 3, 4, 7, 8].map(|id| known.find(token(id))).into_iter().flatten().collect();
        assert_eq!(found, [30, 70]);
    }
}
