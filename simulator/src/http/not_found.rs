//! The page where nothing is mounted, as Rocket, which dstack's agent is built on, gives it: HTML, or JSON where that is what the
//! client asks for first. Its `error` is an object, unlike that of a call.

use hyper::HeaderMap;
use hyper::header::ACCEPT;

const HTML: &[u8] = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head>\
<body><h1>404: Not Found</h1><p>SIMULATED dstack guest agent</p></body></html>\n";
const JSON: &[u8] = br#"{
  "error": {
    "code": 404,
    "reason": "Not Found",
    "description": "The requested resource could not be found."
  }
}"#;

/// Content type and body.
pub(super) fn page(headers: &HeaderMap) -> (&'static str, &'static [u8]) {
    if wants_json(headers) { ("application/json", JSON) } else { ("text/html; charset=utf-8", HTML) }
}

/// Whether JSON has the greatest weight in Accept; of equal ones the first counts.
fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let mut first: Option<(&str, f32)> = None;
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
        if first.is_none_or(|(_, greatest)| weight > greatest) {
            first = Some((kind, weight));
        }
    }
    first.is_some_and(|(kind, _)| kind.eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn json_is_for_those_who_ask_for_it_first() {
        let json = |accept: &'static str| {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            page(&headers).0 == "application/json"
        };
        for wanted in ["application/json", "Application/JSON; q=0.5", "text/html;q=0.8, application/json"] {
            assert!(json(wanted), "{wanted}");
        }
        for other in ["", "*/*", "text/html, application/json", "application/json;q=0.1, */*", "application/jsonp"] {
            assert!(!json(other), "{other}");
        }
        assert!(!wants_json(&HeaderMap::new()));
        let parsed: serde_json::Value = serde_json::from_slice(JSON).unwrap();
        assert_eq!(parsed["error"]["code"], 404);
    }
}
