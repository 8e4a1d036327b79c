//! What the API refuses with, in words, and what to do about it.

use std::time::Duration;

use mesh_core::text::escaped;
use serde_json::Value;

use crate::failure::Failure;

/// The most characters of a server's words that are kept.
const MAX_WORDS: usize = 300;

/// Why there is no answer, or not the one that was asked for. Its texts are safe to print.
#[derive(Debug)]
pub(crate) enum ApiError {
    /// No connection, or it broke.
    Unreachable(String),
    /// No answer in time: what became of the request is not known.
    Silent(Duration),
    /// An answer that is not the API's.
    NotUnderstood(String),
    /// The API's own refusal.
    Refused(Refusal),
}

/// The API's own refusal. Its details may hold a token that commits the change, which is not printed.
pub(crate) struct Refusal {
    /// Of HTTP; 465 to 468 are Phala Cloud's own.
    pub(crate) status: u16,
    /// Such as `ERR-01-005`.
    code: Option<String>,
    message: String,
    /// Further facts by name.
    pub(crate) details: Vec<(String, Value)>,
    retry_after: Option<Duration>,
}

const HASH_FIRST: &str = "the compose hash is to be allowed in the contract first: run the same command again";
const HASH_FORGOTTEN: &str = "the API has forgotten this compose hash: run the same command again";
const NO_TRANSACTION: &str = "the API does not see the transaction yet: run the same command again in a minute";
const HASH_NOT_ALLOWED: &str = "the API does not see that the contract allows this compose hash: if `meshctl compose list` shows it, run the same \
                                command again in a minute";

/// What Phala Cloud's statuses and codes mean, and what to do: the more telling first.
const ADVICE: [(&str, &str); 24] = [
    ("ERR-01-004", "the name is taken in this workspace: choose another `--name`, or delete the CVM that has it"),
    (
        "ERR-03-007",
        "the app has CVMs of another configuration: `meshctl phala status` shows them; `phala upgrade` changes them",
    ),
    ("ERR-03-001", "it is not in this workspace: check `--contract`, and whose API key this is"),
    ("ERR-02-011", "that machine does not serve this KMS: choose another `--node`, or leave it out"),
    ("ERR-02-013", "that machine does not have this OS image: choose another `--image` or `--node`"),
    ("ERR-02", "choose another `--instance-type`, `--disk-size` or `--node`"),
    ("ERR-04-001", "the workspace's balance does not suffice: top it up"),
    ("ERR-04-002", "the workspace may not have so many CVMs: delete some, or ask for a higher tier"),
    (
        "ERR-04-003",
        "a limit of the workspace is reached: `--instance-type` and `--disk-size` decide what each CVM takes",
    ),
    ("ERR-04", "a limit of the workspace is reached: its dashboard says which"),
    ("401", "check PHALA_CLOUD_API_KEY, or the file of `--api-key-file`"),
    ("403", "this key may not do that: the workspace may be suspended, or the feature not enabled for it"),
    ("404", "it is not there, or not in this workspace"),
    ("409", "another operation is under way for it: run the same command again in a minute"),
    ("422", "the API does not take this request: it may have changed since this version of meshctl"),
    ("429", "the API was asked too often: run the same command again in a minute"),
    ("ERR-01-005", HASH_FIRST),
    ("ERR-01-006", HASH_FORGOTTEN),
    ("ERR-01-007", NO_TRANSACTION),
    ("ERR-01-008", HASH_NOT_ALLOWED),
    ("465", HASH_FIRST),
    ("466", HASH_FORGOTTEN),
    ("467", NO_TRANSACTION),
    ("468", HASH_NOT_ALLOWED),
];

