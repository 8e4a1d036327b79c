//! A cluster that `meshctl` has deployed to a chain of the test's own, and its operators.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_primitives::{Address, B256, Bytes, keccak256};
use alloy_sol_types::SolCall as _;
use k256::ecdsa::SigningKey;
use mesh_core::{
    id::{AppId, InstanceId, TokenId, WireguardKey},
    registration::{Domain, NODE_KEY_PURPOSE, NetworkType, Proof, Registration, SignatureChain, SignedGateway},
    status::RegistrationOffer,
};
use serde_json::{Value, json};

use crate::{
    anvil::{Anvil, KEY, OTHER, OTHER_KEY, OWNER},
    support::{Scratch, meshctl, outcome},
};

pub(crate) const INSTANCE: &str = "1111111111111111111111111111111111111111";
/// Private keys of the KMS root and the app of these tests.
pub(crate) const KMS: [u8; 32] = [1; 32];
pub(crate) const APP: [u8; 32] = [2; 32];

pub(crate) struct World {
    pub(crate) anvil: Anvil,
    pub(crate) scratch: Scratch,
    pub(crate) contract: String,
}

impl World {
    pub(crate) fn new() -> Self {
        let mut world = Self { anvil: Anvil::start(), scratch: Scratch::new(), contract: String::new() };
        let root = signer(KMS).address().to_string();
        let deployed = world.json(&["deploy", "--kms-root", &root, "--name", "test mesh"]);
        assert_eq!(deployed["chain_id"], 31337);
        world.contract = deployed["contract"].as_str().unwrap().to_owned();
        world
    }

