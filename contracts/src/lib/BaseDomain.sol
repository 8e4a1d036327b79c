// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

/// @title  The grammar of a gateway's base domain: HOST, or HOST:PORT where the gateway does not listen on 443.
/// @dev    One spelling for each gateway, and for the URLs made from it. HOST: lower-case labels (RFC 1123), at least two, of 1 to 63
///         characters out of [a-z0-9-], none beginning or ending with '-', the last one beginning with a letter (what ends in a
///         number is an IPv4 address to a URL parser); 205 characters at most, because a host name has 253, of which
///         "<instance id>-<port>s." takes 48. PORT: 1 to 65535 without leading zeros, and not 443. No user info, no trailing dot, no
///         wildcard, no address.
library BaseDomain {
    uint256 internal constant MAX_HOST = 205;
    uint256 internal constant MAX_LABEL = 63;
    uint256 internal constant HTTPS = 443;

    function isValid(string calldata domain) internal pure returns (bool) {
        bytes calldata text = bytes(domain);
        uint256 labels = 1;
        uint256 label = 0; // characters of the current label so far
        bytes1 first; // of the current label
        bytes1 previous = "-"; // a label may not begin with '-', which is how "no character yet" reads below
        uint256 host = 0; // characters of the host so far
        for (; host < text.length; ++host) {
            bytes1 c = text[host];
            if (c == ":") break;
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
        if (labels == 1 || label == 0 || previous == "-" || first < "a" || host > MAX_HOST) return false;
        return host == text.length || _isOtherPort(text[host + 1:]);
    }

    /// A port that has to be said.
    function _isOtherPort(bytes calldata digits) private pure returns (bool) {
        if (digits.length == 0 || digits.length > 5 || digits[0] == "0") return false;
        uint256 port = 0;
        for (uint256 i = 0; i < digits.length; ++i) {
            bytes1 c = digits[i];
            if (c < "0" || c > "9") return false;
            port = port * 10 + uint8(c) - 0x30; // the digit zero
        }
        return port <= type(uint16).max && port != HTTPS;
    }

    function _isLetterOrDigit(bytes1 c) private pure returns (bool) {
        return (c >= "a" && c <= "z") || (c >= "0" && c <= "9");
    }
}