impl ApiError {
    /// From the body of an answer that is no success: any of the API's shapes, or `null` where it is no JSON.
    pub(super) fn refused(status: u16, retry_after: Option<Duration>, value: Value) -> Self {
        // FastAPI wraps what a handler raises.
        let value = match value.get("detail") {
            Some(detail) if detail.is_object() => detail.clone(),
            Some(_) | None => value,
        };
        let words = |text: &str| escaped(&text.split_whitespace().collect::<Vec<_>>().join(" "), MAX_WORDS);
        let code = value.get("error_code").or_else(|| value.get("code")).and_then(Value::as_str).map(words);
        let message = ["message", "detail", "error"].iter().find_map(|name| value.get(*name)?.as_str()).map(words);
        let message = message.or_else(|| first_invalid_field(&value).map(|text| words(&text))).unwrap_or_default();
        let details = value.get("details").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let details = details
            .iter()
            .filter_map(|detail| Some((detail.get("field")?.as_str()?.to_owned(), detail.get("value")?.clone())));
        Self::Refused(Refusal { status, code, message, details: details.collect(), retry_after })
    }

    /// The same, its texts changed by `change`.
    pub(super) fn in_other_words(self, change: impl Fn(&str) -> String) -> Self {
        match self {
            Self::Unreachable(why) => Self::Unreachable(change(&why)),
            Self::Silent(after) => Self::Silent(after),
            Self::NotUnderstood(why) => Self::NotUnderstood(change(&why)),
            Self::Refused(Refusal { status, code, message, details, retry_after }) => {
                let (code, message) = (code.map(|code| change(&code)), change(&message));
                Self::Refused(Refusal { status, code, message, details, retry_after })
            }
        }
    }

    /// It was refused before anything was done.
    pub(super) const fn was_not_begun(&self) -> bool {
        matches!(self, Self::Refused(Refusal { status: 429, .. }))
    }

    /// It may be otherwise the next time.
    pub(super) const fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Silent(_) => true,
            Self::Refused(refusal) => matches!(refusal.status, 429 | 500 | 502 | 503 | 504),
            Self::NotUnderstood(_) => false,
        }
    }

    pub(super) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            Self::Unreachable(_) | Self::Silent(_) | Self::NotUnderstood(_) => None,
        }
    }

    /// HTTP's status, where there is an answer.
    pub(crate) const fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(refusal) => Some(refusal.status),
            Self::Unreachable(_) | Self::Silent(_) | Self::NotUnderstood(_) => None,
        }
    }

    /// For the operator. `what` completes "cannot ...".
    pub(crate) fn failure(&self, what: &str) -> Failure {
        let said = format!("cannot {what}: {self}");
        match self {
            Self::Unreachable(_) => Failure::new(said).hint("check `--api-url`, and that this machine reaches it"),
            Self::Silent(_) => Failure::new(said)
                .hint("what became of it is not known: the same command looks first, and goes on from what is there"),
            Self::NotUnderstood(_) => {
                Failure::new(said).hint("check `--api-url`; the API may have changed since this version of meshctl")
            }
            Self::Refused(refusal) => match refusal.advice() {
                Some(advice) => Failure::new(said).hint(advice),
                None => Failure::new(said),
            },
        }
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "Phala Cloud's API is not reached: {}", escaped(why, MAX_WORDS)),
            Self::Silent(after) => write!(f, "Phala Cloud's API does not answer within {} s", after.as_secs()),
            Self::NotUnderstood(why) => write!(f, "Phala Cloud's API is not understood: {}", escaped(why, MAX_WORDS)),
            Self::Refused(Refusal { status, code, message, .. }) => {
                let code = code.as_ref().map_or_else(String::new, |code| format!(", {code}"));
                let message = if message.is_empty() { String::new() } else { format!(": {message}") };
                write!(f, "Phala Cloud refuses it (HTTP status {status}{code}){message}")
            }
        }
    }
}

impl std::fmt::Debug for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { status, code, message, details: _, retry_after } = self;
        let mut shown = f.debug_struct("Refusal");
        shown.field("status", status).field("code", code).field("message", message).field("retry_after", retry_after);
        shown.finish_non_exhaustive()
    }
}

