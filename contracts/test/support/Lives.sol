// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Check} from "./Check.sol";
import {Handler} from "./Handler.sol";

/// @title  A campaign of one's own: what a seed makes happen, weighted so that members come, vote and stay for a while.
abstract contract Lives is Check {
    Handler internal handler;

    function live(uint256 seed, uint256 steps) internal {
        for (uint256 step = 0; step < steps; ++step) {
            seed = uint256(keccak256(abi.encode(seed)));
            act(seed % 50, uint256(keccak256(abi.encode(seed, 1))), uint256(keccak256(abi.encode(seed, 2))));
        }
    }

    function act(uint256 what, uint256 a, uint256 b) private {
        if (what < 40) actAsMember(what, a, b);
        else if (what < 41) handler.limit(a, b);
        else if (what < 42) handler.sell(a, b % 3 != 0);
        else if (what < 43) handler.pause(a);
        else if (what < 44) handler.develop(a);
        else if (what < 45) handler.takeTill(a);
        else if (what < 46) handler.guard(a, b, (b >> 8) % 2 == 0);
        else if (what < 48) handler.changeRoot(a, b % 2 == 0);
        else handler.changeApp(a, b % 2 == 0);
    }

    function actAsMember(uint256 what, uint256 a, uint256 b) private {
        if (what < 2) handler.mintOne(a, b);
        else if (what < 4) handler.buy(a, b, a >> 8);
        else if (what < 6) handler.bindOne(a, b);
        else if (what < 7) handler.registerInstanceOne(a, b);
        else if (what < 18) handler.register(a, b, a >> 8, b >> 8);
        else if (what < 19) handler.replay(a);
        else if (what < 21) handler.moveEndpoint(a, b, uint16(a >> 16));
        else if (what < 22) handler.deactivateOne(a);
        else if (what < 23) handler.burnOne(a);
        else if (what < 24) handler.transferOne(a, b);
        else if (what < 25) handler.revokeOne(a);
        else if (what < 26) handler.reinstateOne(a);
        else if (what < 27) handler.nameUrl(a, b);
        else if (what < 28) handler.changeDomain(uint16(b), (b >> 16) % 2 == 0);
        else if (what < 29) handler.electOne(a);
        else if (what < 33) handler.voteOne(a, b, true);
        else if (what < 34) handler.voteOne(a, b, false);
        else if (what < 37) handler.voteBySignature(a, b, a >> 8, b % 5 != 0);
        else handler.pass(a);
    }
}
