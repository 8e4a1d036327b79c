//! Conversations over memory, on paused time.

use std::sync::Mutex;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    task::JoinHandle,
    time::Instant,
};

use super::*;

/// Members in memory: node-1 to node-9 accept, node-10 refuses, node-11 never answers, the rest are none.
#[derive(Debug, Default)]
struct Members {
    dialled: Mutex<Vec<(Target, DuplexStream)>>,
}

impl Dial for Arc<Members> {
    async fn dial(&self, target: &Target) -> Result<Stream, DialError> {
        match target.node {
            crate::Node::Token(token) if token.get() < 10 => {
                let (near, far) = duplex(1 << 10);
                self.dialled.lock().unwrap().push((*target, far));
                Ok(Box::new(near))
            }
            crate::Node::Token(token) if token.get() == 10 => Err(DialError::Refused(*target)),
            crate::Node::Token(token) if token.get() == 11 => std::future::pending().await,
            crate::Node::Token(_) | crate::Node::Address(_) => Err(DialError::NotMember(*target)),
        }
    }
}

struct Setup {
    application: DuplexStream,
    members: Arc<Members>,
    shared: Arc<Shared<Arc<Members>>>,
    task: JoinHandle<io::Result<()>>,
}

fn start(service: Service) -> Setup {
    let (application, proxy) = duplex(1 << 10);
    let members = Arc::<Members>::default();
    let shared = Arc::new(Shared { dial: Arc::clone(&members), limits: Limits::default(), counters: Arc::default() });
    let own = Arc::clone(&shared);
    let task = tokio::spawn(async move { converse(Box::new(proxy), service, &own).await });
    Setup { application, members, shared, task }
}

impl Setup {
    async fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.application.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    /// What comes until a line says `end`.
    async fn read_until(&mut self, end: &str) -> String {
        read_until(&mut self.application, end).await
    }

    async fn read_to_end(&mut self) -> String {
        let mut text = String::new();
        self.application.read_to_string(&mut text).await.unwrap();
        text
    }

    /// The member's end of the connection that was dialled for `target`.
    async fn member(&self, target: &str) -> DuplexStream {
        loop {
            if let Some((to, member)) = self.members.dialled.lock().unwrap().pop() {
                assert_eq!(to.to_string(), target);
                return member;
            }
            tokio::task::yield_now().await;
        }
    }

    fn refused(&self, refusal: Refusal) -> u64 {
        self.shared.counters.seen().refused[refusal as usize].1
    }
}

async fn read_until(stream: &mut DuplexStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        bytes.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(bytes).unwrap()
}

fn named(name: &str) -> Vec<u8> {
    let mut bytes = vec![5, 1, 0, 5, 1, 0, 3, u8::try_from(name.len()).unwrap()];
    bytes.extend(name.as_bytes());
    bytes.extend([0, 80]);
    bytes
}

