//! The errors of a cluster: what was refused, and what to do next.

use std::net::Ipv4Addr;

use mesh_core::id::{AppId, InstanceId, TlsKey, WireguardKey};

use super::foreign;
use crate::abi::DstackClusterNFT::DstackClusterNFTErrors as E;

/// Reason and hint. Text that the error carries stands in the reason alone, through [`foreign`].
#[expect(clippy::too_many_lines, reason = "one arm an error, each one sentence and its hint")]
pub(super) fn explain(error: &E) -> (String, String) {
    match error {
        // Tokens
        E::ERC721NonexistentToken(e) => (format!("token {} is not minted", e.tokenId), "see `meshctl nodes`".into()),
        E::NotTokenOwner(e) => {
            (format!("{} does not own token {}", e.caller, e.tokenId), "send it from the owner's key".into())
        }
        E::NetworkFull(e) => (
            format!("the mesh network is full: all {} token ids are minted", e.capacity),
            "burn an unused token first".into(),
        ),
        E::NodeRevoked(e) => (
            format!("token {} is revoked", e.tokenId),
            format!("the contract owner can lift that with `meshctl reinstate {}`", e.tokenId),
        ),
        E::NodeNotRevoked(e) => {
            (format!("token {} is not revoked", e.tokenId), "there is nothing to lift; see `meshctl nodes`".into())
        }
        E::NodeActive(e) => (
            format!("token {} is an active peer", e.tokenId),
            format!("deactivate it before binding it to another instance: `meshctl deactivate {}`", e.tokenId),
        ),
        E::NodeNotActive(e) => {
            (format!("token {} is not an active peer", e.tokenId), "register it first; see `meshctl nodes`".into())
        }
        E::NodeUnbound(e) => (
            format!("token {} is bound to no instance", e.tokenId),
            format!("its owner binds it with `meshctl bind {} --instance ID` or submits the registration", e.tokenId),
        ),
        // Registrations
        E::ZeroInstanceId(_) => {
            ("the instance id is zero".into(), "take it from the CVM's Info, or from `meshctl status` there".into())
        }
        E::InstanceMismatch(e) => (
            format!(
                "token {} is bound to instance {}, not to {}",
                e.tokenId,
                InstanceId(e.bound.0),
                InstanceId(e.given.0)
            ),
            format!("the token's owner can bind it again: `meshctl bind {} --instance ID`", e.tokenId),
        ),
        E::InstanceInUse(e) => (
            format!("instance {} is already a peer with token {}", InstanceId(e.instanceId.0), e.byTokenId),
            format!("deactivate that one first: `meshctl deactivate {}`", e.byTokenId),
        ),
        E::WireguardKeyInUse(e) => (
            format!("WireGuard key {} is already used by token {}", WireguardKey(e.wireguardKey.0), e.byTokenId),
            "register a new key: no two nodes may share a state directory".into(),
        ),
        E::TlsKeyInUse(e) => (
            format!("TLS key {} is already used by token {}", TlsKey(e.tlsKey.0), e.byTokenId),
            "register a new key: no two nodes may share a state directory".into(),
        ),
        E::InvalidTlsKey(_) => (
            "a TLS_GATEWAY registration needs a TLS key".into(),
            "have the node sign again with an agent of this contract's version".into(),
        ),
        E::InvalidWireguardKey(_) => (
            "a WIREGUARD registration needs a WireGuard key and a TLS_GATEWAY one must not have any".into(),
            "have the node sign again with an agent of this contract's version".into(),
        ),
        E::InvalidEndpoint(_) => (
            "endpoint address and port must both be zero or both nonzero".into(),
            "give the agent `--endpoint IP:PORT`, or `--endpoint none`".into(),
        ),
        E::GatewayRequired(_) => (
            "a TLS_GATEWAY registration needs a gateway".into(),
            "add a base domain with `meshctl domain add HOST` and have the node sign again".into(),
        ),
        E::UnknownBaseDomain(e) => (
            format!("base domain {} does not exist or was removed", e.index),
            "the contract owner adds base domains: see `meshctl domain list`".into(),
        ),
        E::UnknownGatewayDomain(e) => (
            format!("no base domain of the contract has the hash {}", e.domain),
            "the contract owner adds the domain that the node named (`meshctl domain list`, `meshctl domain add HOST`)"
                .into(),
        ),
        E::DeadlineExpired(e) => (
            format!("the signature was valid until Unix second {}", e.deadline),
            "have the node sign again, and check its clock".into(),
        ),
        E::DeadlineTooFar(e) => (
            format!(
                "the signature is valid until Unix second {}, the contract takes none beyond {}",
                e.deadline, e.latest
            ),
            "have the node sign again, and check its clock".into(),
        ),
        E::WrongKeyEpoch(e) => (
            format!("key epoch {} was given for token {}, {} is next", e.given, e.tokenId, e.expected),
            "the registration is old, was already accepted, or the token left since: have the node sign again".into(),
        ),
        E::WrongEndpointEpoch(e) => (
            format!("endpoint epoch {} was given for token {}, {} is next", e.given, e.tokenId, e.expected),
            "the update is old or was already accepted: have the node sign again".into(),
        ),
        E::MemberAddressMismatch(e) => (
            format!("token {} belongs to the member key of {}, and {} signed", e.tokenId, e.expected, e.given),
            format!(
                "its owner can let another member key in: `meshctl deactivate --token {0}`, then \
                 `meshctl bind --token {0} --instance ID --app-id ID`",
                e.tokenId
            ),
        ),
        E::AppIdMismatch(e) => (
            format!("token {} is bound for app {}, not for {}", e.tokenId, AppId::from(e.bound), AppId::from(e.given)),
            format!("its owner decides: `meshctl bind --token {} --instance ID --app-id ID`", e.tokenId),
        ),
        // Signatures
        E::InvalidSignature(_) => (
            "a signature is malformed: not 65 bytes, a wrong v, a high s, or of no key".into(),
            "have it signed again with a current agent or meshctl".into(),
        ),
        E::InvalidPublicKey(_) => (
            "a public key is not a point of secp256k1".into(),
            "have the node sign again, and check that its offer arrived unchanged".into(),
        ),
        E::AppSignatureMismatch(e) => (
            format!("the node key was signed for by {}, not by the app key {}", e.recovered, e.appKey),
            "have the node sign again, and check that its offer arrived unchanged; where `meshctl status` says that the node's key is of \
             guest API v1, the contract may be of a version that takes those of v0 alone: its owner upgrades it with `meshctl upgrade`, or the \
             node is started anew without the file `node-key.api` of its state directory"
                .into(),
        ),
        E::NodeSignatureMismatch(e) => (
            format!("the node's signature recovers to {}, not to its key {}", e.recovered, e.nodeKey),
            "it may be for another chain or contract: compare them with the agent's configuration".into(),
        ),
        E::MemberSignatureMismatch(e) => (
            format!("the member signature recovers to {}, not to the member address {}", e.recovered, e.member),
            "it may be for another chain or contract, or by another node than the one registered: compare them with the agent's status"
                .into(),
        ),
        // Trust
        E::KmsRootNotTrusted(e) => (
            format!("the app key was issued by KMS root {}, which this cluster does not trust", e.root),
            "the contract owner decides on roots: see `meshctl root list`".into(),
        ),
        E::KmsRootNotYetEffective(e) => (
            format!("KMS root {} counts only from Unix second {} on", e.root, e.effectiveAt),
            "try again then; see `meshctl root list`".into(),
        ),
        E::AppIdNotYetEffective(e) => (
            format!("app {} counts only from Unix second {} on", AppId::from(e.appId), e.effectiveAt),
            "try again then; see `meshctl app list`".into(),
        ),
        E::AppIdNotAllowed(e) => (
            format!("app {} is not allowed in this cluster", AppId::from(e.appId)),
            "the contract owner decides on apps: see `meshctl app list`".into(),
        ),
        E::AlreadyAdded(_) => ("it is already on the list".into(), "there is nothing to do: list what is there".into()),
        E::NotAdded(_) => ("it is not on the list".into(), "list what is there, and check what you gave".into()),
        E::TooMany(e) => (format!("the list is full: at most {} entries", e.limit), "remove one first".into()),
        E::ZeroAddress(_) => ("the address is zero".into(), "give the address that is meant".into()),
        E::InvalidBaseDomain(e) => (
            format!("`{}` is no base domain", foreign(&e.domain)),
            "use a lower-case host name such as gateway.example.com, and `:PORT` after it only where the gateway does not listen on 443; a contract of before that takes no port until `meshctl upgrade`".into(),
        ),
        E::InvalidNetwork(e) if e.prefixLength == 0 => (
            "the contract has no mesh network: it was never initialized as a cluster".into(),
            "deploy one with `meshctl deploy`".into(),
        ),
        E::InvalidNetwork(e) => (
            format!("{}/{} is no mesh network", Ipv4Addr::from(e.base.0), e.prefixLength),
            "use a unicast IPv4 network of /16 to /29 without host bits, neither loopback nor link-local".into(),
        ),
        // Policy
        E::InvalidMaxNodes(e) => (
            format!("{} is no number of nodes: the mesh network has room for 1 to {}", e.given, e.capacity),
            "give a number in that range with `meshctl config set --max-nodes N`".into(),
        ),
        E::MaxNodesReached(e) => (
            format!("the cluster is full: its limit is {} nodes", e.maxNodes),
            "burn an unused token, or have the contract owner raise the limit: `meshctl config set --max-nodes N`".into(),
        ),
        E::MintingNotPublic(e) => (
            format!("{} may not mint: minting is not public", e.caller),
            "ask the contract owner to mint, or to open minting: see `meshctl minting`".into(),
        ),
        E::WrongPayment(e) => (
            format!("{} wei were paid, the price is {}", e.given, e.expected),
            "pay exactly the price: see `meshctl minting`".into(),
        ),
        E::WithdrawalFailed(e) => (
            format!("{} did not take {} wei", e.to, e.amount),
            "withdraw to an account that takes ether: `meshctl withdraw --to ADDRESS`".into(),
        ),
        E::RegistrationsArePaused(_) => (
            "registrations are paused".into(),
            "try again later; the contract owner lifts that with `meshctl unpause`".into(),
        ),
        E::NetworkTypeNotAllowed(e) => (
            format!("this cluster takes only {} registrations", network_policy(e.allowed)),
            "run the agent in that mode, or have the contract owner allow more: `meshctl config set --network-type any`"
                .into(),
        ),
        E::InvalidInstanceId(e) => {
            (format!("`{}` is no instance id", foreign(&e.given)), "give 40 hex digits, with or without 0x".into())
        }
        E::InstanceNotActive(e) => (
            format!("no active peer has instance id {}", InstanceId(e.instanceId.0)),
            "see `meshctl nodes --active`".into(),
        ),
        E::NoToken(e) => {
            (format!("{} holds no token", e.wallet), "have one minted: `meshctl mint --to ADDRESS`".into())
        }
        E::SeveralTokens(e) => (
            format!("{} holds {} tokens, so that none of them is meant", e.wallet, e.count),
            "name the token: `meshctl bind TOKEN --instance ID`".into(),
        ),
        E::DevModeOff(_) => (
            "free-form URLs are for development alone, and devMode is off".into(),
            "have the contract owner turn it on (`meshctl config dev-mode on`), or register a gateway base domain instead: \
             `meshctl domain add HOST`"
                .into(),
        ),
        E::InvalidDevUrl(_) => (
            "the URL is longer than 256 bytes or not printable ASCII".into(),
            "give a shorter URL, with other characters percent-encoded".into(),
        ),
        // Boot gate
        E::ZeroComposeHash(_) => {
            ("the compose hash is zero".into(), "give the SHA-256 of app-compose.json, as dstack shows it".into())
        }
        E::ZeroDeviceId(_) => (
            "the device id is zero".into(),
            "give the device id that the CVM's Info shows, or allow any: `meshctl device allow-any on`".into(),
        ),
        // Leader election
        E::NotAMember(e) => (
            format!("{} is the member address of no member that votes by itself", e.caller),
            "members are active peers: send it from a node's member key, or as a signed vote of its token".into(),
        ),
        E::NotLeader(e) if e.leader.is_zero() => {
            (format!("{} does not lead: there is no leader", e.target), "elect one first: `meshctl leader`".into())
        }
        E::NotLeader(e) => (
            format!("{} does not lead: {} does", e.target, e.leader),
            "votes concern the current leader alone: see `meshctl leader`".into(),
        ),
        E::AlreadyVoted(e) => (
            format!("token {} has voted in term {}", e.tokenId, e.term),
            "its vote counts until it is withdrawn or the term ends".into(),
        ),
        E::NoVote(e) => (
            format!("token {} has no vote to withdraw in term {}", e.tokenId, e.term),
            "there is nothing to do: see `meshctl leader`".into(),
        ),
        E::VoteSpent(e) => (
            format!("token {} has voted in term {} and taken the vote back", e.tokenId, e.term),
            "a token has one vote in a term: it votes again in the next".into(),
        ),
        E::WrongTerm(e) => (
            format!("the vote is for term {}, the term is {} now", e.given, e.expected),
            "have the node sign again, about the present leader: see `meshctl leader`".into(),
        ),
        E::LeaderStands(e) => {
            (format!("{} leads", e.leader), "there is nothing to elect until members depose it or it leaves".into())
        }
        E::NoMembers(_) => {
            ("the cluster has no member to lead it".into(), "register a node first; see `meshctl nodes`".into())
        }
        // Ownership and upgrades
        E::UpgradesAreDisabled(_) => (
            "upgrades of this contract are disabled for ever".into(),
            "deploy a new cluster with `meshctl deploy` and move the nodes there".into(),
        ),
        E::OwnerMismatch(e) => (
            format!("the contract belongs to {}, not to {}", e.owner, e.given),
            "name the present owner: an upgrade does not change it".into(),
        ),
        E::OwnableUnauthorizedAccount(e) => {
            (format!("{} is not allowed to do this", e.account), "send it from the contract owner's key".into())
        }
        E::OwnableInvalidOwner(e) => {
            (format!("{} cannot own the contract", e.owner), "name an account that can send transactions".into())
        }
        E::InvalidInitialization(_) => (
            "the contract is already initialized".into(),
            "it is a cluster, or an implementation that can never be one: check the contract address".into(),
        ),
        E::NotInitializing(_) => {
            ("this runs during initialization alone".into(), "deploy a cluster with `meshctl deploy`".into())
        }
        E::UUPSUnauthorizedCallContext(_) => {
            ("this call works through the proxy alone".into(), "check the contract address".into())
        }
        E::UUPSUnsupportedProxiableUUID(_) => (
            "the new implementation answers for another storage slot".into(),
            "upgrade to a UUPS implementation of this contract".into(),
        ),
        E::ERC1967InvalidImplementation(e) => (
            format!("{} is not a UUPS implementation", e.implementation),
            "upgrade to a UUPS implementation of this contract".into(),
        ),
        E::ERC1967NonPayable(_) => ("an upgrade without a call takes no ether".into(), "send no value".into()),
        E::AddressEmptyCode(e) => {
            (format!("there is no contract at {}", e.target), "check the address, and the chain".into())
        }
        E::FailedCall(_) => (
            "a call made by the contract failed without a reason".into(),
            "the account it called refuses: check that it can take what was sent".into(),
        ),
        // ERC-721
        E::ERC721IncorrectOwner(e) => (
            format!("{} does not own token {}, {} does", e.sender, e.tokenId, e.owner),
            "it may have been transferred meanwhile: see `meshctl nodes`".into(),
        ),
        E::ERC721InsufficientApproval(e) => (
            format!("{} neither owns token {} nor is approved for it", e.operator, e.tokenId),
            "send it from the owner's key".into(),
        ),
        E::ERC721InvalidApprover(e) => {
            (format!("{} may not approve for this token", e.approver), "send it from the owner's key".into())
        }
        E::ERC721InvalidOperator(e) => {
            (format!("{} cannot be an operator", e.operator), "name an account that is not zero".into())
        }
        E::ERC721InvalidOwner(e) => {
            (format!("{} cannot own tokens", e.owner), "name an account that is not zero".into())
        }
        E::ERC721InvalidReceiver(e) => (
            format!("{} cannot receive tokens", e.receiver),
            "a contract must implement onERC721Received; check the address".into(),
        ),
        E::ERC721InvalidSender(e) => {
            (format!("{} cannot send tokens", e.sender), "send it from the owner's key".into())
        }
    }
}

/// `NetworkPolicy` of the contract as registrations call it; a number that the ABI does not know as it is.
fn network_policy(allowed: u8) -> String {
    match allowed {
        0 => "TLS_GATEWAY".to_owned(),
        1 => "WIREGUARD".to_owned(),
        2 => "any".to_owned(),
        other => format!("type {other}"),
    }
}
