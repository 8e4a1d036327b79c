// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IClusterPolicy} from "../src/interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {VM} from "./Vm.sol";
import {ClusterTest} from "./support/ClusterTest.sol";
import {IClusterToken} from "./support/IClusterToken.sol";

/// Tries to come back into the cluster whenever the cluster calls it: as receiver of a token, and as payee.
contract Reentrant {
    IDstackClusterNFT internal immutable cluster;
    bytes[] internal attempts;
    uint256 internal value;
    uint256 public calledBack;
    bytes[] public answers;

    constructor(IDstackClusterNFT cluster_) payable {
        cluster = cluster_;
    }

    /// What to try when called, each with `value_` wei.
    function arm(bytes[] memory attempts_, uint256 value_) external {
        (attempts, value) = (attempts_, value_);
    }

    function send(address to, uint256 amount, bytes calldata call) external returns (bool ok, bytes memory data) {
        (ok, data) = to.call{value: amount}(call);
    }

    function onERC721Received(address, address, uint256, bytes calldata) external returns (bytes4) {
        _tryAll();
        return this.onERC721Received.selector;
    }

    receive() external payable {
        _tryAll();
    }

    function _tryAll() private {
        ++calledBack;
        if (calledBack > 3) return;
        for (uint256 i = 0; i < attempts.length; ++i) {
            (, bytes memory data) = address(cluster).call{value: value}(attempts[i]);
            answers.push(data);
        }
    }
}

/// Who is called in the middle of a transaction finds the cluster finished with it.
contract ReentrantMinterTest is ClusterTest {
    uint256 internal constant PRICE = 1 ether;

    Reentrant internal attacker;

    function setUp() public override {
        super.setUp();
        VM.prank(OWNER);
        cluster.setMintingPolicy(PRICE, true);
        attacker = new Reentrant(cluster);
        VM.deal(address(attacker), 10 ether);
    }

    function test_minting_calls_no_contract() public {
        arm(mintCall(), PRICE);
        (bool ok,) = attacker.send(address(cluster), PRICE, mintCall());
        yes(ok, "minted");
        eq(attacker.calledBack(), 0, "and was not called");
        eq(cluster.totalSupply(), 1, "one token for one payment");
        eq(address(cluster).balance, PRICE, "one payment");
    }

    /// A safe transfer calls its receiver, after every effect: what it can do then it could do in a transaction of its own.
    function test_a_safe_transfer_calls_back_into_a_finished_cluster() public {
        uint256 id = join(1);
        bytes[] memory attempts = new bytes[](3);
        attempts[0] = mintCall();
        attempts[1] = abi.encodeCall(IDstackClusterNFT.deactivate, (id));
        attempts[2] = abi.encodeWithSignature("transferFrom(address,address,uint256)", ALICE, address(attacker), id);
        attacker.arm(attempts, 0);
        VM.prank(ALICE);
        token.safeTransferFrom(ALICE, address(attacker), id);
        eq(attacker.calledBack(), 1, "called");
        eq(attacker.answers(0), abi.encodeWithSelector(IClusterPolicy.WrongPayment.selector, PRICE, 0), "unpaid");
        eq(attacker.answers(1), abi.encodeWithSelector(IDstackClusterNFT.NodeUnbound.selector, id), "cleared already");
        eq(
            attacker.answers(2),
            abi.encodeWithSignature("ERC721IncorrectOwner(address,uint256,address)", ALICE, id, address(attacker)),
            "moved already"
        );
        mustBeGone(id, actor(1));
        eq(token.ownerOf(id), address(attacker), "where it was sent");
        eq(cluster.walletToTokenId(address(attacker)), id, "counted once");
    }

    /// The payee may mint again with what it was paid, and take nothing twice.
    function test_a_payee_that_comes_back_finds_the_till_empty() public {
        for (uint256 i = 0; i < 3; ++i) {
            VM.deal(BOB, PRICE);
            VM.prank(BOB);
            cluster.mintNodeAccess{value: PRICE}(BOB, "");
        }
        VM.prank(OWNER);
        IClusterToken(address(cluster)).transferOwnership(address(attacker));
        attacker.send(address(cluster), 0, abi.encodeWithSignature("acceptOwnership()"));
        arm(abi.encodeCall(IClusterPolicy.withdraw, (payable(address(attacker)))), 0);
        uint256 before = address(attacker).balance;
        (bool ok,) =
            attacker.send(address(cluster), 0, abi.encodeCall(IClusterPolicy.withdraw, (payable(address(attacker)))));
        yes(ok, "withdrawn");
        yes(attacker.calledBack() > 1, "and came back");
        eq(address(attacker).balance - before, 3 * PRICE, "what was there, once");
        eq(address(cluster).balance, 0, "and no more");
    }

    function arm(bytes memory attempt, uint256 value) private {
        bytes[] memory attempts = new bytes[](1);
        attempts[0] = attempt;
        attacker.arm(attempts, value);
    }

    function mintCall() private view returns (bytes memory) {
        return abi.encodeCall(IClusterPolicy.mintNodeAccess, (address(attacker), ""));
    }
}