/// Both ends have their say after the other has ended, and then the connection ends.
async fn half_close(mut application: DuplexStream, mut member: DuplexStream, task: JoinHandle<io::Result<()>>) {
    application.write_all(b"last question").await.unwrap();
    application.shutdown().await.unwrap();
    let mut asked = String::new();
    member.read_to_string(&mut asked).await.unwrap();
    assert_eq!(asked, "last question");
    // Hours later: a connection on which nothing is said is no fault.
    tokio::time::sleep(Duration::from_secs(10 * 3600)).await;
    member.write_all(b"answer").await.unwrap();
    member.shutdown().await.unwrap();
    let mut answered = String::new();
    application.read_to_string(&mut answered).await.unwrap();
    assert_eq!(answered, "answer");
    task.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn socks5_leads_to_a_member_with_what_came_behind_the_request() {
    let mut setup = start(Service::Proxy);
    setup.application.write_all(&[named("node-7").as_slice(), b"PING"].concat()).await.unwrap();
    assert_eq!(setup.read(12).await, [5, 0, 5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let mut member = setup.member("node-7:80").await;
    let mut early = [0; 4];
    member.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"PING");
    half_close(setup.application, member, setup.task).await;
}

#[tokio::test(start_paused = true)]
async fn socks5_says_why_there_is_no_connection() {
    for (name, reply, refusal) in [
        ("node-10", 5, Refusal::Refused),
        ("node-11", 4, Refusal::Unreachable),
        ("node-12", 2, Refusal::NotMember),
        ("example.com", 2, Refusal::NotMember),
    ] {
        let mut setup = start(Service::Proxy);
        setup.application.write_all(&named(name)).await.unwrap();
        assert_eq!(setup.read(12).await[2..4], [5, reply], "{name}");
        assert_eq!(setup.read_to_end().await, "");
        drop(setup.application.shutdown().await);
        setup.task.await.unwrap().unwrap();
        assert_eq!(setup.shared.counters.seen().refused[refusal as usize].1, 1, "{name}");
    }
    let mut setup = start(Service::Proxy);
    setup.application.write_all(&[5, 1, 2]).await.unwrap();
    assert_eq!(setup.read(2).await, [5, 0xff]);
    assert_eq!(setup.read_to_end().await, "");
}

#[tokio::test(start_paused = true)]
async fn a_head_has_ten_seconds() {
    for start_of_head in [b"".as_slice(), &[5], &[5, 1, 0], b"GET http://node-7/ HTTP/1.1\r\nHost: "] {
        let mut setup = start(Service::Proxy);
        setup.application.write_all(start_of_head).await.unwrap();
        let begun = Instant::now();
        let mut rest = Vec::new();
        setup.application.read_to_end(&mut rest).await.unwrap();
        assert!((Duration::from_secs(10)..Duration::from_secs(11)).contains(&begun.elapsed()), "{start_of_head:?}");
        assert!(setup.task.await.unwrap().is_err());
        assert_eq!(setup.shared.counters.seen().refused[Refusal::BadRequest as usize].1, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_forward_says_nothing_of_its_own() {
    let setup = start(Service::Forward("node-7:6379".parse().unwrap()));
    let mut setup = setup;
    let mut member = setup.member("node-7:6379").await;
    member.write_all(b"the server speaks first").await.unwrap();
    assert_eq!(setup.read(23).await, b"the server speaks first");
    half_close(setup.application, member, setup.task).await;

    let mut setup = start(Service::Forward("node-10:6379".parse().unwrap()));
    assert_eq!(setup.read_to_end().await, "");
    assert_eq!(setup.refused(Refusal::Refused), 1);
}

#[tokio::test(start_paused = true)]
async fn what_no_one_reads_is_not_taken() {
    let mut setup = start(Service::Forward("node-7:6379".parse().unwrap()));
    let _member = setup.member("node-7:6379").await;
    let flood = tokio::time::timeout(Duration::from_secs(60), setup.application.write_all(&[0; 1 << 20])).await;
    assert!(flood.is_err(), "a member that reads nothing took 1 MiB");
}

#[tokio::test(start_paused = true)]
async fn connect_opens_a_tunnel_with_what_came_behind_the_head() {
    let mut setup = start(Service::Proxy);
    setup.application.write_all(b"CONNECT node-7:443 HTTP/1.1\r\nHost: node-7:443\r\n\r\nhello").await.unwrap();
    let head = setup.read_until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.to_lowercase().contains("content-length"), "{head}");
    let mut member = setup.member("node-7:443").await;
    let mut early = [0; 5];
    member.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"hello");
    half_close(setup.application, member, setup.task).await;
}

#[tokio::test(start_paused = true)]
async fn http_says_why_there_is_no_connection() {
    for (line, status) in [
        ("CONNECT node-10:443", 502),
        ("CONNECT node-11:443", 504),
        ("CONNECT node-12:443", 404),
        ("CONNECT example.com:443", 404),
        ("GET http://node-10/", 502),
        ("GET http://node-12/", 404),
        ("GET /", 400),
        ("GET https://node-7/", 400),
    ] {
        let mut setup = start(Service::Proxy);
        setup
            .application
            .write_all(format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let answer = setup.read_to_end().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
        let (_, text) = answer.split_once("\r\n\r\n").unwrap();
        assert!(text.ends_with('\n') && text.lines().count() == 1, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_go_one_after_the_other_each_to_its_own_target() {
    let mut setup = start(Service::Proxy);
    let first =
        "POST http://node-7/a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nProxy-Connection: keep-alive\r\n\r\nabc";
    let second = "GET http://node-7/b HTTP/1.1\r\nHost: x\r\n\r\n";
    let third = "GET http://node-8:81/c HTTP/1.1\r\nHost: x\r\n\r\n";
    setup.application.write_all([first, second, third].concat().as_bytes()).await.unwrap();

    let mut seven = setup.member("node-7:80").await;
    let head = read_until(&mut seven, "\r\n\r\nabc").await;
    assert_eq!(head, "POST /a HTTP/1.1\r\nhost: node-7\r\nvia: 1.1 p2p-agent\r\ncontent-length: 3\r\n\r\nabc");
    seven.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await.unwrap();
    assert!(setup.read_until("2\r\nok\r\n0\r\n\r\n").await.starts_with("HTTP/1.1 200 OK\r\n"));

    // The same connection: no other was dialled.
    let head = read_until(&mut seven, "\r\n\r\n").await;
    assert!(head.starts_with("GET /b HTTP/1.1\r\nhost: node-7\r\n"), "{head}");
    assert!(setup.members.dialled.lock().unwrap().is_empty());
    seven.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert!(setup.read_until("\r\n\r\nok").await.contains("content-length: 2"));

    let mut eight = setup.member("node-8:81").await;
    assert!(read_until(&mut eight, "\r\n\r\n").await.starts_with("GET /c HTTP/1.1\r\nhost: node-8:81\r\n"));
    // It ends its answer by its end, and the application's connection goes on.
    eight.write_all(b"HTTP/1.0 200 OK\r\n\r\nall").await.unwrap();
    eight.shutdown().await.unwrap();
    setup.read_until("3\r\nall\r\n0\r\n\r\n").await;

    setup.application.write_all(b"GET http://node-8:81/d HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut again = setup.member("node-8:81").await;
    assert!(read_until(&mut again, "\r\n\r\n").await.starts_with("GET /d HTTP/1.1\r\n"));
    again.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert!(setup.read_until("\r\n\r\n").await.starts_with("HTTP/1.1 204 "));
}

#[tokio::test(start_paused = true)]
async fn a_message_is_understood_in_one_way() {
    // One framing goes on, and the connection ends after the answer.
    let mut setup = start(Service::Proxy);
    let request =
        "POST http://node-7/ HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let smuggled = "GET http://node-8/admin HTTP/1.1\r\nHost: x\r\n\r\n";
    setup.application.write_all([request, smuggled].concat().as_bytes()).await.unwrap();
    let mut member = setup.member("node-7:80").await;
    let head = read_until(&mut member, "0\r\n\r\n").await;
    assert!(head.contains("transfer-encoding: chunked") && !head.contains("content-length"), "{head}");
    member.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert!(setup.read_to_end().await.ends_with("\r\n\r\nok"));
    assert!(setup.members.dialled.lock().unwrap().is_empty(), "the smuggled request was dialled");

    for bad in [
        "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "Content-Length: +1\r\n\r\na",
        "Transfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n",
        "X: a\r\n b\r\n\r\n",
        "X : a\r\n\r\n",
    ] {
        let mut setup = start(Service::Proxy);
        setup
            .application
            .write_all(format!("POST http://node-7/ HTTP/1.1\r\nHost: x\r\n{bad}").as_bytes())
            .await
            .unwrap();
        let answer = setup.read_to_end().await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{bad:?}: {answer}");
        assert_eq!(setup.refused(Refusal::BadRequest), 1);
    }

    // A chunk that is none ends the request: its end never comes to the member.
    let mut setup = start(Service::Proxy);
    let request = "POST http://node-7/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nzz\r\n";
    setup.application.write_all(request.as_bytes()).await.unwrap();
    let mut member = setup.member("node-7:80").await;
    let mut sent = String::new();
    member.read_to_string(&mut sent).await.unwrap();
    assert!(!sent.contains("0\r\n\r\n"), "{sent}");
}

#[tokio::test(start_paused = true)]
async fn a_head_has_sixteen_kibibytes() {
    let setup = start(Service::Proxy);
    let long = format!("GET http://node-7/ HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(16 << 10));
    let (mut reader, mut writer) = tokio::io::split(setup.application);
    let write = tokio::spawn(async move { writer.write_all(long.as_bytes()).await });
    let mut answer = String::new();
    reader.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    drop(write.await.unwrap());
    assert!(setup.members.dialled.lock().unwrap().is_empty());
    setup.task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_member_that_speaks_no_http_is_a_bad_gateway() {
    let mut setup = start(Service::Proxy);
    setup.application.write_all(b"GET http://node-7/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut member = setup.member("node-7:80").await;
    member.write_all(b"-ERR unknown command\r\n\r\n").await.unwrap();
    assert!(setup.read_to_end().await.starts_with("HTTP/1.1 502 "));
    assert_eq!(setup.refused(Refusal::Unreachable), 1);
}
