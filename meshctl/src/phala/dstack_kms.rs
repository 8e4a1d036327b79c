//! Which DstackKms contract is paid to register the app. The API names one, and a contract of its own could take the KMS root's name and
//! burn gas: the address comes from the operator, or from what Phala publishes. Pure.

use alloy_primitives::{Address, address};

use super::KmsInfo;
use crate::failure::Failure;

/// By chain id: Phala Cloud's DstackKms on Ethereum and on Base, as its documentation of on-chain KMS gives them (June 2026).
const PUBLISHED: [(u64, Address); 2] = [
    (1, address!("d343a3f5593b93D8056aB5D60c433622d7D65a80")),
    (8453, address!("2f83172A49584C017F2B256F0FB2Dca14126Ba9C")),
];

/// The DstackKms that the API must name: the one given, else the published one of this chain.
///
/// # Errors
/// None is given, and none is published.
pub(crate) fn expected_kms(chain_id: u64, given: Option<Address>) -> Result<Address, Failure> {
    let published = || PUBLISHED.iter().find(|(chain, _)| *chain == chain_id).map(|(_, contract)| *contract);
    given.or_else(published).ok_or_else(|| {
        Failure::usage(format!("no DstackKms of Phala Cloud is known on chain {chain_id}"))
            .hint("name the one that the contract is to be an app of with `--kms-contract ADDRESS`")
    })
}

/// # Errors
/// The API names another contract than is expected.
pub(crate) fn require_expected(kms: &KmsInfo, expected: Address) -> Result<(), Failure> {
    if kms.contract == expected {
        return Ok(());
    }
    let what = format!("Phala Cloud names DstackKms {} for its KMS `{}`, and not {expected}", kms.contract, kms.name);
    Err(Failure::new(what).hint(format!(
        "nothing was sent to it: only if you know it to be the right one, `--kms-contract {}`",
        kms.contract
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: Address = Address::repeat_byte(0xaa);

    #[test]
    fn the_given_contract_comes_before_the_published_one() {
        let [(ethereum, on_ethereum), (base, on_base)] = PUBLISHED;
        assert_eq!(expected_kms(ethereum, None).unwrap(), on_ethereum);
        assert_eq!(expected_kms(base, None).unwrap(), on_base);
        assert_eq!(expected_kms(base, Some(OTHER)).unwrap(), OTHER);
        assert_eq!(expected_kms(31337, Some(OTHER)).unwrap(), OTHER);
        assert!(expected_kms(31337, None).unwrap_err().to_string().contains("is known on chain 31337"));
    }

    #[test]
    fn another_contract_than_the_expected_is_named_and_refused() {
        let kms = |contract| KmsInfo { name: "base-prod5".to_owned(), chain_id: 8453, contract };
        assert!(require_expected(&kms(OTHER), OTHER).is_ok());
        let refused = require_expected(&kms(OTHER), Address::ZERO).unwrap_err().to_string();
        assert!(refused.contains(&OTHER.to_string()) && refused.contains("`base-prod5`"), "{refused}");
    }
}
