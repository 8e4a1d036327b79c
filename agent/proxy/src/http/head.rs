//! Heads of requests and answers: where a request goes, and what of it goes on.

use std::str::FromStr as _;

use hyper::{
    Method, Request, Response, StatusCode, Uri, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
    },
    http::uri::{Authority, PathAndQuery, Scheme},
};
use mesh_core::text::escaped;

use crate::{
    counters::Refusal,
    target::{Node, ParseTargetError, Target},
};

/// What belongs to one connection and not to the message (RFC 9110, 7.6.1), beside what `Connection` names.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
const PORT: u16 = 80;

/// Why a request is not sent on. Printed as one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("this is a proxy: ask for `http://node-7/…` through it, or `CONNECT node-7:PORT`")]
    NotToAProxy,
    #[error("ask for `{0}` by CONNECT: only http:// URLs are sent on as they are")]
    Scheme(String),
    #[error("no user names in URLs: send an `Authorization` header")]
    UserInfo,
    #[error("a web page of `{0}` may not use the mesh: it is not in it")]
    Origin(String),
    #[error(transparent)]
    Target(#[from] ParseTargetError),
}

impl Refused {
    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::NotToAProxy | Self::Scheme(_) | Self::UserInfo | Self::Target(ParseTargetError::Port(_)) => {
                StatusCode::BAD_REQUEST
            }
            Self::Origin(_) => StatusCode::FORBIDDEN,
            Self::Target(ParseTargetError::NotInTheMesh(_)) => StatusCode::NOT_FOUND,
        }
    }

    pub(super) const fn refusal(&self) -> Refusal {
        match self {
            Self::NotToAProxy | Self::Scheme(_) | Self::UserInfo | Self::Target(ParseTargetError::Port(_)) => {
                Refusal::BadRequest
            }
            Self::Origin(_) => Refusal::NotPermitted,
            Self::Target(ParseTargetError::NotInTheMesh(_)) => Refusal::NotMember,
        }
    }
}

/// Where `CONNECT node-7:443` leads.
pub(super) fn connect_target(uri: &Uri) -> Result<Target, Refused> {
    let authority = uri.authority().ok_or(Refused::NotToAProxy)?;
    Ok(named(authority)?.parse()?)
}

/// Makes of a request to a proxy the one that its target gets.
///
/// A request in any other form is for a web server, and a page may have sent it here by a name that leads to 127.0.0.1. A browser
/// that was told to use this proxy says by `Origin` whose page asks, except for plain navigation, whose answer the page cannot read.
pub(super) fn to_origin<B>(request: &mut Request<B>) -> Result<Target, Refused> {
    let uri = request.uri();
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else { return Err(Refused::NotToAProxy) };
    if *scheme != Scheme::HTTP {
        return Err(Refused::Scheme(escaped(&uri.to_string(), 200)));
    }
    let target = http_target(authority)?;
    if let Some(origin) = request.headers().get_all(ORIGIN).iter().find(|origin| !is_of_the_mesh(origin)) {
        return Err(Refused::Origin(escaped(&String::from_utf8_lossy(origin.as_bytes()), 80)));
    }
    // What the client put into `Host` does not count (RFC 9112, 3.2.2).
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Refused::NotToAProxy)?;
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = path.into();
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    strip(headers);
    // Written anew from the body that comes.
    headers.remove(CONTENT_LENGTH);
    headers.insert(HOST, host);
    headers.append(VIA, HeaderValue::from_static("1.1 p2p-agent"));
    Ok(target)
}