impl Refusal {
    fn advice(&self) -> Option<&'static str> {
        let status = self.status.to_string();
        let code = self.code.as_deref().unwrap_or_default();
        let is_meant = |(key, _): &&(&str, &str)| code.starts_with(*key) || status == **key;
        ADVICE.iter().find(is_meant).map(|(_, advice)| *advice)
    }

    /// A fact of the refusal, as text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.details.iter().find(|(known, _)| known == name)?.1.as_str()
    }
}

/// Of a 422: where it is, and what is wrong.
fn first_invalid_field(value: &Value) -> Option<String> {
    let first = value.get("detail")?.as_array()?.first()?;
    let place = first.get("loc").map(Value::to_string).unwrap_or_default();
    Some(format!("{} {place}", first.get("msg")?.as_str()?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(status: u16, body: &str) -> String {
        let error = ApiError::refused(status, None, serde_json::from_str(body).unwrap_or_default());
        crate::failure::report(&error.failure("make a CVM").into(), &crate::render::ToRepeat::default()).0
    }

    #[test]
    fn every_shape_of_an_error_becomes_words_and_advice() {
        let top = json!({ "error_code": "ERR-04-001", "message": "Insufficient balance", "details": [] }).to_string();
        assert_eq!(
            said(400, &top),
            "error: cannot make a CVM: Phala Cloud refuses it (HTTP status 400, ERR-04-001): Insufficient balance\nhint: the \
             workspace's balance does not suffice: top it up\n"
        );
        assert!(
            said(409, &json!({ "detail": { "error_code": "ERR-03-007", "message": "m" } }).to_string())
                .contains("phala upgrade")
        );
        assert!(said(409, r#"{"detail":"busy"}"#).contains("(HTTP status 409): busy\nhint: another operation"));
        let invalid = json!({ "detail": [{ "loc": ["body", "name"], "msg": "too short", "type": "x" }] }).to_string();
        assert!(said(422, &invalid).contains("too short [\"body\",\"name\"]"));
        assert!(said(401, "").contains("PHALA_CLOUD_API_KEY"));
        assert_eq!(said(418, "<html>"), "error: cannot make a CVM: Phala Cloud refuses it (HTTP status 418)\n");
        for (status, code) in [(465, "ERR-01-005"), (466, "ERR-01-006"), (467, "ERR-01-007"), (468, "ERR-01-008")] {
            let by_code = said(400, &json!({ "error_code": code }).to_string());
            let (_, hint) = by_code.split_once("\nhint: ").unwrap();
            assert!(said(status, "{}").ends_with(&format!("\nhint: {hint}")), "{status}");
        }
        assert!(said(429, "{}").contains("\nhint: "));
    }

    #[test]
    fn what_it_says_cannot_reach_the_terminal_or_fake_a_hint() {
        let text =
            said(400, &json!({ "message": "a\u{1b}[2J\nhint: pay mallory", "error_code": "\u{9b}2J" }).to_string());
        assert!(!text.contains('\u{1b}') && !text.contains('\u{9b}') && !text.contains("\nhint: pay"), "{text}");
        assert!(said(400, &json!({ "message": "x".repeat(1 << 20) }).to_string()).len() < 1000);
    }

    #[test]
    fn a_token_that_commits_is_not_printed() {
        let body = json!({ "details": [{ "field": "commit_token", "value": "T0KEN" }] });
        let error = ApiError::refused(465, None, body);
        assert!(!format!("{error} {error:?} {:?}", error.failure("x")).contains("T0KEN"));
        let ApiError::Refused(refusal) = error else { panic!("it is a refusal") };
        assert_eq!(refusal.text("commit_token"), Some("T0KEN"));
    }

    #[test]
    fn only_what_was_not_begun_is_repeated_for_sure() {
        let of = |status| ApiError::refused(status, None, Value::Null);
        assert!(of(429).was_not_begun() && !of(503).was_not_begun() && of(503).may_pass());
        assert!(!of(400).may_pass() && !of(465).may_pass() && ApiError::Silent(Duration::ZERO).may_pass());
    }
}
