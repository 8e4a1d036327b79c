//! What the guest agent vouches for: all of an identity but the member key, which this node draws itself. Asking for it changes nothing,
//! here or elsewhere.

use mesh_core::{
    development::published_key,
    gateway_access::GatewayAccess,
    id::{Address, AppId, B256, InstanceId},
    key_claim::GuestApi,
};

use super::{
    Expected, IdentityError, MemberKeySource, PSK_PATH, PSK_PURPOSE,
    dstack::GuestAgent,
    node_key::{self, NodeKey, Outlook},
    psk::PskRoot,
};

/// `Info.cloud_vendor` of the simulator.
const SIMULATED: &str = "SIMULATED";

/// What the guest agent says of this node, checked. Secrets in it cannot be printed.
#[derive(Debug)]
pub struct Attested {
    /// This CVM.
    pub instance: InstanceId,
    /// Its app.
    pub app_id: AppId,
    /// SHA-256 of its app-compose.json.
    pub compose_hash: Option<B256>,
    /// The guest agent is a simulator: it says so, or its keys are published.
    pub simulated: bool,
    /// What its app-compose.json says of the gateway, where the guest agent shows it.
    pub gateway_access: Option<GatewayAccess>,
    /// The guest API that is used for everything but keys.
    pub guest_api: GuestApi,
    /// KMS root the own key chain recovers to.
    pub kms_root: Address,
    pub(super) psk_root: PskRoot,
    pub(super) node_key: NodeKey,
    /// Of guest API v1, for a new node.
    pub(super) candidate: Option<NodeKey>,
    /// Why the node key is of this guest API, or what decides.
    pub outlook: Outlook,
}

impl Attested {
    /// Asks for it, as a node with this member key. Both the agent's start and `p2p-agent check` begin so.
    ///
    /// # Errors
    /// See [`IdentityError`].
    pub async fn ask(
        agent: &GuestAgent,
        expected: Expected,
        member: MemberKeySource<'_>,
    ) -> Result<Self, IdentityError> {
        let info = agent.info().await?;
        let instance: InstanceId = info.instance_id.parse().map_err(|_| IdentityError::Info {
            field: "instance_id",
            found: format!("`{}`", info.instance_id),
            hint: "a mesh node needs an instance id of 40 hex digits; an app deployed with `no_instance_id` has none",
        })?;
        let app_id: AppId = info.app_id.parse().map_err(|_| IdentityError::Info {
            field: "app_id",
            found: format!("`{}`", info.app_id),
            hint: "expected 40 hex digits; is this the dstack guest agent?",
        })?;
        if let Some(expected) = expected.instance.filter(|expected| *expected != instance) {
            return Err(IdentityError::OtherInstance { expected, found: instance });
        }
        let outlook = Outlook::of(member)?;
        let (node_key, candidate) = node_key::ask(agent, outlook, member, (app_id, instance)).await?;
        if let Some(expected) = expected.kms_root.filter(|expected| *expected != node_key.kms_root) {
            return Err(IdentityError::OtherRoot { expected, found: node_key.kms_root });
        }
        let psk = agent.get_key(PSK_PATH, PSK_PURPOSE).await?;
        Ok(Self {
            instance,
            app_id,
            compose_hash: info.compose_hash.parse().ok().filter(|hash: &B256| !hash.is_zero()),
            simulated: is_simulated(&info.cloud_vendor, node_key.keys()),
            guest_api: agent.api(),
            gateway_access: info.gateway_access(),
            kms_root: node_key.kms_root,
            psk_root: PskRoot::new(psk.secret().clone()),
            node_key,
            candidate,
            outlook,
        })
    }

    /// This is a new node, and its guest agent has a node key of v1 for it: the contract says which it is to be.
    #[must_use]
    pub const fn is_undecided(&self) -> bool {
        self.candidate.is_some()
    }

    /// The guest API of the node key that this node registers with, where the contract takes v1 or not.
    #[must_use]
    pub fn node_key_api(&self, contract_takes_v1: bool) -> GuestApi {
        self.candidate.as_ref().filter(|_| contract_takes_v1).unwrap_or(&self.node_key).api
    }
}

/// A guest agent whose KMS root, app key or node key is published is a simulator, whatever it calls itself: dstack's own one reports the
/// vendor of the machine that it runs on (`sys_vendor` of DMI).
fn is_simulated(vendor: &str, keys: [Address; 3]) -> bool {
    vendor == SIMULATED || keys.into_iter().any(|key| published_key(key).is_some())
}

#[cfg(test)]
mod tests {
    use k256::ecdsa::SigningKey;
    use mesh_core::{key_claim::KeyClaim, proof::recover_own_chain};
    use serde_json::Value;

    use super::*;

    const CHAINS: &str = include_str!("../../../contracts/test/vectors/chains.json");

    /// dstack's own simulator reports what the machine is called, not what it is itself.
    #[test]
    fn published_keys_are_a_simulators_whatever_the_vendor() {
        let chains: Value = serde_json::from_str(CHAINS).unwrap();
        for name in ["fixtureA", "fixtureB"] {
            let bytes = |field: &str| hex::decode(&chains[name][field].as_str().unwrap()[2..]).unwrap();
            let own = |node_key: &[u8]| {
                let node_key = SigningKey::from_slice(node_key).unwrap().verifying_key().to_encoded_point(true);
                let [app_signature, kms_signature] =
                    ["appSignature", "kmsSignature"].map(|field| bytes(field).try_into().unwrap());
                let app_id = AppId(bytes("appId").try_into().unwrap());
                let node_key = node_key.as_bytes().try_into().unwrap();
                let claim = KeyClaim::V0 { purpose: "test" };
                let own = recover_own_chain(app_id, claim, node_key, &app_signature, &kms_signature).unwrap();
                [own.kms_root, Address::from_raw_public_key(&own.chain.app_key), own.node_address]
            };
            let published = own(&bytes("nodeKey"));
            // With a key that they do not vouch for, the signatures lead to keys that are published nowhere.
            let unknown = own(&[7; 32]);
            assert!(is_simulated("SIMULATED", unknown));
            for vendor in ["", "QEMU", "Dell Inc.", "simulated"] {
                assert!(is_simulated(vendor, published) && !is_simulated(vendor, unknown), "{name} on `{vendor}`");
                for key in 0..3 {
                    let mut keys = unknown;
                    keys[key] = published[key];
                    assert!(is_simulated(vendor, keys), "key {key} of {name} alone");
                }
            }
        }
    }
}
