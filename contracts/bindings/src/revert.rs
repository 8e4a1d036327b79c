//! Reverts in words: what the contract refused, and what to do about it.

use alloy::{
    primitives::FixedBytes,
    sol_types::{ContractError, SolInterface},
};
use mesh_core::id::{AppId, InstanceId, WireguardKey};

use crate::abi::{DstackClusterNFT::DstackClusterNFTErrors, ERC1967Proxy::ERC1967ProxyErrors};

/// Says what revert data means and, where there is something to do, a hint after a semicolon. `None` for data that is no
/// error of the contract, of its proxy, or of Solidity itself. The text is one line of printable characters, whatever the
/// data: it may come from a hostile RPC.
#[must_use]
pub fn explain_revert(data: &[u8]) -> Option<String> {
    let text = match ContractError::<DstackClusterNFTErrors>::abi_decode(data) {
        Ok(ContractError::CustomError(error)) => explain(&error),
        Ok(ContractError::Revert(revert)) => format!("the contract reverted: {}", revert.reason()),
        Ok(ContractError::Panic(panic)) => format!("the contract failed: {panic}"),
        Err(_) => match ERC1967ProxyErrors::abi_decode(data).ok()? {
            ERC1967ProxyErrors::ERC1967ProxyUninitialized(_) => {
                "the proxy was created without initializing it; deploy with `meshctl deploy`".to_owned()
            }
            other @ (ERC1967ProxyErrors::AddressEmptyCode(_)
            | ERC1967ProxyErrors::ERC1967InvalidImplementation(_)
            | ERC1967ProxyErrors::ERC1967NonPayable(_)
            | ERC1967ProxyErrors::FailedCall(_)) => format!("the proxy refused: {:02x?}", other.selector()),
        },
    };
    Some(text.chars().flat_map(printable).collect())
}

