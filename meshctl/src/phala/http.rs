//! One request to the API and its answer, bounded in time and in size, and asked again where that is safe.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use mesh_chain::Dialer;
use serde_json::Value;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::error::ApiError;

/// The longest answer that is read, bytes. A list of 16 CVMs with their compose files is some hundred kilobytes.
const MAX_ANSWER: usize = 8 << 20;
/// How long one request may take, as in the API's own SDK.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a request is made, at most.
const ATTEMPTS: u32 = 5;
/// The longest pause between two attempts, whatever the server asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Which version of the API's answers is understood here.
const API_VERSION: &str = "2026-01-21";
/// The shortest key, bytes. A shorter text might stand in answers by chance, and is cut out of them.
const SHORTEST_KEY: usize = 8;

/// The workspace's key. It cannot be printed, and is wiped when it is dropped.
pub(crate) struct ApiKey(Zeroizing<String>);

/// Whether a request may be made again when it is not known what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Twice does what once does.
    Safe,
    /// It makes something: only what was refused before it began is tried again.
    Never,
}

/// A request of the API.
pub(super) struct Call {
    pub(super) method: Method,
    /// Below the base URL, with its slash; made of parsed ids, so that nothing in it needs escaping.
    pub(super) path: String,
    pub(super) body: Option<Value>,
    /// Further headers.
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) repeat: Repeat,
}

/// The API at one base URL, with one key.
pub(super) struct Http {
    client: Client<Dialer, Full<Bytes>>,
    base: String,
    key: ApiKey,
}

/// A request that got an answer: its status, and its body where it is JSON.
struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

impl ApiKey {
    /// `None` where it cannot be one: it goes into a header as it is.
    pub(crate) fn new(text: Zeroizing<String>) -> Option<Self> {
        let key = text.trim();
        let is_key = key.len() >= SHORTEST_KEY && key.bytes().all(|byte| byte.is_ascii_graphic());
        is_key.then(|| Self(Zeroizing::new(key.to_owned())))
    }

    fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&self.0).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// A text without the key in it.
    fn redact(&self, text: &str) -> String {
        text.replace(self.0.as_str(), "[redacted]")
    }

    /// An answer without the key in any of its texts, however its JSON wrote them: whatever is made of it can be printed.
    fn redact_answer(&self, answer: Value) -> Value {
        match answer {
            Value::String(text) => Value::String(self.redact(&text)),
            Value::Array(entries) => entries.into_iter().map(|entry| self.redact_answer(entry)).collect(),
            Value::Object(members) => {
                members.into_iter().map(|(name, value)| (self.redact(&name), self.redact_answer(value))).collect()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => answer,
        }
    }
}

impl Call {
    pub(super) fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: None, headers: Vec::new(), repeat: Repeat::Safe }
    }

    pub(super) fn new(method: Method, path: String, body: Value, repeat: Repeat) -> Self {
        Self { method, path, body: Some(body), headers: Vec::new(), repeat }
    }
}

impl Http {
    /// `base` is a URL without its last slash.
    pub(super) fn new(base: String, key: ApiKey) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build(Dialer::default()), base, key }
    }

    /// The JSON of a successful answer; `null` for one without a body. Neither it nor an error holds the key.
    pub(super) async fn ask(&self, call: &Call) -> Result<Value, ApiError> {
        let mut attempt = 0;
        loop {
            let error = match self.once(call).await {
                Ok(value) => return Ok(value),
                Err(error) => error.in_other_words(|text| self.key.redact(text)),
            };
            attempt += 1;
            let is_repeated = error.was_not_begun() || (call.repeat == Repeat::Safe && error.may_pass());
            if !is_repeated || attempt >= ATTEMPTS {
                return Err(error);
            }
            sleep(pause(attempt, error.retry_after())).await;
        }
    }

    async fn once(&self, call: &Call) -> Result<Value, ApiError> {
        let answer = timeout(PATIENCE, self.answer(call)).await.map_err(|_| ApiError::Silent(PATIENCE))??;
        let body = match answer.body.is_empty() {
            true => Ok(Value::Null),
            false => serde_json::from_slice(&answer.body).map(|body| self.key.redact_answer(body)),
        };
        if answer.status.is_success() {
            return body.map_err(|error| ApiError::NotUnderstood(format!("its answer is not JSON: {error}")));
        }
        Err(ApiError::refused(answer.status.as_u16(), answer.retry_after, body.unwrap_or_default()))
    }

    async fn answer(&self, call: &Call) -> Result<Answer, ApiError> {
        let response = self.client.request(self.request(call)?).await;
        let response = response.map_err(|error| ApiError::Unreachable(causes(&error)))?;
        let (status, retry_after) = (response.status(), retry_after(response.headers()));
        let body = read(response.into_body(), MAX_ANSWER).await.map_err(ApiError::NotUnderstood)?;
        Ok(Answer { status, retry_after, body })
    }

    fn request(&self, call: &Call) -> Result<Request<Full<Bytes>>, ApiError> {
        let body = call.body.as_ref().map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let key = self.key.header().ok_or_else(|| ApiError::Unreachable("the key fits into no header".to_owned()))?;
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(format!("{}{}", self.base, call.path))
            .header("X-API-Key", key)
            .header("X-Phala-Version", API_VERSION)
            .header(ACCEPT, "application/json");
        if call.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        request.body(Full::from(body)).map_err(|error| ApiError::Unreachable(error.to_string()))
    }
}

