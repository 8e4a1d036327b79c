//! Call data in words: which function it calls, with which arguments. What a person is shown before it is signed comes from the
//! bytes that will be signed, not from what was meant.

use std::sync::LazyLock;

use alloy_dyn_abi::{DynSolValue, JsonAbiExt as _};
use alloy_json_abi::{ContractObject, InternalType, JsonAbi, Param};
use alloy_primitives::Bytes;
use mesh_contract::ARTIFACT;

/// A call of the cluster contract, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DecodedCall {
    /// Name and parameter types, for example `bind(uint256,bytes20)`.
    pub(super) function: String,
    /// In the order of the function's parameters.
    pub(super) arguments: Vec<Argument>,
}

/// One argument of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Argument {
    /// The parameter's name in the contract.
    pub(super) name: String,
    /// Its Solidity type.
    pub(super) kind: String,
    /// Numbers in decimal, bytes in hex, text quoted; structs as `{field: value}`, lists as `[value]`.
    pub(super) value: String,
}

/// Decodes the call data of a cluster's function. `None` for a function that it does not have, and for data that encodes no
/// arguments of it or encodes them as no honest encoder does.
pub(super) fn decode_call(data: &[u8]) -> Option<DecodedCall> {
    let (selector, arguments) = data.split_first_chunk::<4>()?;
    let function = CLUSTER_ABI.function_by_selector(selector.into())?;
    let values = function.abi_decode_input(arguments).ok()?;
    if function.abi_encode_input(&values).ok()? != data {
        return None;
    }
    let argument = |(param, value): (&Param, &DynSolValue)| Argument {
        name: param.name.clone(),
        kind: kind(param),
        value: text(value, &param.components),
    };
    let arguments = function.inputs.iter().zip(&values).map(argument).collect();
    Some(DecodedCall { function: function.signature(), arguments })
}

/// Selector and signature of each function of this version's contract.
pub(crate) fn cluster_functions() -> impl Iterator<Item = ([u8; 4], String)> {
    CLUSTER_ABI.functions().map(|function| (function.selector().0, function.signature()))
}

/// The ABI as committed.
static CLUSTER_ABI: LazyLock<JsonAbi> = LazyLock::new(|| {
    // The bindings were made from the same text, and a test reads it here.
    let artifact: Result<ContractObject, _> = serde_json::from_str(ARTIFACT);
    artifact.ok().and_then(|artifact| artifact.abi).unwrap_or_default()
});

/// The name that Solidity gives a struct, else the ABI's type.
fn kind(param: &Param) -> String {
    match param.internal_type().and_then(InternalType::as_struct) {
        Some((Some(scope), name)) => format!("{scope}.{name}"),
        Some((None, name)) => name.to_owned(),
        None => param.ty.clone(),
    }
}

fn text(value: &DynSolValue, components: &[Param]) -> String {
    let list = |values: &[DynSolValue]| {
        let values: Vec<String> = values.iter().map(|value| text(value, components)).collect();
        format!("[{}]", values.join(", "))
    };
    match value {
        DynSolValue::Bool(value) => value.to_string(),
        DynSolValue::Int(value, _) => value.to_string(),
        DynSolValue::Uint(value, _) => value.to_string(),
        DynSolValue::FixedBytes(word, size) => Bytes::copy_from_slice(&word[..*size]).to_string(),
        DynSolValue::Address(address) => address.to_string(),
        DynSolValue::Function(function) => function.to_string(),
        DynSolValue::Bytes(bytes) => Bytes::copy_from_slice(bytes).to_string(),
        DynSolValue::String(value) => format!("{value:?}"),
        DynSolValue::Array(values) | DynSolValue::FixedArray(values) => list(values),
        DynSolValue::Tuple(values) => {
            let field =
                |(param, value): (&Param, &DynSolValue)| format!("{}: {}", param.name, text(value, &param.components));
            let fields: Vec<String> = components.iter().zip(values).map(field).collect();
            format!("{{{}}}", fields.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, FixedBytes, U256};
    use alloy_sol_types::SolCall as _;
    use mesh_core::network::MeshNetwork;

    use super::*;
    use mesh_contract::{DstackClusterNFT as contract, NewCluster, initialize};

    fn decoded(data: &[u8]) -> (String, Vec<(String, String)>) {
        let call = decode_call(data).unwrap();
        (call.function, call.arguments.into_iter().map(|argument| (argument.name, argument.value)).collect())
    }

    fn pair(name: &str, value: impl ToString) -> (String, String) {
        (name.to_owned(), value.to_string())
    }

    #[test]
    fn simple_arguments() {
        let (instance, app_id) = (FixedBytes([0x11; 20]), Address::repeat_byte(0x22));
        let call = contract::bindCall { tokenId: U256::from(7), instanceId: instance, appId: app_id };
        let (function, arguments) = decoded(&call.abi_encode());
        assert_eq!(function, "bind(uint256,bytes20,address)");
        let instance = pair("instanceId", format!("0x{}", "11".repeat(20)));
        assert_eq!(arguments, [pair("tokenId", 7), instance, pair("appId", app_id)]);
    }

    #[test]
    fn text_is_quoted_so_that_it_cannot_end_early_or_move_the_cursor() {
        let call = contract::addBaseDomainCall { domain: "a\"\n\u{1b}[2J\u{202e}b".to_owned() };
        let (_, arguments) = decoded(&call.abi_encode());
        assert_eq!(arguments, [pair("domain", "\"a\\\"\\n\\u{1b}[2J\\u{202e}b\"")]);
    }

    #[test]
    fn structs_and_lists_keep_their_names() {
        let owner = Address::repeat_byte(0xaa);
        let cluster = NewCluster {
            name: "mesh".to_owned(),
            symbol: "NODE".to_owned(),
            owner,
            network: MeshNetwork::new([10, 0, 1, 0].into(), 24).unwrap(),
            kms_roots: vec![owner, owner],
            app_ids: vec![],
        };
        let call = decode_call(&initialize(&cluster).abi_encode()).unwrap();
        let [params] = &call.arguments[..] else { panic!("{call:?}") };
        assert_eq!(params.kind, "IDstackClusterNFT.ClusterParams");
        let expected = format!(
            "{{name: \"mesh\", symbol: \"NODE\", owner: {owner}, networkBase: 0x0a000100, prefixLength: 24, \
             kmsRoots: [{owner}, {owner}], appIds: []"
        );
        assert!(params.value.starts_with(&expected), "{}", params.value);
    }

    #[test]
    fn other_calls_and_odd_encodings_are_not_decoded() {
        let mut data = contract::revokeCall { tokenId: U256::from(7) }.abi_encode();
        assert!(decode_call(&data).is_some());
        data.push(0);
        assert_eq!(decode_call(&data), None);
        assert_eq!(decode_call(&data[..20]), None);
        assert_eq!(decode_call(&[]), None);
        assert_eq!(decode_call(&[0xde, 0xad, 0xbe, 0xef]), None);
    }
}
