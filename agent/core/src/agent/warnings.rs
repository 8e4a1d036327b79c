//! What is wrong now: determined again at every step, remembered only for when it began and what the log has of it.

use std::{collections::BTreeMap, time::Duration};

use super::Now;
use crate::{
    id::TokenId,
    status::{Severity, Warning},
    time::rfc3339,
};

/// Something wrong, as found at one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) code: &'static str,
    pub(super) id: &'static str,
    pub(super) severity: Severity,
    /// The peer it is about.
    pub(super) peer: Option<TokenId>,
    /// Distinguishes findings of one code that are not about a peer, e.g. by source.
    pub(super) subject: String,
    pub(super) message: String,
    /// What of the message is news when it changes, where the message also tells times that pass.
    pub(super) gist: Option<String>,
    pub(super) hint: Option<String>,
}

impl Finding {
    pub(super) fn new(code: &'static str, id: &'static str, severity: Severity, message: impl Into<String>) -> Self {
        let (subject, message) = (String::new(), message.into());
        Self { code, id, severity, peer: None, subject, message, gist: None, hint: None }
    }

    pub(super) fn of_peer(self, peer: TokenId) -> Self {
        Self { peer: Some(peer), ..self }
    }

    pub(super) fn about(self, subject: &str) -> Self {
        Self { subject: subject.to_owned(), ..self }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    pub(super) fn gist(self, gist: impl Into<String>) -> Self {
        Self { gist: Some(gist.into()), ..self }
    }

    fn news(&self) -> &str {
        self.gist.as_deref().unwrap_or(&self.message)
    }
}

/// Findings of one kind about more peers than this are combined into one.
const MAX_OF_A_KIND: usize = 8;

/// Reports what is wrong with each of these peers, or combines them when they are many: neither the status nor the log
/// grows with the number of peers that a lying endpoint invents.
pub(super) fn find_each<T>(
    found: &mut Vec<Finding>,
    peers: impl IntoIterator<Item = (TokenId, T)>,
    find: impl Fn(TokenId, T) -> Finding,
) {
    let mut peers = peers.into_iter();
    let few: Vec<_> =
        peers.by_ref().take(MAX_OF_A_KIND).map(|(token, what)| find(token, what).of_peer(token)).collect();
    let more = peers.count();
    if more == 0 {
        found.extend(few);
    } else if let Some(first) = few.into_iter().next() {
        let of_all = |text: &str| format!("{} peers; the first: {text}", MAX_OF_A_KIND + more);
        let (message, gist) = (of_all(&first.message), first.gist.as_deref().map(of_all));
        found.push(Finding { peer: None, message, gist, ..first });
    }
}

type Key = (Severity, &'static str, Option<TokenId>, String);

/// So many changes of one finding's text go into the log at once, and then one after each [`CHANGE_EVERY`]: endpoints choose texts, too.
const MAX_CHANGES: u32 = 4;
const CHANGE_EVERY: Duration = Duration::from_secs(60);

/// The findings of the last step.
#[derive(Debug, Default)]
pub(super) struct WarningBook(BTreeMap<Key, Entry>);

#[derive(Debug)]
struct Entry {
    since: Now,
    finding: Finding,
    /// The text that the log has.
    logged: String,
    /// When all of [`MAX_CHANGES`] may be logged again, on the monotonic clock.
    rested_at: Duration,
}

/// What the log has not had yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It began, or says something else than before.
    Is(Finding),
    /// It is over.
    Over(Finding),
}

impl Entry {
    fn begun(finding: Finding, now: Now) -> Self {
        Self { since: now, logged: finding.news().to_owned(), finding, rested_at: now.since_start }
    }

