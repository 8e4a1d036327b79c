// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";
import {IClusterPolicy} from "../src/interfaces/IClusterPolicy.sol";
import {IDstackClusterNFT} from "../src/interfaces/IDstackClusterNFT.sol";
import {BaseDomain} from "../src/lib/BaseDomain.sol";
import {IdSet} from "../src/lib/IdSet.sol";
import {LowerHex} from "../src/lib/LowerHex.sol";
import {MeshNetwork} from "../src/lib/MeshNetwork.sol";
import {SignatureChainVerifier} from "../src/lib/SignatureChainVerifier.sol";
import {Switches} from "../src/lib/Switches.sol";
import {VM} from "./Vm.sol";
import {Check} from "./support/Check.sol";
import {Signing} from "./support/Signing.sol";

/// Each library against something simpler that does the same.
contract LibrariesTest is Check, Signing {
    using IdSet for IdSet.Set;
    using Switches for Switches.Byte;

    IdSet.Set internal set;
    mapping(uint256 id => bool) internal model;

    function testFuzz_idSet_agrees_with_a_mapping(uint256 seed) public {
        uint256[40] memory ids;
        for (uint256 i = 0; i < ids.length; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            // Half of them close together, half anywhere, and the two ends.
            ids[i] = i == 0 ? 0 : i == 1 ? 65_535 : i % 2 == 0 ? 250 + seed % 12 : seed % 65_536;
            if (seed & (1 << 200) == 0) {
                set.add(ids[i]);
                model[ids[i]] = true;
            } else {
                uint256 victim = ids[(seed >> 100) % (i + 1)];
                set.remove(victim);
                model[victim] = false;
            }
        }
        for (uint256 i = 0; i < ids.length; ++i) {
            yes(set.contains(ids[i]) == model[ids[i]], "contains");
            uint256 from = i % 3 == 0 ? ids[i] : ids[i] / 2 + i;
            (bool found, uint256 id) = set.next(from);
            (bool expectedFound, uint256 expected) = nextByHand(from, ids);
            yes(found == expectedFound, "found");
            eq(id, expected, "next");
        }
        mustHaveLowest(ids);
        yes(!set.contains(65_536) && !set.contains(type(uint256).max), "nothing beyond");
        (bool beyond,) = set.next(65_536);
        yes(!beyond, "nothing beyond");
    }

    /// Takes one after the other out of it, and the set is empty after as many as it counts.
    function mustHaveLowest(uint256[40] memory ids) private {
        uint256 lives = VM.snapshotState();
        uint256 count = set.count();
        for (uint256 left = count; left > 0; --left) {
            (bool found, uint256 expected) = nextByHand(0, ids);
            yes(found, "counted as there are");
            eq(set.count(), left, "count");
            (uint256 id, bool last) = set.takeLowest();
            eq(id, expected, "the lowest");
            yes(last == (left == 1), "the last");
            model[id] = false;
        }
        (bool more,) = nextByHand(0, ids);
        yes(!more && set.count() == 0 && set.summary == 0, "empty");
        yes(VM.revertToState(lives), "back");
    }

    function nextByHand(uint256 from, uint256[40] memory ids) private view returns (bool found, uint256 lowest) {
        lowest = type(uint256).max;
        for (uint256 i = 0; i < ids.length; ++i) {
            if (model[ids[i]] && ids[i] >= from && ids[i] < lowest) lowest = ids[i];
        }
        found = lowest != type(uint256).max;
        if (!found) lowest = 0;
    }

    /// Each switch by itself, whatever the others are.
    function testFuzz_switches(uint8 raw, uint8 which, bool on, uint8 policy, uint8 count) public pure {
        uint8[4] memory all =
            [Switches.REGISTRATIONS_PAUSED, Switches.PUBLIC_MINTING, Switches.DEV_MODE, Switches.HAS_BURNED];
        // Bits 0 and 1 the policy, one bit a switch, bits 6 and 7 the count.
        for (uint256 i = 0; i < all.length; ++i) {
            eq(all[i], 1 << (i + 2), "where it is");
        }
        raw = raw & 3 == 3 ? raw & 0xfc : raw; // there is no fourth policy
        Switches.Byte before = Switches.Byte.wrap(raw);
        uint256 expected = on ? raw | all[which % 4] : raw & (255 - all[which % 4]);
        eq(Switches.Byte.unwrap(before.with(all[which % 4], on)), expected, "turned");
        yes(before.with(all[which % 4], on).isOn(all[which % 4]) == on, "as it was turned");
        yes(before.isOn(all[which % 4]) == ((raw / all[which % 4]) % 2 == 1), "as it is");

        IClusterPolicy.NetworkPolicy allowed = IClusterPolicy.NetworkPolicy(policy % 3);
        eq(Switches.Byte.unwrap(before.withNetworkPolicy(allowed)), raw - raw % 4 + policy % 3, "policy");
        yes(before.withNetworkPolicy(allowed).networkPolicy() == allowed, "as it was set");
        eq(uint8(before.networkPolicy()), raw % 4, "as it is");

        eq(Switches.Byte.unwrap(before.withLapses(count % 4)), uint256(raw % 64) + 64 * uint256(count % 4), "lapses");
        eq(before.withLapses(count % 4).lapses(), count % 4, "as they were set");
        eq(before.lapses(), raw / 64, "as they are");
    }

    function testFuzz_lowerHex_agrees_with_digits(bytes20 a, bytes32 b, bool odd) public pure {
        eq(abi.encodePacked(LowerHex.encode16(bytes16(b))), bytes(hexOf(abi.encodePacked(bytes16(b)))), "16");
        eq(LowerHex.encode20(a), bytes(hexOf(abi.encodePacked(a))), "20");
        uint8 prefix = odd ? 3 : 2;
        eq(LowerHex.encodeCompressed(prefix, b), bytes(hexOf(abi.encodePacked(prefix, b))), "33");
    }

    function keyAddress(bytes32 x, bytes32 y) external pure returns (address) {
        return SignatureChainVerifier.keyAddress(x, y);
    }

    /// The only points with a second spelling below 2^256 have a coordinate below 2^256 - p: (1, y) and (x, 1).
    function test_a_coordinate_beyond_the_field_is_no_key() public {
        uint256 p = 0xfffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f;
        uint256 y = 0x4218f20ae6c646b363db68605822fb14264ca8d2587fdd6fbc750d587e76a7ee;
        uint256 x = 0x1fe1e5ef3fceb5c135ab7741333ce5a6e80d68167653f6b2b24bcbcfaaaff507;
        yes(this.keyAddress(bytes32(uint256(1)), bytes32(y)) != address(0), "(1, y) is on the curve");
        yes(this.keyAddress(bytes32(x), bytes32(uint256(1))) != address(0), "(x, 1) is on the curve");
        VM.expectRevert(IDstackClusterNFT.InvalidPublicKey.selector);
        this.keyAddress(bytes32(p + 1), bytes32(y));
        VM.expectRevert(IDstackClusterNFT.InvalidPublicKey.selector);
        this.keyAddress(bytes32(x), bytes32(p + 1));
    }

    function isBaseDomain(string calldata name) external pure returns (bool) {
        return BaseDomain.isValid(name);
    }

    /// Texts made of the grammar's own characters, judged by splitting them into labels.
    function testFuzz_baseDomain_agrees_with_labels(uint256 seed, uint8 length) public view {
        bytes memory alphabet = "ab09-..";
        bytes memory name = new bytes(length % 24);
        for (uint256 i = 0; i < name.length; ++i) {
            seed = uint256(keccak256(abi.encode(seed)));
            name[i] = alphabet[seed % alphabet.length];
        }
        yes(this.isBaseDomain(string(name)) == validByLabels(name), string(name));
    }

    function testFuzz_baseDomain_refuses_every_other_character(uint8 character, uint8 position) public view {
        bytes memory name = "gateway.example.com";
        bytes1 c = bytes1(character);
        name[position % name.length] = c;
        bool allowed = (c >= "a" && c <= "z") || (c >= "0" && c <= "9") || c == "-" || c == ".";
        if (!allowed) yes(!this.isBaseDomain(string(name)), "refused");
        else yes(this.isBaseDomain(string(name)) == validByLabels(name), string(name));
    }

    function test_baseDomain_lengths() public view {
        yes(this.isBaseDomain(string.concat(repeat("a", 63), ".b")), "a label of 63");
        yes(!this.isBaseDomain(string.concat(repeat("a", 64), ".b")), "a label of 64");
        string memory longest =
            string.concat(repeat("a", 63), ".", repeat("b", 63), ".", repeat("c", 63), ".", repeat("d", 13));
        eq(bytes(longest).length, 205, "205 characters");
        yes(this.isBaseDomain(longest), "205");
        yes(!this.isBaseDomain(string.concat(longest, "e")), "206");
        uint256 prefix = bytes(string.concat(hexOf(abi.encodePacked(bytes20(0))), "-65535s.")).length;
        eq(bytes(longest).length + prefix, 253, "with the longest first label, as long as a host name may be");
    }

    function testFuzz_a_port_has_one_spelling(uint32 port, uint8 zeros) public view {
        string memory digits = Strings.toString(port);
        bool isPort = port != 0 && port <= 65535 && port != 443;
        yes(this.isBaseDomain(string.concat("gw.example:", digits)) == isPort, digits);
        yes(!this.isBaseDomain(string.concat("gw.example:", repeat("0", 1 + zeros % 6), digits)), "leading zeros");
        yes(!this.isBaseDomain(string.concat("gw.example:", digits, ":")), "a second colon");
    }

    function test_ports_at_their_limits() public view {
        string[4] memory good = ["1", "442", "444", "65535"];
        for (uint256 i = 0; i < good.length; ++i) {
            yes(this.isBaseDomain(string.concat("gw.example:", good[i])), good[i]);
        }
        string[8] memory bad = ["", "0", "443", "65536", "99999", "4294967297", "+80", "8 0"];
        for (uint256 i = 0; i < bad.length; ++i) {
            yes(!this.isBaseDomain(string.concat("gw.example:", bad[i])), bad[i]);
        }
        yes(!this.isBaseDomain(":8443"), "no host");
        string memory longest =
            string.concat(repeat("a", 63), ".", repeat("b", 63), ".", repeat("c", 63), ".", repeat("d", 13));
        yes(this.isBaseDomain(string.concat(longest, ":65535")), "the port is no part of the host name");
    }

    function test_what_ends_in_a_number_is_no_host_name() public view {
        yes(!this.isBaseDomain("10.0.0.1"), "an address");
        yes(!this.isBaseDomain("example.1"), "a number");
        yes(!this.isBaseDomain("127.0.0.0x1"), "a number in another base");
        yes(this.isBaseDomain("1.2.3.com"), "a name");
    }

    function validByLabels(bytes memory name) private pure returns (bool) {
        uint256 labels = 0;
        uint256 start = 0;
        for (uint256 i = 0; i <= name.length; ++i) {
            if (i < name.length && name[i] != ".") continue;
            if (i == start || i - start > 63 || name[start] == "-" || name[i - 1] == "-") return false;
            ++labels;
            if (i == name.length && (name[start] < "a" || name[start] > "z")) return false;
            start = i + 1;
        }
        return labels >= 2 && name.length <= 205;
    }

    function repeat(string memory text, uint256 times) private pure returns (string memory all) {
        for (uint256 i = 0; i < times; ++i) {
            all = string.concat(all, text);
        }
    }

    function test_addresses_as_text() public pure {
        eq(MeshNetwork.toText(0x0a000107), "10.0.1.7", "10.0.1.7");
        eq(MeshNetwork.toText(0xffffffff), "255.255.255.255", "ones");
        eq(MeshNetwork.toText(0x00000000), "0.0.0.0", "zeros");
    }
}