/// A body of at most `most` bytes; else why not.
pub(super) async fn read(mut body: Incoming, most: usize) -> Result<Vec<u8>, String> {
    let mut answer = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("its answer breaks off: {}", causes(&error)))?;
        let Some(data) = frame.data_ref() else { continue };
        if answer.len() + data.len() > most {
            return Err(format!("its answer is longer than {} KiB", most >> 10));
        }
        answer.extend_from_slice(data);
    }
    Ok(answer)
}

/// A date is ignored: clocks differ.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// How long to wait before the next attempt: what the server asks for, else twice as long each time.
fn pause(attempt: u32, asked: Option<Duration>) -> Duration {
    let usual = Duration::from_secs(1 << attempt.saturating_sub(1).min(6));
    asked.map_or(usual, |asked| asked.max(Duration::from_millis(100))).min(LONGEST_PAUSE)
}

/// An error and its causes on one line.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn pauses_grow_and_a_server_cannot_make_them_endless() {
        let pauses: Vec<_> = (1..=8).map(|attempt| pause(attempt, None).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(1, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(pause(1, Some(Duration::from_secs(u64::MAX))), LONGEST_PAUSE);
        assert_eq!(pause(1, Some(Duration::ZERO)), Duration::from_millis(100), "never without a pause");
    }

    #[test]
    fn a_key_goes_into_one_header_and_into_no_text() {
        let key = |text: &str| ApiKey::new(Zeroizing::new(text.to_owned()));
        for wrong in ["", " \n", "phak_a b", "phak_\r\nX-Other: 1", "phak_é"] {
            assert!(key(wrong).is_none(), "{wrong:?}");
        }
        let key = key("phak_S3CRET\n").unwrap();
        assert_eq!(key.redact("no such key: phak_S3CRET"), "no such key: [redacted]");
        assert!(!format!("{:?}", key.header().unwrap()).contains("S3CRET"));
    }

    /// What a server that repeats the key in every place makes of one request, in words and in their `Debug` form.
    async fn said(reply: &'static [u8]) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            stream.write_all(reply).unwrap();
            String::from_utf8(request).unwrap()
        });
        let key = ApiKey::new(Zeroizing::new("phak_S3CRET12345".to_owned())).unwrap();
        let call = Call { repeat: Repeat::Never, ..Call::get("/apps".to_owned()) };
        let answer = Http::new(base, key).ask(&call).await;
        assert!(server.join().unwrap().contains("phak_S3CRET12345"), "it was told the key");
        match &answer {
            Ok(value) => format!("{value} {value:?}"),
            Err(error) => format!("{error} {error:?} {}", error.failure("list the CVMs")),
        }
    }

    #[tokio::test]
    async fn a_server_cannot_have_the_key_printed() {
        for (reply, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\n[{\"name\":\"phak_S3CRET12345\",\"phak_S3CRET12345\":1}]", "[redacted]"),
            ("HTTP/1.1 200 OK\r\n\r\n[\"a phak\\u005fS3CRET12345 b\"]", "a [redacted] b"),
            ("HTTP/1.1 200 OK\r\n\r\nphak_S3CRET12345", "is not JSON"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n[\"phak_S3CRET12345\"]", "breaks off"),
            ("HTTP/1.1 401 phak_S3CRET12345\r\n\r\n{\"detail\":\"phak\\u005fS3CRET12345\"}", "[redacted]"),
            ("HTTP/1.1 400 X\r\n\r\n{\"error_code\":\"phak_S3CRET12345\",\"message\":\"m\"}", "[redacted]"),
            ("HTTP/1.1 422 X\r\n\r\n{\"detail\":[{\"loc\":[\"phak_S3CRET12345\"],\"msg\":\"m\"}]}", "[redacted]"),
            (
                "HTTP/1.1 465 X\r\n\r\n{\"details\":[{\"field\":\"phak_S3CRET12345\",\"value\":\"phak_S3CRET12345\"}]}",
                "465",
            ),
            ("HTTP/1.1 500 X\r\n\r\nphak_S3CRET12345", "HTTP status 500"),
            ("phak_S3CRET12345: phak_S3CRET12345\r\n\r\n", "is not reached"),
            ("HTTP/1.1 200 OK\r\nphak_S3CRET12345 \u{0}\r\n\r\n", "is not reached"),
        ] {
            let said = said(reply.as_bytes()).await;
            assert!(said.contains(expected) && !said.contains("S3CRET"), "{reply:?}: {said}");
        }
    }

    #[test]
    fn a_key_is_long_enough_to_be_found_in_texts() {
        assert!(ApiKey::new(Zeroizing::new("running".to_owned())).is_none());
    }
}
