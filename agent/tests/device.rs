#![expect(unsafe_code, reason = "unshare has no safe wrapper in the dependencies we have")]
//! The device as the agent holds it, on a real interface: made in a network namespace of the test's own, and so as root.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    io,
    num::NonZeroU8,
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use mesh_core::{id::WireguardKey, status::DroppedPackets};
use mesh_tunnel::DeviceOptions;
use p2p_agent::{
    device::tunnel::{PeerEdit, Tunnel as _, TunnelError, UserspaceTunnel},
    identity::keyfile::WireguardSecret,
};
use zeroize::Zeroizing;

const PORT: u16 = 51821;
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn a_device_that_has_ended_is_absent_and_can_be_made_again() {
    in_a_namespace(|| {
        let name = format!("pa{:x}", std::process::id());
        let secret = WireguardSecret::new(Zeroizing::new([7; 32])).unwrap();
        let mut tunnel = UserspaceTunnel::new(DeviceOptions::new(&name));
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
        let mut tunnel = UserspaceTunnel::new(DeviceOptions::new(&name));
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

/// What the operator decided about the device is what it is made with, and what it says of itself.
#[test]
fn a_device_is_made_as_was_decided_and_says_so() {
    in_a_namespace(|| {
        let name = format!("pc{:x}", std::process::id());
        let secret = WireguardSecret::new(Zeroizing::new([7; 32])).unwrap();
        let allowed = mesh_tunnel::Offloads { tun_uso: false, udp_gro: false, ..mesh_tunnel::Offloads::ALL };
        let threads = NonZeroU8::new(2).unwrap();
        let options = DeviceOptions { mtu: Some(1300), threads, offloads: allowed, ..DeviceOptions::new(&name) };
        let mut tunnel = UserspaceTunnel::new(options);
        tunnel.create(&secret, PORT).unwrap();
        let state = tunnel.state().unwrap().unwrap();
        let userspace = state.userspace.unwrap();
        assert_eq!((state.mtu, userspace.threads), (1300, threads));
        assert_eq!(userspace.offloads_allowed.each(), allowed.each());
        for ((name, allowed), (_, used)) in allowed.each().into_iter().zip(userspace.offloads.each()) {
            assert!(allowed || !used, "{name} is in use");
        }
        assert_eq!(userspace.dropped, DroppedPackets::default());
        tunnel.remove().unwrap();
    });
}

/// Runs `work` in a thread of its own namespace, where whatever it starts stays. One at a time: a program that another test starts
/// holds copies of this one's socket and interface from the moment it is forked until it is executed, and both would still be in
/// use when they should be free.
fn in_a_namespace(work: impl FnOnce() + Send) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
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
