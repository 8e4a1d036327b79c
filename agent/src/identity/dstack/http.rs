//! One HTTP/1.1 exchange. Written by hand because the answer may be a private key: it lives in one buffer, which is wiped.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};
use zeroize::Zeroizing;

use super::find::Endpoint;

/// The longest answer that is read, bytes; `Info` with a long event log is about 100 kB.
const MAX_ANSWER: usize = 4 << 20;
/// Room that fits every `GetKey` answer.
const FIRST_BUFFER: usize = 16 << 10;

/// Status and body.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Zeroizing<Vec<u8>>,
}

/// `method` behind the endpoint's own path.
pub(super) async fn post(endpoint: &Endpoint, method: &str, body: &str) -> io::Result<Answer> {
    match endpoint {
        Endpoint::Unix(path) => exchange(UnixStream::connect(path).await?, "dstack", &format!("/{method}"), body).await,
        Endpoint::Http { authority, prefix } => {
            exchange(TcpStream::connect(authority).await?, authority, &format!("{prefix}/{method}"), body).await
        }
    }
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    host: &str,
    path: &str,
    body: &str,
) -> io::Result<Answer> {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut raw = Zeroizing::new(Vec::with_capacity(FIRST_BUFFER));
    loop {
        if let Some(answer) = parse(&raw, false)? {
            return Ok(answer);
        }
        if raw.len() > MAX_ANSWER {
            return Err(bad("the answer is longer than 4 MiB"));
        }
        if raw.len() == raw.capacity() {
            raw = moved(&raw);
        }
        if stream.read_buf(&mut *raw).await? == 0 {
            return parse(&raw, true)?.ok_or_else(|| bad("the connection ended in the middle of the answer"));
        }
    }
}

/// A buffer of twice the size. Growing the vector in place would leave a copy behind, which may hold a key.
fn moved(raw: &Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    let mut larger = Zeroizing::new(Vec::with_capacity(2 * raw.capacity()));
    larger.extend_from_slice(raw);
    larger
}

/// The answer in `raw`, once it is whole; `ended` says that no more will come.
fn parse(raw: &[u8], ended: bool) -> io::Result<Option<Answer>> {
    let Some(end) = raw.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&raw[..end]).map_err(|_| bad("the header is not text"))?;
    let body = &raw[end + 4..];
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    let status: u16 = status.ok_or_else(|| bad("this is not HTTP/1.1"))?;
    let header = |name: &str| {
        head.split("\r\n")
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then(|| value.trim()))
    };
    if header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return Ok(dechunk(body)?.map(|body| Answer { status, body }));
    }
    let body = match header("content-length") {
        Some(length) => {
            let length: usize = length.parse().map_err(|_| bad("Content-Length is not a number"))?;
            if length > MAX_ANSWER {
                return Err(bad("the answer is longer than 4 MiB"));
            }
            body.get(..length)
        }
        None => ended.then_some(body),
    };
    Ok(body.map(|body| Answer { status, body: Zeroizing::new(body.to_vec()) }))
}

/// The body behind `Transfer-Encoding: chunked`, once it is whole.
fn dechunk(mut rest: &[u8]) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut body = Zeroizing::new(Vec::with_capacity(rest.len()));
    loop {
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&rest[..end]).ok().and_then(|line| line.split(';').next());
        let size = size.and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
        let size = size.filter(|size| *size <= MAX_ANSWER).ok_or_else(|| bad("a chunk without a proper size"))?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Ok(Some(body));
        }
        let (Some(chunk), Some(after)) = (rest.get(..size), rest.get(size + 2..)) else { return Ok(None) };
        body.extend_from_slice(chunk);
        rest = after;
    }
}

fn bad(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(raw: &[u8]) -> (u16, String) {
        let answer = parse(raw, true).unwrap().unwrap();
        (answer.status, String::from_utf8(answer.body.to_vec()).unwrap())
    }

    #[test]
    fn answers_end_where_they_say() {
        assert_eq!(whole(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}extra"), (200, "{}".into()));
        assert_eq!(whole(b"HTTP/1.1 400 Bad Request\r\nX: y\r\n\r\n{\"error\":1}"), (400, "{\"error\":1}".into()));
        assert_eq!(
            whole(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"),
            (200, "abcde".into())
        );
    }

    #[test]
    fn parts_of_an_answer_are_not_answers() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        for end in 0..answer.len() {
            assert!(parse(&answer[..end], false).unwrap().is_none(), "{end}");
        }
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        for end in 0..chunked.len() - 2 {
            assert!(parse(&chunked[..end], true).unwrap().is_none(), "{end}");
        }
    }

    #[test]
    fn an_invalid_response_is_an_error_not_a_panic() {
        for raw in [
            &b"SSH-2.0-OpenSSH\r\n\r\n"[..],
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 2xx OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"\xff\xfe\r\n\r\n",
        ] {
            assert!(parse(raw, true).is_err(), "{raw:?}");
        }
    }
}
