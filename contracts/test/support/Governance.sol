// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAppAuthBasicManagement, IDstackApp} from "../../src/interfaces/IAppAuth.sol";
import {IClusterPolicy} from "../../src/interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "../../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "../Vm.sol";
import {Campaign} from "./Campaign.sol";

/// @title  A contract owner who changes its mind about everything.
abstract contract Governance is Campaign {
    function revokeOne(uint256 id) external {
        if (id % 3 != 0) return; // not so often
        send("revoke", OWNER, abi.encodeCall(IDstackClusterNFT.revoke, (anyToken(id))));
    }

    function reinstateOne(uint256 id) external {
        send("reinstate", OWNER, abi.encodeCall(IDstackClusterNFT.reinstate, (anyToken(id))));
    }

    function changeRoot(uint256 which, bool add) external {
        if (!add && (which >> 8) % 5 != 0) return; // not so often
        address root = VM.addr(secret("root", which % 2));
        bytes memory call = add
            ? abi.encodeCall(IDstackClusterNFT.addKmsRoot, (root))
            : abi.encodeCall(IDstackClusterNFT.removeKmsRoot, (root));
        send(add ? "addKmsRoot" : "removeKmsRoot", OWNER, call);
    }

    function changeApp(uint256 which, bool add) external {
        if (!add && (which >> 8) % 5 != 0) return; // not so often
        address appId = app(which % 2);
        bytes memory call = add
            ? abi.encodeCall(IDstackClusterNFT.addAppId, (appId))
            : abi.encodeCall(IDstackClusterNFT.removeAppId, (appId));
        send(add ? "addAppId" : "removeAppId", OWNER, call);
    }

    function changeDomain(uint16 index, bool add) external {
        string memory name = string.concat("gw", VM.toString(index % 4), ".example.com");
        bytes memory call = add
            ? abi.encodeCall(IDstackClusterNFT.addBaseDomain, (name))
            : abi.encodeCall(IDstackClusterNFT.removeBaseDomain, (index % 12));
        send(add ? "addBaseDomain" : "removeBaseDomain", OWNER, call);
    }

    /// Mostly such that nodes may still come.
    function limit(uint256 nodes, uint256 kind) external {
        IClusterPolicy.NetworkPolicy allowed = IClusterPolicy.NetworkPolicy(kind % 5 == 0 ? (kind >> 8) % 3 : 2);
        nodes = nodes % 3 == 0 ? (nodes >> 8) % 16 : 14;
        send("setClusterConfig", OWNER, abi.encodeCall(IClusterPolicy.setClusterConfig, (nodes, allowed)));
    }

    function sell(uint256 price, bool toAnybody) external {
        send("setMintingPolicy", OWNER, abi.encodeCall(IClusterPolicy.setMintingPolicy, (price % 3, toAnybody)));
    }

    function pause(uint256 whether) external {
        bytes memory call = whether % 4 == 0
            ? abi.encodeCall(IClusterPolicy.pauseRegistrations, ())
            : abi.encodeCall(IClusterPolicy.unpauseRegistrations, ());
        send(whether % 4 == 0 ? "pause" : "unpause", OWNER, call);
    }

    function develop(uint256 whether) external {
        send("setDevMode", OWNER, abi.encodeCall(IClusterPolicy.setDevMode, (whether % 4 != 0)));
    }

    function takeTill(uint256 to) external {
        bytes memory call = abi.encodeCall(IClusterPolicy.withdraw, (payable(owner(to))));
        if (transact("withdraw", OWNER, 0, call)) till = 0;
    }

    /// The boot gate, which agents do not read: no epoch advances.
    function guard(uint256 what, uint256 value, bool allow) external {
        bytes32 hash = bytes32(1 + value % 3);
        bytes memory call;
        what %= 10;
        if (what < 4) {
            call = allow
                ? abi.encodeCall(IAppAuthBasicManagement.addComposeHash, (hash))
                : abi.encodeCall(IAppAuthBasicManagement.removeComposeHash, (hash));
        } else if (what < 7) {
            call = allow
                ? abi.encodeCall(IAppAuthBasicManagement.addDevice, (hash))
                : abi.encodeCall(IAppAuthBasicManagement.removeDevice, (hash));
        } else if (what < 8) {
            call = abi.encodeCall(IDstackApp.setAllowAnyDevice, (allow));
        } else if (what < 9) {
            call = abi.encodeCall(IDstackApp.setRequireTcbUpToDate, (allow));
        } else {
            call = abi.encodeCall(IDstackApp.disableUpgrades, ());
        }
        uint64 before = cluster.epoch();
        yes(transact("boot gate", OWNER, 0, call), "the owner guards the boot");
        eq(cluster.epoch(), before, "no epoch");
    }
}
