//! What to send to upgrade a cluster, and which code a cluster runs now.

use alloy_primitives::{Address, B256, Bytes, b256};

use crate::{abi::DstackClusterNFT::upgradeToAndCallCall, deploy::implementation_init_code};

/// The storage slot in which a proxy keeps its implementation's address (ERC-1967).
pub const IMPLEMENTATION_SLOT: B256 = b256!("360894a13ba1a3210667c828492db98dca3e2076cc3735a920a3ca505d382bbc");

/// Both pieces of a cluster's code, as they are deployed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployedCode {
    /// The implementation's address, which its code contains.
    pub implementation: Address,
    /// Its code.
    pub code: Bytes,
    /// The extension's address, which the implementation's code contains.
    pub extension: Address,
    /// Its code.
    pub extension_code: Bytes,
}

impl DeployedCode {
    /// It is the code of this version's contract.
    #[must_use]
    pub fn is_this_version(&self) -> bool {
        let created = implementation_init_code();
        let mut code = self.code.to_vec();
        // What is known only when it is deployed (immutables) is zero in what deploys it.
        blank(&mut code, self.implementation);
        blank(&mut code, self.extension);
        let has = |part: &[u8]| !part.is_empty() && created.windows(part.len()).any(|window| window == part);
        has(&code) && has(&self.extension_code)
    }

    /// Whether it answers calls with this selector, as far as its code tells: a selector is compared as a constant.
    #[must_use]
    pub fn knows(&self, selector: [u8; 4]) -> bool {
        // A constant has no leading zeros.
        let digits: &[u8] = &selector;
        let start = digits.iter().position(|byte| *byte != 0).unwrap_or(3);
        let digits = &digits[start..];
        let has = |code: &Bytes| code.windows(digits.len()).any(|window| window == digits);
        has(&self.code) || has(&self.extension_code)
    }
}

/// Overwrites an address with zeros, wherever it stands.
fn blank(code: &mut [u8], address: Address) {
    let size = Address::len_bytes();
    let found: Vec<usize> =
        code.windows(size).enumerate().filter(|(_, window)| *window == address.as_slice()).map(|(at, _)| at).collect();
    for at in found {
        code[at..at + size].fill(0);
    }
}

/// The upgrade of a cluster's proxy to another implementation, which keeps everything that the proxy holds.
#[must_use]
pub fn upgrade(implementation: Address) -> upgradeToAndCallCall {
    upgradeToAndCallCall { newImplementation: implementation, data: Bytes::new() }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{U256, keccak256};

    use super::*;

    #[test]
    fn the_slot_is_that_of_the_standard() {
        let hash = U256::from_be_bytes(keccak256("eip1967.proxy.implementation").0);
        assert_eq!(IMPLEMENTATION_SLOT, B256::from(hash - U256::from(1)));
    }

    #[test]
    fn code_is_known_with_the_addresses_in_it() {
        let (implementation, extension) = (Address::repeat_byte(0xaa), Address::repeat_byte(0xbb));
        let created = implementation_init_code();
        // Any part of it does: here one that has twenty zeros in it, as immutables have.
        let at = created.windows(20).position(|window| window == [0; 20]).unwrap();
        let mut code = created[at - 40..at + 60].to_vec();
        code[40..60].copy_from_slice(extension.as_slice());
        let extension_code = Bytes::from(created[at + 60..].to_vec());
        let mut deployed = DeployedCode { implementation, code: code.into(), extension, extension_code };
        assert!(deployed.is_this_version());
        deployed.extension = implementation;
        assert!(!deployed.is_this_version(), "another address is not blanked");
        deployed.code = Bytes::new();
        assert!(!deployed.is_this_version(), "there is no code");
    }
}
