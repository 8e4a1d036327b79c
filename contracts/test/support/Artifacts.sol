// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

// What tests deploy by name, so that `forge test` builds it; no test imports these, so that none is compiled with them.
import {ERC1967Proxy} from "@openzeppelin/contracts/proxy/ERC1967/ERC1967Proxy.sol";
import {Deploy} from "../../script/Deploy.s.sol";
