// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

// What tests deploy by name, so that `forge test` builds it; no test imports it, so that none is compiled with it.
import {ERC1967Proxy} from "@openzeppelin/contracts/proxy/ERC1967/ERC1967Proxy.sol";
