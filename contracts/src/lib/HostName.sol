// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title  The grammar of a gateway's base domain.
/// @dev    Lower-case host names only (RFC 1123 labels), so that a URL made from one has a single spelling: at least two labels
///         of 1 to 63 characters out of [a-z0-9-], none beginning or ending with '-', the last one beginning with a letter (what
///         ends in a number is an IPv4 address to a URL parser). No port, no user info, no trailing dot, no wildcard. 205
///         characters at most: a host name has 253, of which "<instance id>-<port>s." takes 48.
library HostName {
    uint256 internal constant MAX_LENGTH = 205;
    uint256 internal constant MAX_LABEL = 63;

    function isValid(string calldata name) internal pure returns (bool) {
        bytes calldata text = bytes(name);
        if (text.length == 0 || text.length > MAX_LENGTH) return false;
        uint256 labels = 1;
        uint256 label = 0; // characters of the current label so far
        bytes1 first; // of the current label
        bytes1 previous = "-"; // a label may not begin with '-', which is how "no character yet" reads below
        for (uint256 i = 0; i < text.length; ++i) {
            bytes1 c = text[i];
            if (c == ".") {
                if (label == 0 || previous == "-") return false;
                ++labels;
                label = 0;
            } else {
                if (!_isLetterOrDigit(c) && (c != "-" || label == 0)) return false;
                if (label == 0) first = c;
                if (++label > MAX_LABEL) return false;
            }
            previous = c;
        }
        return labels > 1 && label != 0 && previous != "-" && first >= "a";
    }

    function _isLetterOrDigit(bytes1 c) private pure returns (bool) {
        return (c >= "a" && c <= "z") || (c >= "0" && c <= "9");
    }
}
