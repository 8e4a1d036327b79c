//! The way down a Merkle Patricia trie with 32-byte keys (yellow paper, appendix D). The nodes are a stranger's, and so may be the root:
//! nothing here trusts a length, and nothing panics.

use alloy_primitives::{B256, Bytes, keccak256};
use alloy_rlp::{EMPTY_STRING_CODE, Header as Item};

/// Children of a branch, and its value, which no trie of equally long keys has.
const BRANCH: usize = 17;
/// Of the first nibble of a compact path: what hangs below is a value.
const LEAF: u8 = 2;
/// Of the same: the path is of an odd number of nibbles.
const ODD: u8 = 1;

/// What these nodes, from the root down, prove of a key: its value, or `Some(None)` that it has none. `None` where they prove nothing:
/// one is not what its parent names, or the last one is missing.
pub(super) fn find(root: B256, key: B256, nodes: &[Bytes]) -> Option<Option<&[u8]>> {
    let mut nodes = nodes.iter();
    let next = |wanted| nodes.next().filter(|node| keccak256(node) == wanted).map(Bytes::as_ref);
    find_by(root, key, next).ok()
}

/// The same where `node_of` gives the node of a hash, which is not checked again.
///
/// # Errors
/// The hash whose node is missing, or is none.
pub(super) fn find_by<'a>(
    root: B256,
    key: B256,
    mut node_of: impl FnMut(B256) -> Option<&'a [u8]>,
) -> Result<Option<&'a [u8]>, B256> {
    if root == keccak256([EMPTY_STRING_CODE]) {
        return Ok(None);
    }
    let key: Vec<u8> = key.iter().flat_map(|byte| [byte >> 4, byte & 0xf]).collect();
    let mut rest = key.as_slice();
    let mut wanted = root;
    loop {
        let mut node = node_of(wanted).and_then(list).ok_or(wanted)?;
        wanted = loop {
            match step(node, &mut rest).ok_or(wanted)? {
                Below::Inline(child) => node = child,
                Below::Hash(child) => break child,
                Below::End(value) => return Ok(value),
            }
        };
    }
}

/// Where a node leads.
enum Below<'a> {
    /// To a node of its own.
    Hash(B256),
    /// To one so short that its parent holds it: the content of its list.
    Inline(&'a [u8]),
    /// Nowhere: this is all there is of the key.
    End(Option<&'a [u8]>),
}

/// One node, by its list's content, and the nibbles that are left of the key.
fn step<'a>(node: &'a [u8], rest: &mut &[u8]) -> Option<Below<'a>> {
    let mut items = Vec::with_capacity(BRANCH);
    let mut content = node;
    while !content.is_empty() {
        if items.len() == BRANCH {
            return None;
        }
        items.push(item(&mut content)?);
    }
    match *items.as_slice() {
        [(false, path), child] => {
            let (first, others) = path.split_first()?;
            let odd = (first >> 4 & ODD != 0).then_some(first & 0xf);
            let path = odd.into_iter().chain(others.iter().flat_map(|byte| [byte >> 4, byte & 0xf]));
            let length = 2 * others.len() + usize::from(odd.is_some());
            let is_leaf = first >> 4 & LEAF != 0;
            let fits = rest.len() >= length && path.eq(rest[..length].iter().copied());
            match child {
                _ if !fits => Some(Below::End(None)),
                (false, value) if is_leaf => Some(Below::End((rest.len() == length).then_some(value))),
                _ if is_leaf || length == 0 => None,
                child => {
                    *rest = &rest[length..];
                    below(child)
                }
            }
        }
        ref children if children.len() == BRANCH => {
            let (nibble, after) = rest.split_first()?;
            *rest = after;
            below(children[usize::from(*nibble)])
        }
        _ => None,
    }
}

fn below((is_list, content): (bool, &[u8])) -> Option<Below<'_>> {
    match content {
        content if is_list => Some(Below::Inline(content)),
        [] => Some(Below::End(None)),
        hash => Some(Below::Hash(B256::try_from(hash).ok()?)),
    }
}

/// The content of a node.
fn list(mut node: &[u8]) -> Option<&[u8]> {
    let (is_list, content) = item(&mut node)?;
    (is_list && node.is_empty()).then_some(content)
}

/// Takes one item: whether it is a list, and its content.
fn item<'a>(from: &mut &'a [u8]) -> Option<(bool, &'a [u8])> {
    let Item { list, payload_length } = Item::decode(from).ok()?;
    let (content, rest) = from.split_at_checked(payload_length)?;
    *from = rest;
    Some((list, content))
}

#[cfg(test)]
mod tests {
    use alloy_trie::{HashBuilder, Nibbles, proof::ProofRetainer};
    use proptest::prelude::*;

    use super::*;

    /// The root and the nodes on the way to `key`, of a trie with these values below the hashes of the names.
    fn trie(names: &[u16], key: B256) -> (B256, Vec<Bytes>) {
        let mut leaves: Vec<(B256, Vec<u8>)> =
            names.iter().map(|name| (keccak256(name.to_be_bytes()), alloy_rlp::encode(u64::from(*name) + 1))).collect();
        leaves.sort();
        leaves.dedup();
        let mut builder = HashBuilder::default().with_proof_retainer(ProofRetainer::new(vec![Nibbles::unpack(key)]));
        for (path, value) in &leaves {
            builder.add_leaf(Nibbles::unpack(path), value);
        }
        let root = builder.root();
        (root, builder.take_proof_nodes().into_nodes_sorted().into_iter().map(|(_, node)| node).collect())
    }

    proptest! {
        #[test]
        fn what_is_there_is_found_and_what_is_not_is_not(names in prop::collection::vec(any::<u16>(), 0..80), wanted: u16) {
            for name in names.iter().copied().take(3).chain([wanted]) {
                let key = keccak256(name.to_be_bytes());
                let (root, nodes) = trie(&names, key);
                let value = names.contains(&name).then(|| alloy_rlp::encode(u64::from(name) + 1));
                prop_assert_eq!(find(root, key, &nodes), Some(value.as_deref()));
            }
        }

        #[test]
        fn a_proof_with_any_byte_changed_or_a_node_missing_proves_nothing(
            names in prop::collection::vec(any::<u16>(), 2..80), at: prop::sample::Index, bit in 0..8u8,
        ) {
            let key = keccak256(names[0].to_be_bytes());
            let (root, nodes) = trie(&names, key);
            for missing in 0..nodes.len() {
                let rest = [&nodes[..missing], &nodes[missing + 1..]].concat();
                prop_assert_eq!(find(root, key, &rest), None);
            }
            let mut bytes: Vec<Vec<u8>> = nodes.iter().map(|node| node.to_vec()).collect();
            let (node, byte) = {
                let places: Vec<_> = bytes.iter().enumerate().flat_map(|(n, node)| (0..node.len()).map(move |b| (n, b))).collect();
                places[at.index(places.len())]
            };
            bytes[node][byte] ^= 1 << bit;
            let nodes: Vec<Bytes> = bytes.into_iter().map(Bytes::from).collect();
            prop_assert_eq!(find(root, key, &nodes), None);
        }

        /// The nodes below a root that the same stranger made up.
        #[test]
        fn no_node_is_too_strange(bytes: Vec<u8>, mut key: [u8; 32], items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20)) {
            find(keccak256(&bytes), B256::from(key), &[bytes.into()]);
            let node = alloy_rlp::encode(items);
            key[0] &= 0x1f;
            find(keccak256(&node), B256::from(key), &[node.into()]);
        }
    }
}