/// Makes of a target's answer the one that the application gets.
pub(super) fn to_application<B>(method: &Method, response: &mut Response<B>) {
    let is_chunked = response.headers().contains_key(TRANSFER_ENCODING);
    strip(response.headers_mut());
    // A length without a body tells how long one would be; otherwise it is written anew from the body that comes, so that a target cannot
    // say one thing and send another to an application that goes on to talk with others by the same connection.
    let tells_length = method == Method::HEAD || response.status() == StatusCode::NOT_MODIFIED;
    if is_chunked || !tells_length {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    *response.version_mut() = Version::HTTP_11;
    response.headers_mut().append(VIA, HeaderValue::from_static("1.1 p2p-agent"));
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_str(name.trim()).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn named(authority: &Authority) -> Result<&str, Refused> {
    let text = authority.as_str();
    if text.contains('@') { Err(Refused::UserInfo) } else { Ok(text) }
}

fn http_target(authority: &Authority) -> Result<Target, Refused> {
    let text = named(authority)?;
    // A colon between brackets belongs to an IPv6 address.
    let has_port = text.rsplit(']').next().is_some_and(|end| end.contains(':'));
    if has_port { Ok(text.parse()?) } else { Ok(format!("{text}:{PORT}").parse()?) }
}

/// `null`, which hides whose page it is, is not.
fn is_of_the_mesh(origin: &HeaderValue) -> bool {
    let uri = origin.to_str().ok().and_then(|origin| Uri::from_str(origin).ok());
    let authority = uri.as_ref().filter(|uri| uri.scheme().is_some()).and_then(Uri::authority);
    authority.is_some_and(|authority| !authority.as_str().contains('@') && Node::from_str(authority.host()).is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Result<(Target, Request<()>), Refused> {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(()).unwrap();
        to_origin(&mut request).map(|target| (target, request))
    }

    #[test]
    fn the_url_says_where_a_request_goes_and_what_its_host_is() {
        let (target, sent) = request("GET", "http://node-7/a?b=c", &[("host", "evil.example")]).unwrap();
        assert_eq!(target.to_string(), "node-7:80");
        assert_eq!(
            (sent.uri().to_string().as_str(), &sent.headers()[HOST]),
            ("/a?b=c", &HeaderValue::from_static("node-7"))
        );
        let (target, sent) = request("GET", "http://10.0.1.3:8080", &[("host", "a"), ("host", "b")]).unwrap();
        assert_eq!(target.to_string(), "10.0.1.3:8080");
        assert_eq!(
            (sent.uri().to_string().as_str(), &sent.headers()[HOST]),
            ("/", &HeaderValue::from_static("10.0.1.3:8080"))
        );
        assert_eq!(sent.headers().get_all(HOST).iter().count(), 1);
    }

    #[test]
    fn what_belongs_to_one_connection_stays_there() {
        let headers = [
            ("connection", "close, x-a"),
            ("connection", "X-B"),
            ("x-a", "1"),
            ("x-b", "2"),
            ("x-c", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic c2VjcmV0"),
            ("te", "trailers"),
            ("trailer", "x-d"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("upgrade", "websocket"),
            ("authorization", "Bearer of the application"),
        ];
        let (_, sent) = request("POST", "http://node-7/", &headers).unwrap();
        let mut names: Vec<&str> = sent.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "host", "via", "x-c"]);
    }

    #[test]
    fn other_forms_and_places_are_refused() {
        for (uri, status) in [
            ("/", 400),
            ("https://node-7/", 400),
            ("ftp://node-7/", 400),
            ("http://user:password@node-7/", 400),
            ("http://node-7:0/", 400),
            ("http://example.com/", 404),
            ("http://[::1]/", 404),
            ("http://127.0.0.1.example/", 404),
        ] {
            assert_eq!(request("GET", uri, &[]).unwrap_err().status().as_u16(), status, "{uri}");
        }
        let connect = |text: &str| connect_target(&Uri::try_from(text).unwrap()).map(|target| target.to_string());
        assert_eq!(connect("node-7:443").as_deref(), Ok("node-7:443"));
        assert_eq!(connect("node-7").unwrap_err().status(), StatusCode::BAD_REQUEST);
        assert_eq!(connect("a@node-7:443").unwrap_err(), Refused::UserInfo);
        assert_eq!(connect("example.com:443").unwrap_err().status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn pages_from_outside_of_the_mesh_are_refused() {
        let from = |origin| request("GET", "http://node-7/", &[("origin", origin)]).map(|_| ());
        assert_eq!(
            [from("http://node-8"), from("http://node-8:3000"), from("https://10.0.1.3")],
            [const { Ok(()) }; 3]
        );
        for origin in
            ["https://evil.example", "null", "", "node-8", "http://node-8@evil.example", "http://node-8.evil.example"]
        {
            assert_eq!(from(origin), Err(Refused::Origin(origin.to_owned())), "{origin}");
        }
        let both = [("origin", "http://node-8"), ("origin", "https://evil.example")];
        assert!(request("GET", "http://node-7/", &both).is_err());
    }

    #[test]
    fn an_answer_has_the_length_of_its_body_and_no_other() {
        let answer = |method: Method, status: u16, headers: &[(&'static str, &'static str)]| {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(*name, *value);
            }
            let mut response = response.body(()).unwrap();
            to_application(&method, &mut response);
            response.headers().get(CONTENT_LENGTH).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(answer(Method::GET, 200, &[("content-length", "5")]), None);
        assert_eq!(answer(Method::HEAD, 200, &[("content-length", "5")]).as_deref(), Some("5"));
        assert_eq!(answer(Method::GET, 304, &[("content-length", "5")]).as_deref(), Some("5"));
        assert_eq!(answer(Method::HEAD, 200, &[("content-length", "5"), ("transfer-encoding", "chunked")]), None);
    }

    proptest! {
        #[test]
        fn no_url_leads_out_of_the_mesh(url in "(http://)?[a-z0-9.@:\\[\\]-]{0,20}(/\\PC{0,8})?", origin in "\\PC{0,20}") {
            let built = Request::builder().uri(url).header(ORIGIN, origin).body(());
            if let Ok(mut request) = built && let Ok(target) = to_origin(&mut request) {
                let host = request.headers()[HOST].to_str().unwrap().to_owned();
                let with_port = format!("{host}:80");
                prop_assert!([host, with_port].iter().any(|host| host.parse() == Ok(target)));
                prop_assert!(request.uri().authority().is_none());
            }
        }
    }
}
