//! The guest agent client against the real simulator: identities that work, and faults that end with a clear error.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{path::PathBuf, time::Duration};

use dstack_simulator::{Layout, Simulator};
use mesh_core::id::{Address, MemberKey};
use p2p_agent::identity::{
    Expected, Identity, IdentityError, MemberKeySource, derived_wireguard_key,
    dstack::{Endpoint, GuestAgent, GuestAgentError, find},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A simulator with one instance and one fault, in a directory of its own.
struct Guest {
    dir: PathBuf,
    state_dirs: [PathBuf; 2],
    simulator: Simulator,
}

impl Guest {
    async fn new(name: &str, fault: Option<&str>) -> Self {
        let dir = std::env::temp_dir().join(format!("p2p-agent-guest-{}-{name}", std::process::id()));
        // A test that was killed may have left one, and its process id is ours now.
        drop(std::fs::remove_dir_all(&dir));
        std::fs::create_dir(&dir).unwrap();
        let identity = dstack_simulator::Identity::seeded(&[1; 32], [0x11; 20]).unwrap();
        let faults: Vec<_> = fault.iter().map(|fault| fault.parse().unwrap()).collect();
        let simulator = Simulator::start(identity, &Layout::Numbered(dir.clone(), 2), &faults).await.unwrap();
        let state_dirs = [1, 2].map(|index| dir.join(format!("state{index}")));
        state_dirs.iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
        Self { dir, state_dirs, simulator }
    }

    fn agent(&self, index: usize) -> GuestAgent {
        let path = self.simulator.instances()[index].dstack_sock.display().to_string();
        GuestAgent::new(find(Some(&path)).unwrap())
    }

    /// The state directory of an instance.
    fn disk(&self, index: usize) -> MemberKeySource<'_> {
        MemberKeySource::Disk { state_dir: &self.state_dirs[index], user: user() }
    }

    async fn identity(&self) -> Result<Identity, IdentityError> {
        Identity::load(&self.agent(0), Expected::default(), self.disk(0)).await
    }
}

/// As whom this test runs.
fn user() -> u32 {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap())
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

/// The KMS root of the seed 01…01.
const ROOT: &str = "0x1a642f0E3c3aF545E7AcBD38b07251B3990914F1";

#[tokio::test]
async fn an_identity_is_what_the_simulator_announced() {
    let guest = Guest::new("good", None).await;
    let identity = guest.identity().await.unwrap();
    assert_eq!(identity.instance.to_string(), guest.simulator.instances()[0].instance_id);
    assert_eq!(identity.app_id.0, [0x11; 20]);
    assert_eq!(identity.kms_root, ROOT.parse::<Address>().unwrap());
    assert!(identity.simulated && identity.compose_hash.is_some());
    assert!(format!("{identity:?}").contains("psk_root: [redacted]"));
}

#[tokio::test]
async fn instances_share_the_psk_root_and_nothing_else() {
    let guest = Guest::new("two", None).await;
    let one = guest.identity().await.unwrap();
    let other = Identity::load(&guest.agent(1), Expected::default(), guest.disk(1)).await.unwrap();
    assert_ne!(one.node_address(), other.node_address());
    assert_eq!(one.kms_root, other.kms_root);
    let domain = mesh_core::registration::Domain { chain_id: 1, contract: Address::ZERO };
    let pair = (mesh_core::id::WireguardKey([1; 32]), mesh_core::id::WireguardKey([2; 32]));
    let member =
        |identity: &Identity| MemberKey(identity.member.public_key().to_sec1_bytes().as_ref().try_into().unwrap());
    let key = |own: &Identity, peer: &Identity| {
        *own.psk_root.derive(&own.member, &member(peer), &domain, pair.0, pair.1).unwrap().secret().bytes()
    };
    assert_eq!(key(&one, &other), key(&other, &one));
    assert_ne!(one.member.address(), other.member.address());
    assert_eq!(guest.identity().await.unwrap().member.address(), one.member.address(), "it is kept");
    let derived = derived_wireguard_key(&guest.agent(0), one.instance).await.unwrap();
    assert_eq!(derived.bytes(), derived_wireguard_key(&guest.agent(0), one.instance).await.unwrap().bytes());
    assert_ne!(derived.bytes(), derived_wireguard_key(&guest.agent(0), other.instance).await.unwrap().bytes());
}