    /// Runs as the contract's owner.
    pub(crate) fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        self.run_as(KEY, arguments)
    }

    /// Without being asked.
    pub(crate) fn run_as(&self, key: &str, arguments: &[&str]) -> (i32, String, String) {
        let mut command = self.command(key);
        let outcome = outcome(command.arg("--yes").args(arguments).output().unwrap());
        for text in [&outcome.1, &outcome.2] {
            assert!(!text.to_lowercase().contains(key), "the key is printed: {text}");
        }
        outcome
    }

    /// `meshctl` with this key and contract.
    pub(crate) fn command(&self, key: &str) -> std::process::Command {
        let mut command = meshctl();
        command.env("MESHCTL_PRIVATE_KEY_FILE", self.key_file(key)).env("P2P_RPC_URL", self.anvil.url());
        // Its accounts and its root are.
        command.env("P2P_DEVELOPMENT", "true");
        if !self.contract.is_empty() {
            command.env("P2P_CONTRACT", &self.contract);
        }
        command
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let (code, stdout, stderr) = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        serde_json::from_str(&stdout).unwrap()
    }

    /// Runs a command that must fail; what it says.
    pub(crate) fn refused(&self, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(arguments);
        assert_eq!((code, stdout.as_str()), (1, ""), "{arguments:?}: {stderr}");
        stderr
    }

    pub(crate) fn key_file(&self, key: &str) -> PathBuf {
        let path = self.scratch.path(&key[..8]);
        if !path.exists() {
            std::fs::write(&path, key).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        path
    }

    /// State of a token according to `meshctl nodes`.
    pub(crate) fn state(&self, token: u32) -> String {
        let cluster = self.json(&["nodes"]);
        let nodes = cluster["nodes"].as_array().unwrap();
        let node = nodes.iter().find(|node| node["token_id"] == token);
        node.map_or_else(|| "absent".to_owned(), |node| node["state"].as_str().unwrap().to_owned())
    }

    /// Tries a change, sends it, and returns what it says: the trial must show `function` and touch nothing.
    pub(crate) fn change(&self, function: &str, arguments: &[&str]) -> Value {
        self.change_as(KEY, function, arguments)
    }

    pub(crate) fn change_as(&self, key: &str, function: &str, arguments: &[&str]) -> Value {
        let before = self.height();
        let (code, tried, errors) = self.run_as(key, &[arguments, &["--json", "--dry-run"]].concat());
        assert_eq!(code, 0, "{arguments:?}: {errors}{tried}");
        let tried: Value = serde_json::from_str(&tried).unwrap();
        assert_eq!(tried["calls"][0]["function"], function, "{arguments:?}");
        assert_eq!(self.height(), before, "{arguments:?}: the dry run sent something");
        let (code, done, errors) = self.run_as(key, &[arguments, &["--json"]].concat());
        assert_eq!(code, 0, "{arguments:?}: {errors}");
        let done: Value = serde_json::from_str(&done).unwrap();
        assert!(done["transaction"].as_str().is_some_and(|hash| hash.len() == 66), "{done}");
        assert_ne!(self.height(), before, "{arguments:?}: nothing was sent");
        done
    }

    /// Both accounts' nonces, waiting transactions included, and the block number.
    pub(crate) fn height(&self) -> Vec<Value> {
        let nonce = |account: &str| self.anvil.rpc("eth_getTransactionCount", json!([account, "pending"]));
        vec![nonce(OWNER), nonce(OTHER), self.anvil.rpc("eth_blockNumber", json!([]))]
    }

    /// A change that the contract refuses to an account that is not its owner, tried and sent.
    pub(crate) fn denied(&self, arguments: &[&str]) {
        let before = self.height();
        let (code, _, errors) = self.run_as(OTHER_KEY, arguments);
        assert_eq!(code, 1, "{arguments:?}: {errors}");
        assert!(errors.contains("is not allowed to do this\nhint: send it from the contract owner's key"), "{errors}");
        let (code, tried, _) = self.run_as(OTHER_KEY, &[arguments, &["--dry-run"]].concat());
        assert_eq!(code, 1, "{arguments:?}: {tried}");
        assert!(tried.contains("would be refused: the contract refused: 0x70997970"), "{tried}");
        assert_eq!(self.height(), before, "{arguments:?} reached a block");
    }

    /// Mints the lowest free token for a node, and registers it. Minting spends a key epoch.
    pub(crate) fn join(&self, node: u8, gateway: Option<SignedGateway>) {
        let minted = self.json(&["mint", "--to", OWNER, "--instance", &hex::encode([node; 20])]);
        let token = u32::try_from(minted["token_id"].as_u64().unwrap()).unwrap();
        let (code, _, errors) = self.relay(&self.offer_of(node, token, 2, gateway));
        assert_eq!(code, 0, "{errors}");
    }

    /// What the agent of [`INSTANCE`] would offer for `token`.
    pub(crate) fn offer(&self, token: u32, key_epoch: u32) -> RegistrationOffer {
        self.offer_of(0x11, token, key_epoch, None)
    }

    /// What the agent of a node would offer: its keys and its instance id repeat one byte.
    pub(crate) fn offer_of(
        &self,
        node: u8,
        token: u32,
        key_epoch: u32,
        gateway: Option<SignedGateway>,
    ) -> RegistrationOffer {
        let endpoint = Some("203.0.113.7:51821".parse().unwrap());
        self.offer_at(node, token, key_epoch, (endpoint, gateway))
    }

    /// The same for a node that is reached there.
    pub(crate) fn offer_at(
        &self,
        node: u8,
        token: u32,
        key_epoch: u32,
        (endpoint, gateway): (Option<SocketAddr>, Option<SignedGateway>),
    ) -> RegistrationOffer {
        let domain = Domain { chain_id: 31337, contract: self.contract.parse().unwrap() };
        let registration = Registration {
            token: TokenId::new(token).unwrap(),
            instance: InstanceId([node; 20]),
            member_address: member(node).address(),
            wireguard_key: WireguardKey([token as u8; 32]),
            tls_key: None,
            key_epoch,
            network_type: NetworkType::Wireguard,
            endpoint,
            gateway,
            deadline: in_an_hour(),
        };
        let (member, node, app, kms) = (member(node), signer([node; 32]), signer(APP), signer(KMS));
        let app_id = AppId::from(domain.contract);
        let by_app = format!("{NODE_KEY_PURPOSE}:{}", hex::encode(compressed(&node)));
        let by_kms = [b"dstack-kms-issued:".as_slice(), &app_id.0, &compressed(&app)].concat();
        let chain = SignatureChain {
            node_key: coordinates(&node),
            app_key: coordinates(&app),
            app_signature: sign(&app, keccak256(by_app)),
            kms_signature: sign(&kms, keccak256(by_kms)),
            app_id,
        };
        let digest = registration.digest(&domain);
        let (node_signature, member_signature) = (sign(&node, digest), sign(&member, digest));
        let proof = Proof { registration, chain, node_signature, member_signature };
        RegistrationOffer {
            chain_id: domain.chain_id,
            contract: domain.contract,
            token_id: registration.token,
            key_epoch,
            deadline: registration.deadline,
            calldata: Bytes::from(mesh_contract::register_peer(&proof).abi_encode()).to_string(),
            method: "registerPeer".to_owned(),
        }
    }

    /// Relays an offer from a file.
    pub(crate) fn relay(&self, offer: &RegistrationOffer) -> (i32, String, String) {
        let path = self.scratch.path("offer.json");
        std::fs::write(&path, serde_json::to_vec(offer).unwrap()).unwrap();
        self.run(&["register", "--offer", path.to_str().unwrap()])
    }
}

/// In Unix seconds: the contract takes no deadline more than a day ahead.
pub(crate) fn in_an_hour() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3600
}

/// A key of the chain's curve.
pub(crate) struct Key(SigningKey);

impl Key {
    pub(crate) fn address(&self) -> Address {
        Address::from_private_key(&self.0)
    }

    pub(crate) fn hex(&self) -> String {
        hex::encode(self.0.to_bytes())
    }
}

/// The member key of a node, whose node key repeats the one byte: a sibling can derive that one, and not this.
pub(crate) fn member(node: u8) -> Key {
    signer([node ^ 0x80; 32])
}

pub(crate) fn signer(key: [u8; 32]) -> Key {
    Key(SigningKey::from_slice(&key).unwrap())
}

pub(crate) fn coordinates(signer: &Key) -> [u8; 64] {
    signer.0.verifying_key().to_encoded_point(false).as_bytes()[1..].try_into().unwrap()
}

pub(crate) fn compressed(signer: &Key) -> Vec<u8> {
    signer.0.verifying_key().to_encoded_point(true).as_bytes().to_vec()
}

pub(crate) fn sign(signer: &Key, digest: B256) -> [u8; 65] {
    mesh_chain::sign_digest(&signer.0, digest).unwrap().as_bytes()
}
