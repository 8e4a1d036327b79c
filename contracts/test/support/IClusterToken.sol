// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IERC721} from "@openzeppelin/contracts/token/ERC721/IERC721.sol";

/// What the cluster answers besides IDstackClusterNFT: ERC-721, Ownable2Step, UUPS.
interface IClusterToken is IERC721 {
    function name() external view returns (string memory);
    function symbol() external view returns (string memory);
    function owner() external view returns (address);
    function pendingOwner() external view returns (address);
    function transferOwnership(address newOwner) external;
    function acceptOwnership() external;
    function renounceOwnership() external;
    function upgradeToAndCall(address implementation, bytes calldata data) external payable;
    function proxiableUUID() external view returns (bytes32);
    function EXTENSION() external view returns (address);
}