    /// Takes the new text; true when it is to be logged.
    fn update(&mut self, finding: Finding, now: Now) -> bool {
        self.finding = finding;
        let rested_at = self.rested_at.max(now.since_start) + CHANGE_EVERY;
        let is_news = self.finding.news() != self.logged;
        if !is_news || rested_at > now.since_start + CHANGE_EVERY * MAX_CHANGES {
            return false;
        }
        self.rested_at = rested_at;
        self.finding.news().clone_into(&mut self.logged);
        true
    }
}

impl WarningBook {
    /// Replaces the findings; those that continue keep their beginning. Returns what is to be logged.
    #[must_use]
    pub(super) fn update(&mut self, findings: Vec<Finding>, now: Now) -> Vec<News> {
        let mut before = std::mem::take(&mut self.0);
        let mut news = Vec::new();
        for finding in findings {
            let key = (finding.severity, finding.code, finding.peer, finding.subject.clone());
            let (entry, is_news) = match before.remove(&key) {
                Some(mut entry) => {
                    let is_news = entry.update(finding, now);
                    (entry, is_news)
                }
                None => (Entry::begun(finding, now), true),
            };
            news.extend(is_news.then(|| News::Is(entry.finding.clone())));
            self.0.insert(key, entry);
        }
        news.extend(before.into_values().map(|entry| News::Over(entry.finding)));
        news
    }

    /// Every warning, most severe first, then by code and peer.
    pub(super) fn list(&self) -> Vec<Warning> {
        let warnings = self.0.values().map(|Entry { since, finding, .. }| Warning {
            code: finding.code.to_owned(),
            id: finding.id.to_owned(),
            severity: finding.severity,
            peer: finding.peer,
            since: rfc3339(since.unix),
            message: finding.message.clone(),
            hint: finding.hint.clone(),
        });
        warnings.collect()
    }

    /// Something does not work.
    pub(super) fn any_serious(&self) -> bool {
        self.0.keys().any(|(severity, ..)| *severity <= Severity::Warning)
    }
}

impl News {
    pub(super) fn log(&self) {
        match self {
            Self::Is(finding) => log(finding),
            Self::Over(Finding { code, id, peer, .. }) => {
                tracing::info!(code, id, peer = peer.map(TokenId::get), "warning is over");
            }
        }
    }
}

fn log(finding: &Finding) {
    let Finding { code, id, message, hint, .. } = finding;
    let peer = finding.peer.map(TokenId::get);
    match finding.severity {
        Severity::Critical | Severity::Warning => tracing::warn!(code, id, peer, hint, "{message}"),
        Severity::Info => tracing::info!(code, id, peer, hint, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        let since_start = Duration::from_secs(seconds);
        Now { since_start, unix: since_start }
    }

    fn finding(message: &str) -> Finding {
        Finding::new("W104", "not-registered", Severity::Warning, message)
    }

    #[test]
    fn a_finding_is_logged_when_it_begins_when_it_says_something_else_and_when_it_is_over() {
        let mut book = WarningBook::default();
        let signing = finding("signing");
        assert_eq!(book.update(vec![signing.clone()], at(0)), [News::Is(signing.clone())]);
        assert_eq!(book.update(vec![signing], at(1)), []);
        let poor = finding("no funds").hint("send some");
        assert_eq!(book.update(vec![poor.clone()], at(2)), [News::Is(poor.clone())]);
        assert_eq!(book.list()[0].since, rfc3339(at(0).unix), "it is the same one");
        assert_eq!(book.update(vec![], at(3)), [News::Over(poor)]);
    }

    #[test]
    fn the_passing_of_time_is_no_news() {
        let mut book = WarningBook::default();
        let aging = |age: u64, then: &str| finding(&format!("{age} s old{then}")).gist(then);
        assert_eq!(book.update(vec![aging(1, "")], at(0)).len(), 1);
        assert_eq!(book.update(vec![aging(2, "")], at(1)), []);
        assert_eq!(book.list()[0].message, "2 s old", "the status has the new text");
        assert_eq!(book.update(vec![aging(3, "; all is lost")], at(2)).len(), 1);
    }

    /// An endpoint that says something else in each answer does not fill the disk, and the last word is not lost.
    #[test]
    fn a_text_that_keeps_changing_is_logged_now_and_then() {
        let mut book = WarningBook::default();
        let news = |book: &mut WarningBook, text: &str, seconds| book.update(vec![finding(text)], at(seconds)).len();
        let logged: usize = (0..600).map(|second| news(&mut book, &format!("word {second}"), second)).sum();
        assert!((10..=15).contains(&logged), "{logged} lines in ten minutes");
        let later: usize = (600..700).map(|second| news(&mut book, "the last word", second)).sum();
        assert_eq!(later, 1);
    }
}
