//! dstack's gateway, as far as a front can tell: it reads the server name of a connection, and passes every byte on unopened, to the port
//! in the name.

use std::{io::Cursor, net::SocketAddr};

use rustls::server::Acceptor;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};

/// Starts one, for as long as the test runs.
pub(crate) fn gateway() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            tokio::spawn(pass(near));
        }
    });
    address
}

async fn pass(mut near: TcpStream) {
    let mut hello = Vec::new();
    let Some(port) = read_port(&mut near, &mut hello).await else { return };
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    if far.write_all(&hello).await.is_ok() {
        // It ends when either end does.
        drop(copy_bidirectional(&mut near, &mut far).await);
    }
}

/// The port in `<instance>-<port>s.<domain>`.
async fn read_port(near: &mut TcpStream, hello: &mut Vec<u8>) -> Option<u16> {
    loop {
        if near.read_buf(hello).await.ok()? == 0 {
            return None;
        }
        assert!(hello.len() <= 4096, "the gateway looks for the name in 4,096 bytes");
        let mut acceptor = Acceptor::default();
        acceptor.read_tls(&mut Cursor::new(&hello)).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let label = hello.server_name()?.split('.').next()?;
            return label.split_once('-')?.1.strip_suffix('s')?.parse().ok();
        }
    }
}
