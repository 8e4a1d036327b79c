//! Identities on dstack 0.5 and 0.6, from the simulator as either: which node key a node takes, and that it keeps it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::path::PathBuf;

use dstack_simulator::{GuestApi as Dstack, Layout, Settings, Simulator};
use mesh_core::{
    id::{Address, MemberKey, TokenId, WireguardKey},
    key_claim::GuestApi,
    proof::{Anchors, verify},
    registration::{Domain, NetworkType, Proof, Registration},
    registry::PeerRecord,
};
use p2p_agent::identity::{
    Expected, Identity, IdentityError, MemberKeySource,
    dstack::{GuestAgent, find},
};

/// The node key of domain `dstack-mesh/node` under the app key of seed 01…01 and app id 11…11, computed independently of this code.
const V1_NODE: &str = "0xffc7c881a5b0ad6f0214cd2e0802ca971a19c316";

/// The guest agents of one instance on both dstacks, which have the same app key, and a state directory.
struct Machine {
    dir: PathBuf,
    state_dir: PathBuf,
    simulators: [Simulator; 2],
}

impl Machine {
    async fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("p2p-agent-guest-api-{}-{name}", std::process::id()));
        // A test that was killed may have left one, and its process id is ours now.
        drop(std::fs::remove_dir_all(&dir));
        for part in ["0.5", "0.6", "state"] {
            std::fs::create_dir_all(dir.join(part)).unwrap();
        }
        let start = async |dstack: &str, guest_api| {
            let identity = dstack_simulator::Identity::seeded(&[1; 32], [0x11; 20]).unwrap();
            let settings = Settings { guest_api, ..Settings::default() };
            Simulator::start_with(identity, &Layout::Numbered(dir.join(dstack), 1), &settings).await.unwrap()
        };
        let simulators = [start("0.5", Dstack::Dstack05).await, start("0.6", Dstack::Dstack06).await];
        Self { state_dir: dir.join("state"), dir, simulators }
    }

    async fn agent(&self, dstack: Dstack) -> GuestAgent {
        let simulator = match dstack {
            Dstack::Dstack05 => &self.simulators[0],
            Dstack::Dstack06 => &self.simulators[1],
        };
        let path = simulator.instances()[0].dstack_sock.display().to_string();
        GuestAgent::detect(find(Some(&path)).unwrap()).await.unwrap()
    }

    /// As a start of the agent finds itself.
    async fn load(&self, dstack: Dstack) -> Result<Identity, IdentityError> {
        Identity::load(&self.agent(dstack).await, Expected::default(), self.disk()).await
    }

    fn disk(&self) -> MemberKeySource<'_> {
        let user = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
        MemberKeySource::Disk { state_dir: &self.state_dir, user }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

/// What `identity` registers is what agents believe.
fn must_be_believed(identity: &Identity) {
    let domain = Domain { chain_id: 7, contract: Address::repeat_byte(0xcc) };
    let registration = Registration {
        token: TokenId::new(3).unwrap(),
        instance: identity.instance,
        member_address: identity.member.address(),
        wireguard_key: WireguardKey([5; 32]),
        tls_key: None,
        key_epoch: 2,
        network_type: NetworkType::Wireguard,
        endpoint: None,
        gateway: None,
        deadline: 9,
    };
    let digest = registration.digest(&domain);
    let proof = Proof {
        registration,
        chain: identity.node_key().chain.clone(),
        node_signature: identity.sign(digest).unwrap(),
        member_signature: identity.member.sign(digest).unwrap(),
    };
    let record = PeerRecord::registered(&registration, &[], identity.kms_root, identity.app_id, 1);
    let anchors = Anchors { kms_roots: vec![identity.kms_root], app_ids: vec![identity.app_id] };
    verify(&record, &proof, &anchors, &domain).unwrap();
}

