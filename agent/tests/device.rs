#![expect(unsafe_code, reason = "unshare has no safe wrapper in the dependencies we have")]
//! The device as the agent holds it, on a real interface: made in a network namespace of the test's own, and so as root.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    io,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use mesh_core::id::WireguardKey;
use p2p_agent::{
    keyfile::WireguardSecret,
    tunnel::{PeerEdit, Tunnel as _, TunnelError, UserspaceTunnel},
};
use zeroize::Zeroizing;

const PORT: u16 = 51821;
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_device_that_has_ended_is_absent_and_can_be_made_again() {
    in_a_namespace(|| {
        let name = format!("pa{:x}", std::process::id());
        let secret = WireguardSecret::new(Zeroizing::new([7; 32])).unwrap();
        let mut tunnel = UserspaceTunnel::new(name.clone());
        assert_eq!(tunnel.state().unwrap(), None);
        tunnel.create(&secret, PORT).unwrap();
        tunnel.set_peer(&peer()).unwrap();
        let state = tunnel.state().unwrap().unwrap();
        assert_eq!((state.public_key, state.listen_port, state.peers.len()), (Some(secret.public_key()), PORT, 1));

        assert!(ip(&["link", "del", &name]));
        let deadline = Instant::now() + PATIENCE;
        while tunnel.state().unwrap().is_some() {
            assert!(Instant::now() < deadline, "it is still shown as if it were there");
            thread::sleep(Duration::from_millis(10));
        }
        assert!(matches!(tunnel.set_peer(&peer()), Err(TunnelError::NoDevice)));
        let uapi = Path::new("/var/run/wireguard").join(format!("{name}.sock"));
        assert!(!uapi.exists(), "its UAPI socket is left");

        tunnel.create(&secret, PORT).unwrap();
        let state = tunnel.state().unwrap().unwrap();
        assert_eq!((state.public_key, state.listen_port, state.peers.len()), (Some(secret.public_key()), PORT, 0));
        tunnel.remove().unwrap();
        assert!(!ip(&["link", "show", &name]) && !uapi.exists());
    });
}

/// A change that comes while the device ends must not be taken for made.
#[test]
fn a_device_that_is_ending_takes_no_change() {
    in_a_namespace(|| {
        let name = format!("pb{:x}", std::process::id());
        let secret = WireguardSecret::new(Zeroizing::new([7; 32])).unwrap();
        let mut tunnel = UserspaceTunnel::new(name.clone());
        tunnel.create(&secret, PORT).unwrap();
        assert!(ip(&["link", "del", &name]));
        let deadline = Instant::now() + PATIENCE;
        while tunnel.set_peer(&peer()).is_ok() {
            assert!(Instant::now() < deadline, "changes are still taken");
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(tunnel.state().unwrap(), None);
    });
}

/// Runs `work` in a thread of its own namespace, where whatever it starts stays.
fn in_a_namespace(work: impl FnOnce() + Send) {
    let inside = || {
        // SAFETY: takes no pointer, and moves this thread alone.
        let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        let error = io::Error::last_os_error();
        assert_eq!(moved, 0, "cannot make a network namespace: {error}\nhint: run this test as root");
        work();
    };
    thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// As an operator would; whether it worked.
fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).output().unwrap().status.success()
}

fn peer() -> PeerEdit {
    PeerEdit {
        public_key: WireguardKey([9; 32]),
        update_only: false,
        endpoint: None,
        address: Some([10, 0, 1, 9].into()),
        preshared_key: None,
        persistent_keepalive: Some(25),
    }
}
