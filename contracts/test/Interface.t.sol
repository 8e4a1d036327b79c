// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IERC165} from "@openzeppelin/contracts/utils/introspection/IERC165.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {ClusterTest} from "./support/ClusterTest.sol";

/// What the proxy answers besides the calls that the other tests make. (That every function of IDstackClusterNFT has its code,
/// although no single contract implements them all, is checked by script/artifacts.mjs.)
contract InterfaceTest is ClusterTest {
    function test_code_fits_the_limit_of_24576_bytes() public {
        yes(implementation().code.length <= 24_576, "implementation");
        yes(token.EXTENSION().code.length <= 24_576, "extension");
    }

    function test_erc165() public view {
        yes(token.supportsInterface(type(IERC165).interfaceId), "ERC-165");
        yes(token.supportsInterface(0x80ac58cd), "ERC-721");
        yes(token.supportsInterface(0x5b5e139f), "ERC-721 metadata");
        yes(!token.supportsInterface(0xffffffff), "never");
    }

    function test_an_unknown_call_reverts() public {
        (bool answered, bytes memory data) = address(cluster).call(hex"deadbeef");
        yes(!answered && data.length == 0, "no data");
        (answered,) = address(cluster).call("");
        yes(!answered, "no data");
    }

    function test_errors_come_through_the_delegation_as_they_are() public view {
        (bool ok, bytes memory data) = address(cluster).staticcall(abi.encodeCall(IDstackClusterNFT.getPeer, (5)));
        yes(!ok, "reverts");
        eq(data, abi.encodeWithSelector(IDstackClusterNFT.NodeNotActive.selector, 5), "whole");
    }
}