/// For a node without a disk that lasts, and at a price: an instance's derived key is the same for every program that asks.
#[tokio::test]
async fn a_derived_member_key_is_the_same_after_a_restart() {
    let guest = Guest::new("derived", None).await;
    let load = async |index| {
        let agent = guest.agent(index);
        Identity::load(&agent, Expected::default(), MemberKeySource::GuestAgent).await.unwrap().member.address()
    };
    assert_eq!(load(0).await, load(0).await);
    assert_ne!(load(0).await, load(1).await);
    assert_ne!(load(0).await, guest.identity().await.unwrap().member.address());
}

#[tokio::test]
async fn what_the_operator_expects_is_checked() {
    let guest = Guest::new("expected", None).await;
    let agent = guest.agent(0);
    let expect = |expected| Identity::load(&agent, expected, guest.disk(0));
    let other_root = Expected { kms_root: Some(Address::repeat_byte(9)), ..Expected::default() };
    let error = expect(other_root).await.unwrap_err().to_string();
    assert!(error.contains(ROOT) && error.contains("hint:"), "{error}");
    let other_instance = Expected { instance: "00".repeat(20).parse().ok(), ..Expected::default() };
    assert!(matches!(expect(other_instance).await, Err(IdentityError::OtherInstance { .. })));
    let right = Expected { kms_root: ROOT.parse().ok(), ..Expected::default() };
    expect(right).await.unwrap();
}

#[tokio::test]
async fn faults_end_with_an_error_that_says_where() {
    let refuses = Guest::new("error400", Some("error400")).await;
    let error = refuses.identity().await.unwrap_err().to_string();
    assert!(error.contains("dstack.sock") && error.contains("refused Info"), "{error}");
    let no_kms = Guest::new("no-kms", Some("no-kms")).await;
    assert!(matches!(no_kms.identity().await, Err(IdentityError::NoKms)));
    let wrong = Guest::new("wrong-root", Some("wrong-root")).await;
    assert_ne!(wrong.identity().await.unwrap().kms_root, ROOT.parse::<Address>().unwrap());
}

/// By its name, and by its behaviour where a mount has given it another.
#[tokio::test]
async fn tappds_socket_is_called_that() {
    let guest = Guest::new("tappd", None).await;
    let instance = &guest.simulator.instances()[0];
    let renamed = guest.dir.join("renamed.sock");
    std::os::unix::fs::symlink(&instance.tappd_sock, &renamed).unwrap();
    for socket in [&instance.tappd_sock, &renamed] {
        let agent = GuestAgent::new(Endpoint::Unix(socket.clone()));
        let error = Identity::load(&agent, Expected::default(), guest.disk(0)).await.unwrap_err().to_string();
        assert!(error.contains(&format!("{} is tappd's socket", socket.display())), "{error}");
        assert!(error.contains("hint: mount and name /var/run/dstack.sock"), "{error}");
    }
    // Another server that has none of our methods is not called that.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authority = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            drop(stream.read(&mut [0; 4096]).await);
            drop(stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await);
        }
    });
    let other = GuestAgent::new(Endpoint::Http { authority, prefix: String::new() });
    let error = other.info().await.unwrap_err();
    assert!(matches!(&error, GuestAgentError::Refused { reason, .. } if reason == "HTTP status 404"), "{error}");
}

#[tokio::test]
async fn a_slow_guest_agent_is_given_up() {
    let slow = Guest::new("slow", Some("slow=600000")).await;
    tokio::time::pause();
    let started = tokio::time::Instant::now();
    let error = slow.identity().await.unwrap_err();
    assert!(matches!(error, IdentityError::GuestAgent(GuestAgentError::Timeout { .. })), "{error}");
    assert!(started.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn a_socket_without_a_listener_is_an_error_with_a_hint() {
    let error = GuestAgent::new(Endpoint::Unix("/nowhere/dstack.sock".into())).info().await.unwrap_err().to_string();
    assert!(error.contains("/nowhere/dstack.sock") && error.contains("hint:"), "{error}");
    let closed = Endpoint::Http { authority: "127.0.0.1:1".to_owned(), prefix: String::new() };
    assert!(matches!(GuestAgent::new(closed).info().await, Err(GuestAgentError::Transport { .. })));
}