#[tokio::test]
async fn a_new_node_takes_v1_where_guest_agent_and_contract_have_it_and_keeps_it() {
    let machine = Machine::new("new").await;
    let mut identity = machine.load(Dstack::Dstack06).await.unwrap();
    assert!(identity.is_undecided() && identity.guest_api == GuestApi::V1);
    identity.decide(true, &machine.state_dir).unwrap();
    assert!(!identity.is_undecided());
    assert_eq!((identity.node_key().api, identity.node_address()), (GuestApi::V1, V1_NODE.parse().unwrap()));
    must_be_believed(&identity);

    let mut again = machine.load(Dstack::Dstack06).await.unwrap();
    assert_eq!((again.is_undecided(), again.node_address()), (false, identity.node_address()));
    assert_eq!(again.member.address(), identity.member.address());
    again.decide(false, &machine.state_dir).unwrap();
    assert_eq!(again.node_key().api, GuestApi::V1, "it was decided");
}

#[tokio::test]
async fn a_node_of_v0_stays_that_whatever_comes_later() {
    // The contract takes v0 alone.
    let machine = Machine::new("old-contract").await;
    let mut identity = machine.load(Dstack::Dstack06).await.unwrap();
    identity.decide(false, &machine.state_dir).unwrap();
    must_be_believed(&identity);
    // The guest agent has v0 alone.
    let before = Machine::new("old-guest").await;
    let first = before.load(Dstack::Dstack05).await.unwrap();
    assert!(!first.is_undecided() && first.guest_api == GuestApi::V0);
    // The agent was of a version that wrote no such file.
    let upgraded = Machine::new("old-agent").await;
    upgraded.load(Dstack::Dstack05).await.unwrap();
    std::fs::remove_file(upgraded.state_dir.join("node-key.api")).unwrap();

    for machine in [&machine, &before, &upgraded] {
        let mut later = machine.load(Dstack::Dstack06).await.unwrap();
        assert!(!later.is_undecided() && later.guest_api == GuestApi::V1);
        later.decide(true, &machine.state_dir).unwrap();
        assert_eq!((later.node_key().api, later.node_address()), (GuestApi::V0, first.node_address()));
    }
}

#[tokio::test]
async fn a_node_of_v1_does_not_start_as_another_on_dstack_0_5() {
    let machine = Machine::new("back").await;
    machine.load(Dstack::Dstack06).await.unwrap().decide(true, &machine.state_dir).unwrap();
    let error = machine.load(Dstack::Dstack05).await.unwrap_err();
    assert!(matches!(error, IdentityError::NoGuestV1 { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("node-key.api") && text.contains("hint:"), "{text}");
}

/// Without a disk there is nothing to keep a decision, and derived keys are of v0 in any case.
#[tokio::test]
async fn a_node_without_a_disk_is_of_v0() {
    let machine = Machine::new("diskless").await;
    let load = async |dstack| {
        let agent = machine.agent(dstack).await;
        Identity::load(&agent, Expected::default(), MemberKeySource::GuestAgent).await.unwrap()
    };
    let (one, other) = (load(Dstack::Dstack05).await, load(Dstack::Dstack06).await);
    assert!(!other.is_undecided());
    assert_eq!(one.node_address(), other.node_address());
    assert_eq!(one.member.address(), other.member.address());
}

#[tokio::test]
async fn members_on_both_dstacks_derive_the_same_preshared_key() {
    let (old, new) = (Machine::new("psk-old").await, Machine::new("psk-new").await);
    let one = old.load(Dstack::Dstack05).await.unwrap();
    let mut other = new.load(Dstack::Dstack06).await.unwrap();
    other.decide(true, &new.state_dir).unwrap();
    let domain = Domain { chain_id: 1, contract: Address::ZERO };
    let public =
        |identity: &Identity| MemberKey(identity.member.public_key().to_sec1_bytes().as_ref().try_into().unwrap());
    let key = |own: &Identity, peer: &Identity| {
        let (ours, theirs) = (WireguardKey([1; 32]), WireguardKey([2; 32]));
        *own.psk_root.derive(&own.member, &public(peer), &domain, ours, theirs).unwrap().secret().bytes()
    };
    assert_eq!(key(&one, &other), key(&other, &one));
}

#[tokio::test]
async fn either_guest_agent_gives_a_certificate() {
    let machine = Machine::new("certificate").await;
    for dstack in [Dstack::Dstack05, Dstack::Dstack06] {
        let agent = machine.agent(dstack).await;
        let given = agent.get_tls_key("node.example").await.unwrap();
        assert!(given.secret().contains("PRIVATE KEY") && !given.certificate_chain.is_empty(), "{dstack:?}");
    }
}
