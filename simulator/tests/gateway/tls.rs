//! TLS from end to end: the certificate that the client checks is the instance's own, from its guest agent.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use dstack_simulator::gateway::Limits;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

use super::harness::Running;
use super::world::{DEADLINE, World, id};

fn bounded(stream: std::io::Result<TcpStream>) -> TcpStream {
    let stream = stream.unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn the_instance_ends_the_tls_that_its_client_began() {
    let (world, [listener]) = World::start::<1>(Limits::default()).await;
    let name = world.name(id(1));
    let guest = Running::seeded(1, &[]).await;
    let issued = guest.call("GetTlsKey", &json!({"subject": name, "alt_names": [name], "usage_server_auth": true}));
    let pem = |value: &serde_json::Value| value.as_str().unwrap().as_bytes().to_vec();
    let certificate = |at: usize| CertificateDer::from_pem_slice(&pem(&issued["certificate_chain"][at])).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&pem(&issued["key"])).unwrap();
    let server = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate(0)], key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate(1)).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();

    let wanted = name.clone();
    let listener = listener.into_std().unwrap();
    listener.set_nonblocking(false).unwrap();
    let instance = tokio::task::spawn_blocking(move || {
        let stream = bounded(listener.accept().map(|(stream, _)| stream));
        let mut tls = StreamOwned::new(ServerConnection::new(Arc::new(server)).unwrap(), stream);
        let mut request = [0; 5];
        tls.read_exact(&mut request).unwrap();
        assert_eq!(tls.conn.server_name(), Some(wanted.as_str()));
        tls.write_all(&request.map(|byte| byte.to_ascii_uppercase())).unwrap();
        tls.conn.send_close_notify();
        tls.flush().unwrap();
    });
    let address = world.gateway.address();
    let answered = tokio::task::spawn_blocking(move || {
        let connection = ClientConnection::new(Arc::new(client), name.try_into().unwrap()).unwrap();
        let mut tls = StreamOwned::new(connection, bounded(TcpStream::connect(address)));
        tls.write_all(b"hello").unwrap();
        let mut answer = String::new();
        tls.read_to_string(&mut answer).unwrap();
        answer
    });
    assert_eq!(answered.await.unwrap(), "HELLO");
    instance.await.unwrap();
}
