//! JSON-RPC 2.0: one request, one response, and the error data that a contract's refusal is in.

use alloy_primitives::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

/// Error data that is more than a text is not looked at beyond this many bytes of JSON: parsed, it takes a multiple of them.
const MAX_NESTED: usize = 64 << 10;

/// A request without parameters.
pub(crate) const NO_PARAMETERS: [(); 0] = [];

#[derive(Serialize)]
struct Request<'a, P> {
    jsonrpc: &'static str,
    id: u64,
    method: &'a str,
    params: P,
}

/// The text of a request.
pub(crate) fn request(id: u64, method: &str, params: impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(&Request { jsonrpc: "2.0", id, method, params })
}

/// A response, or a notification of a subscription. Parts of it are kept as they came: parsed, megabytes of brackets would take many
/// times as much.
#[derive(Debug, Deserialize)]
pub(crate) struct Response {
    #[serde(default)]
    id: Option<Box<RawValue>>,
    #[serde(default)]
    result: Option<Box<RawValue>>,
    #[serde(default)]
    error: Option<ErrorObject>,
    /// Of a notification.
    #[serde(default)]
    pub(crate) params: Option<Notification>,
}

/// What a subscription announces; of interest is only that it does.
#[derive(Debug, Deserialize)]
pub(crate) struct Notification {
    pub(crate) subscription: Box<RawValue>,
}

/// An error that the endpoint answers with.
#[derive(Debug, Deserialize)]
pub(crate) struct ErrorObject {
    #[serde(default)]
    code: Option<i64>,
    #[serde(default)]
    pub(crate) message: String,
    #[serde(default)]
    data: Option<Box<RawValue>>,
}

impl Response {
    /// Which request it answers.
    pub(crate) fn id(&self) -> Option<u64> {
        serde_json::from_str(self.id.as_ref()?.get()).ok()
    }

    /// Whether it answers the request `id`. An error may come without: the endpoint did not understand what it was asked.
    pub(crate) fn answers(&self, id: u64) -> bool {
        if self.id.is_none() { self.error.is_some() } else { self.id() == Some(id) }
    }

    /// The result's text, `null` where there is none.
    pub(crate) fn into_result(self) -> Result<Box<RawValue>, ErrorObject> {
        match (self.error, self.result) {
            (Some(error), _) => Err(error),
            (None, Some(result)) => Ok(result),
            (None, None) => Ok(RawValue::NULL.to_owned()),
        }
    }

    /// The result's text; `None` for an error.
    pub(crate) fn result(&self) -> Option<&RawValue> {
        self.result.as_deref().filter(|_| self.error.is_none())
    }

    /// Whether it is a response at all, and not any other JSON.
    pub(crate) fn is_answer(&self) -> bool {
        self.id.is_some() || self.result.is_some() || self.error.is_some()
    }
}

/// What endpoints answer that were asked too often: HTTP's code, or the one for exceeded limits (EIP-1474), which also stands for a range
/// of blocks that is too long.
const TOO_MANY_REQUESTS: i64 = 429;
const LIMIT_EXCEEDED: i64 = -32005;
const OF_RATES: [&str; 5] = ["rate limit", "request rate", "too many requests", "per second", "throughput"];

impl ErrorObject {
    /// The endpoint was asked too often.
    pub(crate) fn is_busy(&self) -> bool {
        let words = self.message.to_lowercase();
        self.code == Some(TOO_MANY_REQUESTS)
            || (self.code == Some(LIMIT_EXCEEDED) && OF_RATES.iter().any(|of_rate| words.contains(of_rate)))
    }

    /// The data that the contract reverted with; nodes put it into the error's data, some of them deeper.
    pub(crate) fn revert_data(&self) -> Option<Bytes> {
        if !self.message.contains("revert") {
            return None;
        }
        let data = self.data.as_ref()?.get();
        if let Ok(text) = serde_json::from_str::<&str>(data) {
            return text.parse().ok();
        }
        if data.len() > MAX_NESTED {
            return None;
        }
        hex_within(&serde_json::from_str(data).ok()?)
    }
}

/// The first text in a value that is hexadecimal bytes.
fn hex_within(value: &Value) -> Option<Bytes> {
    if let Some(text) = value.as_str() {
        return text.parse().ok();
    }
    value.as_object()?.values().find_map(hex_within)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn response(value: Value) -> Response {
        serde_json::from_str(&value.to_string()).unwrap()
    }

    #[test]
    fn results_errors_and_other_json_are_distinguished() {
        assert_eq!(response(json!({ "id": 7, "result": [1] })).into_result().unwrap().get(), "[1]");
        assert_eq!(response(json!({ "id": 7, "result": null })).into_result().unwrap().get(), "null");
        assert_eq!(response(json!({ "id": 7, "result": 1, "error": null })).id(), Some(7));
        let refused = response(json!({ "id": "x", "error": { "code": 1, "message": "no" } }));
        assert!(refused.id().is_none() && refused.is_answer());
        assert_eq!(refused.into_result().unwrap_err().message, "no");
        assert!(!response(json!({ "status": "busy" })).is_answer());
    }

    #[test]
    fn an_answer_names_its_request() {
        let answers = |value: Value| response(value).answers(7);
        assert!(answers(json!({ "id": 7, "result": 1 })) && answers(json!({ "id": 7, "error": {} })));
        assert!(answers(json!({ "id": null, "error": {} })), "of a request that was not understood");
        for replayed in [json!(6), json!("7"), json!(7.5), json!(null), json!([7])] {
            assert!(!answers(json!({ "id": replayed, "result": 1 })), "{replayed}");
        }
        let brackets = 1 << 20;
        let deep = format!(r#"{{"id":{}{},"result":1}}"#, "[".repeat(brackets), "]".repeat(brackets));
        assert!(!serde_json::from_str::<Response>(&deep).unwrap().answers(7));
    }

    #[test]
    fn an_endpoint_that_was_asked_too_often_is_told_from_one_that_refuses() {
        let is_busy = |error: Value| serde_json::from_value::<ErrorObject>(error).unwrap().is_busy();
        assert!(is_busy(json!({ "code": 429, "message": "" })));
        assert!(is_busy(json!({ "code": -32005, "message": "daily request count exceeded, request Rate limited" })));
        assert!(!is_busy(json!({ "code": -32005, "message": "query returned more than 10000 results" })));
        assert!(!is_busy(json!({ "code": -32005, "message": "the query generates too many results" })));
        assert!(!is_busy(json!({ "message": "rate" })));
    }

    #[test]
    fn revert_data_is_found_where_nodes_put_it_and_only_in_reverts() {
        let data = |error: Value| serde_json::from_value::<ErrorObject>(error).unwrap().revert_data();
        let found = Some(Bytes::from(vec![0xde, 0xad]));
        assert_eq!(data(json!({ "message": "execution reverted", "data": "0xdead" })), found);
        assert_eq!(data(json!({ "message": "reverted", "data": { "why": { "data": "0xdead" } } })), found);
        assert_eq!(data(json!({ "message": "reverted", "data": [1] })), None);
        assert_eq!(data(json!({ "message": "reverted" })), None);
        assert_eq!(data(json!({ "message": "out of gas", "data": "0xdead" })), None);
        let long = "0x".to_owned() + &"00".repeat(MAX_NESTED);
        assert_eq!(data(json!({ "message": "reverted", "data": long })).unwrap().len(), MAX_NESTED);
        assert_eq!(data(json!({ "message": "reverted", "data": { "data": long } })), None);
    }
}