fn printable(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control().then(|| c.escape_default());
    let plain = (!c.is_control()).then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

#[expect(clippy::too_many_lines, reason = "one arm an error, each one sentence")]
fn explain(error: &DstackClusterNFTErrors) -> String {
    use DstackClusterNFTErrors as E;
    match error {
        // Tokens
        E::ERC721NonexistentToken(e) => format!("token {} is not minted; see `meshctl nodes`", e.tokenId),
        E::NotTokenOwner(e) => format!("{} does not own token {}; send it from the owner's key", e.caller, e.tokenId),
        E::NetworkFull(e) => {
            format!("the mesh network is full: all {} token ids are minted; burn an unused token first", e.capacity)
        }
        E::NodeRevoked(e) => {
            format!("token {0} is revoked; the contract owner can lift that with `meshctl reinstate {0}`", e.tokenId)
        }
        E::NodeNotRevoked(e) => format!("token {} is not revoked", e.tokenId),
        E::NodeActive(e) => {
            format!("token {0} is an active peer; deactivate it before binding it to another instance", e.tokenId)
        }
        E::NodeNotActive(e) => format!("token {} is not an active peer; register it first", e.tokenId),
        E::NodeUnbound(e) => format!(
            "token {0} is bound to no instance; its owner binds it with `meshctl bind {0}` or submits the registration",
            e.tokenId
        ),
        // Registrations
        E::ZeroInstanceId(_) => "the instance id is zero".to_owned(),
        E::InstanceMismatch(e) => format!(
            "token {} is bound to instance {}, not to {}; the token's owner can bind it again",
            e.tokenId,
            instance(e.bound),
            instance(e.given)
        ),
        E::InstanceInUse(e) => format!(
            "instance {} is already a peer with token {}; deactivate that one first",
            instance(e.instanceId),
            e.byTokenId
        ),
        E::WireguardKeyInUse(e) => format!(
            "WireGuard key {} is already used by token {}; register a new key",
            WireguardKey(e.wireguardKey.0),
            e.byTokenId
        ),
        E::InvalidWireguardKey(_) => {
            "a WIREGUARD registration needs a WireGuard key and a TLS_GATEWAY one must not have any".to_owned()
        }
        E::InvalidEndpoint(_) => "endpoint address and port must both be zero or both nonzero".to_owned(),
        E::GatewayRequired(_) => "a TLS_GATEWAY registration needs a gateway".to_owned(),
        E::UnknownBaseDomain(e) => format!(
            "base domain {} does not exist or was removed; the contract owner adds base domains, gateways name them by index",
            e.index
        ),
        E::DeadlineExpired(e) => {
            format!(
                "the signature was valid until Unix second {}; have the node sign again, and check its clock",
                e.deadline
            )
        }
        E::DeadlineTooFar(e) => format!(
            "the signature is valid until Unix second {}, the contract takes none beyond {}; have the node sign again, and check \
             its clock",
            e.deadline, e.latest
        ),
        E::WrongKeyEpoch(e) => format!(
            "key epoch {} was given for token {}, {} is next; the registration is old, was already accepted, or the token left since",
            e.given, e.tokenId, e.expected
        ),
        E::NodeAddressMismatch(e) => format!(
            "token {} belongs to the node key {} and {} signed; its owner can bind it again to let another node key in",
            e.tokenId, e.expected, e.given
        ),
        // Signatures
        E::InvalidSignature(_) => "a signature is malformed: not 65 bytes, a wrong v, a high s, or nobody's".to_owned(),
        E::InvalidPublicKey(_) => "a public key is not a point of secp256k1".to_owned(),
        E::AppSignatureMismatch(e) => {
            format!("the node key was signed for by {}, not by the app key {}", e.recovered, e.appKey)
        }
        E::NodeSignatureMismatch(e) => format!(
            "the node's signature recovers to {}, not to its key {}; it may be for another chain or contract",
            e.recovered, e.nodeKey
        ),
        // Trust
        E::KmsRootNotTrusted(e) => format!(
            "the app key was issued by KMS root {}, which this cluster does not trust; the contract owner decides on roots",
            e.root
        ),
        E::KmsRootNotYetEffective(e) => {
            format!("KMS root {} counts only from Unix second {} on; try again then", e.root, e.effectiveAt)
        }
        E::AppIdNotAllowed(e) => {
            format!("app {} is not allowed in this cluster; the contract owner decides on apps", AppId::from(e.appId))
        }
        E::AlreadyAdded(_) => "it is already on the list".to_owned(),
        E::NotAdded(_) => "it is not on the list".to_owned(),
        E::TooMany(e) => format!("the list is full: at most {} entries; remove one first", e.limit),
        E::ZeroAddress(_) => "the address is zero".to_owned(),
        E::InvalidBaseDomain(e) => format!(
            "`{}` is no base domain; use a lower-case host name such as gateway.example.com, without port or trailing dot",
            e.domain
        ),
        E::InvalidNetwork(e) if e.prefixLength == 0 => {
            "the contract has no mesh network: it was never initialized as a cluster; deploy one with `meshctl deploy`"
                .to_owned()
        }
        E::InvalidNetwork(e) => format!(
            "{}/{} is no mesh network; use a unicast IPv4 network of /16 to /29 without host bits, neither loopback nor \
             link-local",
            std::net::Ipv4Addr::from(e.base.0),
            e.prefixLength
        ),
        // Ownership and upgrades
        E::OwnableUnauthorizedAccount(e) => {
            format!("{} is not allowed to do this; send it from the contract owner's key", e.account)
        }
        E::OwnableInvalidOwner(e) => format!("{} cannot own the contract", e.owner),
        E::InvalidInitialization(_) => "the contract is already initialized".to_owned(),
        E::NotInitializing(_) => "this runs during initialization alone".to_owned(),
        E::UUPSUnauthorizedCallContext(_) => {
            "this call works through the proxy alone; check the contract address".to_owned()
        }
        E::UUPSUnsupportedProxiableUUID(_) | E::ERC1967InvalidImplementation(_) => {
            "the new implementation is not a UUPS implementation".to_owned()
        }
        E::ERC1967NonPayable(_) => "an upgrade without a call takes no ether".to_owned(),
        E::AddressEmptyCode(e) => format!("there is no contract at {}", e.target),
        E::FailedCall(_) => "a call made by the contract failed".to_owned(),
        // ERC-721
        E::ERC721IncorrectOwner(e) => format!("{} does not own token {}; {} does", e.sender, e.tokenId, e.owner),
        E::ERC721InsufficientApproval(e) => {
            format!("{} neither owns token {} nor is approved for it", e.operator, e.tokenId)
        }
        E::ERC721InvalidApprover(e) => format!("{} may not approve for this token", e.approver),
        E::ERC721InvalidOperator(e) => format!("{} cannot be an operator", e.operator),
        E::ERC721InvalidOwner(e) => format!("{} cannot own tokens", e.owner),
        E::ERC721InvalidReceiver(e) => format!("{} cannot receive tokens", e.receiver),
        E::ERC721InvalidSender(e) => format!("{} cannot send tokens", e.sender),
    }
}

const fn instance(id: FixedBytes<20>) -> InstanceId {
    InstanceId(id.0)
}

#[cfg(test)]
mod tests {
    use alloy::sol_types::{SolError, SolInterface};

    use super::*;
    use crate::abi::DstackClusterNFT as contract;

    #[test]
    fn an_error_is_named_with_its_values_and_a_hint() {
        let data = contract::NodeRevoked { tokenId: alloy::primitives::U256::from(7) }.abi_encode();
        let text = explain_revert(&data).unwrap();
        assert_eq!(text, "token 7 is revoked; the contract owner can lift that with `meshctl reinstate 7`");
    }

    #[test]
    fn every_error_without_arguments_is_explained() {
        let mut explained = 0;
        for &selector in DstackClusterNFTErrors::SELECTORS {
            if let Ok(error) = DstackClusterNFTErrors::abi_decode(&selector) {
                assert!(!explain(&error).is_empty());
                assert_eq!(explain_revert(&selector).as_deref(), Some(explain(&error).as_str()));
                explained += 1;
            }
        }
        assert!(explained > 10, "only {explained} errors decode from their selector alone");
    }

    #[test]
    fn text_of_a_hostile_node_cannot_reach_the_terminal() {
        let data = contract::InvalidBaseDomain { domain: "\u{1b}[2J\nok".to_owned() }.abi_encode();
        let text = explain_revert(&data).unwrap();
        assert!(text.starts_with("`\\u{1b}[2J\\nok` is no base domain"), "{text}");
        assert!(!text.chars().any(char::is_control));
    }

    #[test]
    fn solidity_reverts_and_panics_are_explained_and_noise_is_not() {
        let revert = alloy::sol_types::Revert::from("why not").abi_encode();
        assert_eq!(explain_revert(&revert).unwrap(), "the contract reverted: why not");
        let panic = alloy::sol_types::Panic::from(0x11_u64).abi_encode();
        assert!(explain_revert(&panic).unwrap().contains("overflow"));
        assert_eq!(explain_revert(&[]), None);
        assert_eq!(explain_revert(&[0xde, 0xad, 0xbe, 0xef, 1]), None);
        assert_eq!(explain_revert(&contract::NodeRevoked::SELECTOR), None, "arguments are missing");
    }
}
