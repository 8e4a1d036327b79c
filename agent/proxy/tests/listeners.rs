//! Real sockets: loopback ports and socket files.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use mesh_proxy::{
    BindError, Counters, Dial, DialError, Limits, Listener, ProxyListen, Refusal, SocketMode, Stream, Target, serve,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    sync::oneshot,
};

/// Every target says back what it is told.
struct Echo;

impl Dial for Echo {
    async fn dial(&self, _target: &Target) -> Result<Stream, DialError> {
        let (near, far) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(far);
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
            let _ = writer.shutdown().await;
        });
        Ok(Box::new(near))
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mesh-proxy-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn listen(&self) -> ProxyListen {
        format!("unix:{}", self.socket().display()).parse().unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.0.join("proxy.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_port_serves_as_many_as_may_be_and_ends_with_the_proxy() {
    let listener = Listener::proxy(&"127.0.0.1:0".parse().unwrap(), SocketMode::Owner).unwrap();
    let address = listener.local_address().unwrap();
    let (counters, (stop, stopped)) = (Arc::<Counters>::default(), oneshot::channel());
    let limits = Limits { connections: 1, ..Limits::default() };
    let shutdown = async move { drop(stopped.await) };
    let serving = tokio::spawn(serve(vec![listener], Echo, limits, Arc::clone(&counters), shutdown));

    let mut first = TcpStream::connect(address).await.unwrap();
    first.write_all(b"CONNECT node-7:80 HTTP/1.1\r\nHost: node-7\r\n\r\nhello").await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"hello") {
        heard.push(first.read_u8().await.unwrap());
    }
    assert_eq!(
        TcpStream::connect(address).await.unwrap().read_u8().await.unwrap_err().kind(),
        io::ErrorKind::UnexpectedEof
    );
    let seen = counters.seen();
    assert_eq!((seen.open, seen.accepted, seen.refused[Refusal::TooMany as usize].1), (1, 2, 1));

    stop.send(()).unwrap();
    serving.await.unwrap();
    assert_eq!(first.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert_eq!(counters.seen().open, 0);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_socket_file_is_its_owners_and_goes_with_the_proxy() {
    let folder = Folder::new("owner");
    for (socket_mode, expected) in [(SocketMode::Owner, 0o600), (SocketMode::Group, 0o660)] {
        let forward = format!("{}=node-7:80", folder.listen()).parse().unwrap();
        let listener = Listener::forward(&forward, socket_mode).unwrap();
        assert_eq!(mode(&folder.socket()), expected);
        let serving =
            tokio::spawn(serve(vec![listener], Echo, Limits::default(), Arc::default(), std::future::pending()));
        let mut stream = UnixStream::connect(folder.socket()).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "hello");
        serving.abort();
        assert!(serving.await.unwrap_err().is_cancelled());
        assert!(!folder.socket().exists());
    }
}

#[tokio::test]
async fn only_what_a_dead_program_left_is_replaced() {
    let folder = Folder::new("stale");
    drop(std::os::unix::net::UnixListener::bind(folder.socket()).unwrap());
    let alive = Listener::proxy(&folder.listen(), SocketMode::Owner).unwrap();
    assert!(matches!(Listener::proxy(&folder.listen(), SocketMode::Owner), Err(BindError::Busy { .. })));
    // A file that another program put in its place is not its to remove.
    fs::remove_file(folder.socket()).unwrap();
    fs::write(folder.socket(), "").unwrap();
    drop(alive);
    assert!(folder.socket().exists());
    assert!(matches!(Listener::proxy(&folder.listen(), SocketMode::Owner), Err(BindError::NotASocket { .. })));
}
