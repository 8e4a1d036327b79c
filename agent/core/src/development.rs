//! Keys of development: published with tools and test vectors, so that anyone can use them. A node that trusts one of these
//! addresses outside of development trusts everyone.

use alloy_primitives::address;

use crate::id::Address;

const FIXTURE_B: &str = "dstack's sdk/simulator/appkeys.json since 2026";
const FIXTURE_A: &str = "dstack's sdk/simulator/appkeys.json until 2026, and `phala simulator`";
const SEED_OF_ONES: &str = "the root key of 32 bytes 01, which dstack-simulator and tests use";
const MNEMONIC: &str = "anvil's and Hardhat's accounts, from the mnemonic `test test … junk`";
const SCALAR_ONE: &str = "the private key 1";

/// The addresses of keys that anyone can use, as KMS roots, owners or nodes, and where they are published. The fixtures' own roots
/// are among them: what these have signed is published with its private keys. dstack's history has no third fixture (all branches and
/// tags until August 2026).
pub const PUBLISHED_KEYS: [(Address, &str); 30] = [
    // contracts/test/vectors/chains.json: root, app key and node key of each chain.
    (address!("8f2cF602C9695b23130367ed78d8F557554de7C5"), FIXTURE_A),
    (address!("5e5132F15a9aa4AA91A6bCaE35Adf34e27A13516"), FIXTURE_A),
    (address!("02dfe75F2f63F6bf3bD98D362B7FF4f811465A40"), FIXTURE_A),
    (address!("A7F6043C29f9cc1d9D6aCF554C53E0c6792AaEAf"), FIXTURE_B),
    (address!("D508660Da170d8b162779698A64E6707d5Aa217A"), FIXTURE_B),
    (address!("66527976Bdb9dF65109aF70dBEbaeaf51853c6ac"), FIXTURE_B),
    (address!("1a642f0E3c3aF545E7AcBD38b07251B3990914F1"), SEED_OF_ONES),
    (address!("3BC3Abc280793cBdEb5bAA211782B21532a76c69"), SEED_OF_ONES),
    (address!("0D5b91aAE3A57c61E10051bdE8B92cEbf2324A09"), SEED_OF_ONES),
    (address!("7E5F4552091A69125d5DfCb7b8C2659029395Bdf"), SCALAR_ONE),
    // https://getfoundry.sh/anvil and https://hardhat.org: m/44'/60'/0'/0/0 to 19; anvil shows the first ten.
    (address!("f39Fd6e51aad88F6F4ce6aB8827279cffFb92266"), MNEMONIC),
    (address!("70997970C51812dc3A010C7d01b50e0d17dc79C8"), MNEMONIC),
    (address!("3C44CdDdB6a900fa2b585dd299e03d12FA4293BC"), MNEMONIC),
    (address!("90F79bf6EB2c4f870365E785982E1f101E93b906"), MNEMONIC),
    (address!("15d34AAf54267DB7D7c367839AAf71A00a2C6A65"), MNEMONIC),
    (address!("9965507D1a55bcC2695C58ba16FB37d819B0A4dc"), MNEMONIC),
    (address!("976EA74026E726554dB657fA54763abd0C3a0aa9"), MNEMONIC),
    (address!("14dC79964da2C08b23698B3D3cc7Ca32193d9955"), MNEMONIC),
    (address!("23618e81E3f5cdF7f54C3d65f7FBc0aBf5B21E8f"), MNEMONIC),
    (address!("a0Ee7A142d267C1f36714E4a8F75612F20a79720"), MNEMONIC),
    (address!("Bcd4042DE499D14e55001CcbB24a551F3b954096"), MNEMONIC),
    (address!("71bE63f3384f5fb98995898A86B02Fb2426c5788"), MNEMONIC),
    (address!("FABB0ac9d68B0B445fB7357272Ff202C5651694a"), MNEMONIC),
    (address!("1CBd3b2770909D4e10f157cABC84C7264073C9Ec"), MNEMONIC),
    (address!("dF3e18d64BC6A983f673Ab319CCaE4f1a57C7097"), MNEMONIC),
    (address!("cd3B766CCDd6AE721141F452C550Ca635964ce71"), MNEMONIC),
    (address!("2546BcD3c84621e976D8185a91A922aE77ECEc30"), MNEMONIC),
    (address!("bDA5747bFD65F08deb54cb465eB87D40e51B197E"), MNEMONIC),
    (address!("dD2FD4581271e230360230F9337D5c0430Bf44C0"), MNEMONIC),
    (address!("8626f6940E2eb28930eFb4CeF49B2d1F2C9C1199"), MNEMONIC),
];

/// Where the key of that address is published, if it is.
#[must_use]
pub fn published_key(address: Address) -> Option<&'static str> {
    PUBLISHED_KEYS.iter().find(|(published, _)| *published == address).map(|(_, source)| *source)
}

/// Whether a variable says that this is a cluster of development: `true` or `1`, `false` or `0`.
///
/// # Errors
/// Names what was expected.
pub fn parse_switch(text: &str) -> Result<bool, &'static str> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("expected `true` or `false`"),
    }
}
