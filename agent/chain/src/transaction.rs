//! Transactions, encoded (RLP) and signed: with a base fee (EIP-1559) or, on chains without, as those before it (EIP-155).

use alloy_primitives::{Address, B256, Bytes, Signature, TxKind, U256, keccak256};
use alloy_rlp::{BufMut, EMPTY_LIST_CODE, Encodable, Header};
use k256::ecdsa::SigningKey;

use crate::Fees;

/// The type byte of a transaction with a base fee (EIP-2718).
const EIP1559: u8 = 2;

/// An account of the chain that signs.
pub trait Signer: Sync {
    /// Its address.
    fn address(&self) -> Address;

    /// Signs a digest, with a low s.
    ///
    /// # Errors
    /// The signer's words.
    fn sign(&self, digest: B256) -> Result<Signature, String>;
}

/// Signs a digest with a key at hand, with a low s.
///
/// # Errors
/// The library's, which does not fail with a valid key.
pub fn sign_digest(key: &SigningKey, digest: B256) -> Result<Signature, String> {
    key.sign_prehash_recoverable(digest.as_slice()).map(Signature::from).map_err(|error| error.to_string())
}

/// A transaction before it is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The account's next nonce.
    pub nonce: u64,
    /// Gas and its price.
    pub fees: Fees,
    /// `None` for a contract creation.
    pub to: Option<Address>,
    /// Wei.
    pub value: U256,
    /// Call data, or the creation's code.
    pub data: Bytes,
}

/// A transaction as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// Its bytes.
    pub raw: Bytes,
    /// The hash of these bytes: no endpoint is asked for it.
    pub hash: B256,
}

impl Transaction {
    /// Signs it.
    ///
    /// # Errors
    /// The signer's words.
    pub fn sign(&self, signer: &impl Signer) -> Result<Signed, String> {
        let signature = signer.sign(keccak256(self.unsigned()))?;
        let raw = Bytes::from(self.signed(&signature));
        Ok(Signed { hash: keccak256(&raw), raw })
    }

    /// What is signed.
    fn unsigned(&self) -> Vec<u8> {
        match self.fees.price.tip {
            Some(tip) => typed(&self.fields_with_base_fee(tip)),
            None => list(&[&self.fields(), &Fields::default().with(&self.chain_id).with(&0_u8).with(&0_u8)]),
        }
    }

    fn signed(&self, signature: &Signature) -> Vec<u8> {
        let (r, s, parity) = (signature.r(), signature.s(), u64::from(signature.v()));
        match self.fees.price.tip {
            Some(tip) => typed(&self.fields_with_base_fee(tip).with(&parity).with(&r).with(&s)),
            None => {
                let v = U256::from(self.chain_id) * U256::from(2) + U256::from(35 + parity);
                list(&[&self.fields(), &Fields::default().with(&v).with(&r).with(&s)])
            }
        }
    }

    fn fields(&self) -> Fields {
        let fees = &self.fees;
        Fields::default().with(&self.nonce).with(&fees.price.max).with(&fees.gas).with_target(self)
    }

    fn fields_with_base_fee(&self, tip: u128) -> Fields {
        let fees = &self.fees;
        let fields = Fields::default().with(&self.chain_id).with(&self.nonce).with(&tip).with(&fees.price.max);
        fields.with(&fees.gas).with_target(self).with(&NoAccessList)
    }
}

/// Encoded items of a list.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn with(mut self, item: &impl Encodable) -> Self {
        item.encode(&mut self.0);
        self
    }

    fn with_target(self, transaction: &Transaction) -> Self {
        let to = transaction.to.map_or(TxKind::Create, TxKind::Call);
        self.with(&to).with(&transaction.value).with(&transaction.data)
    }
}

struct NoAccessList;

impl Encodable for NoAccessList {
    fn encode(&self, out: &mut dyn BufMut) {
        out.put_u8(EMPTY_LIST_CODE);
    }
}

fn list(parts: &[&Fields]) -> Vec<u8> {
    let mut encoded = Vec::new();
    let payload_length = parts.iter().map(|part| part.0.len()).sum();
    Header { list: true, payload_length }.encode(&mut encoded);
    parts.iter().for_each(|part| encoded.extend_from_slice(&part.0));
    encoded
}

fn typed(fields: &Fields) -> Vec<u8> {
    [&[EIP1559][..], &list(&[fields])].concat()
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{address, b256, bytes};

    use super::*;
    use crate::GasPrice;

    struct Key(SigningKey);

    impl Signer for Key {
        fn address(&self) -> Address {
            Address::from_private_key(&self.0)
        }

        fn sign(&self, digest: B256) -> Result<Signature, String> {
            sign_digest(&self.0, digest)
        }
    }

    /// The example in the text of EIP-155.
    #[test]
    fn a_transaction_without_a_base_fee_is_that_of_eip_155() {
        let transaction = Transaction {
            chain_id: 1,
            nonce: 9,
            fees: Fees { gas: 21_000, price: GasPrice { max: 20_000_000_000, tip: None } },
            to: Some(address!("3535353535353535353535353535353535353535")),
            value: U256::from(1_000_000_000_000_000_000_u64),
            data: Bytes::new(),
        };
        let digest = b256!("daf5a779ae972f972197303d7b574746c7ef83eadac0f2791ad23db92e4c8e53");
        assert_eq!(keccak256(transaction.unsigned()), digest);
        let signed = transaction.sign(&Key(SigningKey::from_slice(&[0x46; 32]).unwrap())).unwrap();
        assert_eq!(
            signed.raw,
            bytes!(
                "f86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a028ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83"
            )
        );
    }
}
