//! What is wrong now: determined again at every step, remembered only for when it began, logged once when it begins.

use std::collections::BTreeMap;

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
    pub(super) hint: Option<String>,
}

impl Finding {
    pub(super) fn new(code: &'static str, id: &'static str, severity: Severity, message: impl Into<String>) -> Self {
        Self { code, id, severity, peer: None, subject: String::new(), message: message.into(), hint: None }
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
        let message = format!("{} peers; the first: {}", MAX_OF_A_KIND + more, first.message);
        found.push(Finding { peer: None, message, ..first });
    }
}

type Key = (Severity, &'static str, Option<TokenId>, String);

/// The findings of the last step, each with its beginning.
#[derive(Debug, Default)]
pub(super) struct WarningBook(BTreeMap<Key, (Now, Finding)>);

impl WarningBook {
    /// Replaces the findings; those that continue keep their beginning, new ones are logged.
    pub(super) fn update(&mut self, findings: Vec<Finding>, now: Now) {
        let mut before = std::mem::take(&mut self.0);
        for finding in findings {
            let key = (finding.severity, finding.code, finding.peer, finding.subject.clone());
            let since = before.remove(&key).map_or_else(
                || {
                    log(&finding);
                    now
                },
                |(since, _)| since,
            );
            self.0.insert(key, (since, finding));
        }
        for (_, finding) in before.into_values() {
            tracing::info!(
                code = finding.code,
                id = finding.id,
                peer = finding.peer.map(TokenId::get),
                "warning is over"
            );
        }
    }

    /// Every warning, most severe first, then by code and peer.
    pub(super) fn list(&self) -> Vec<Warning> {
        let warnings = self.0.values().map(|(since, finding)| Warning {
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

fn log(finding: &Finding) {
    let Finding { code, id, message, hint, .. } = finding;
    let peer = finding.peer.map(TokenId::get);
    match finding.severity {
        Severity::Critical | Severity::Warning => tracing::warn!(code, id, peer, hint, "{message}"),
        Severity::Info => tracing::info!(code, id, peer, hint, "{message}"),
    }
}
