// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IClusterPolicy} from "./interfaces/IClusterPolicy.sol";

/// @title  Which wallet holds which token: OpenZeppelin's ERC-721 state, and the one token of a wallet without a slot for it.
/// @dev    OpenZeppelin counts a wallet's tokens in a word whose upper half it never needs: 65,534 tokens at most. The sum of the
///         wallet's token ids rides there, so that the sum of a wallet with one token is that token, and every change writes a slot
///         that the same transaction has written already. A reader of the count masks it
///         (DstackClusterNFT.balanceOf).
library WalletTokens {
    /// The layout of openzeppelin.storage.ERC721, as ERC721Upgradeable 5 declares it.
    struct Erc721 {
        string name;
        string symbol;
        mapping(uint256 tokenId => address) owners;
        mapping(address wallet => uint256) balances; // sum of token ids ‖ count, 128 bits each
    }

    // keccak256(abi.encode(uint256(keccak256("openzeppelin.storage.ERC721")) - 1)) & ~bytes32(uint256(0xff))
    bytes32 internal constant ERC721_SLOT = 0x80bb2b638cc20bc4d0a60d66940f3ab4a00c1d7b313497ca82fb0b4ab0079300;

    uint256 private constant SUM_SHIFT = 128;

    /// Follows a mint (`from` zero), a transfer (also to oneself) or a burn (`to` zero). Call once for each, after OpenZeppelin has
    /// counted it.
    function move(address from, address to, uint256 tokenId) internal {
        mapping(address => uint256) storage balances = _erc721().balances;
        unchecked {
            // A wallet's sum contains what it gives away, and 65,534 ids sum up to less than 2^32.
            if (from != address(0)) balances[from] -= tokenId << SUM_SHIFT;
            if (to != address(0)) balances[to] += tokenId << SUM_SHIFT;
        }
    }

    /// The token of a wallet that holds exactly one, zero for none. Reverts with SeveralTokens.
    function onlyTokenOf(address wallet) internal view returns (uint256) {
        uint256 word = _erc721().balances[wallet];
        // forge-lint: disable-next-line(unsafe-typecast): the lower half is the count
        uint256 count = uint128(word);
        if (count > 1) revert IClusterPolicy.SeveralTokens(wallet, count);
        return word >> SUM_SHIFT;
    }

    /// The owner of a token, zero when it is not minted.
    function ownerOf(uint256 tokenId) internal view returns (address) {
        return _erc721().owners[tokenId];
    }

    function _erc721() private pure returns (Erc721 storage $) {
        assembly ("memory-safe") {
            $.slot := ERC721_SLOT
        }
    }
}
