//! Takes out of a text whatever may be a secret, wherever the text is from. It rather takes too much: of a long key, hash or
//! identifier the beginning is left, by which two of them can be told apart.

use mesh_chain::cut_urls;

/// Characters of a long word that are left.
const LEFT: usize = 8;
/// Words from this length on are long.
const LONG: usize = 20;
/// Digits from which on a long word is no word of a language.
const MANY_DIGITS: usize = 4;
/// What stands behind one of these, and a colon or an equals sign, is a secret whatever it looks like.
const SECRETS: [&str; 12] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "private_key",
    "private-key",
    "privatekey",
    "mnemonic",
    "api_key",
    "api-key",
    "apikey",
    "authorization",
];

/// The text without secrets: URLs end behind the host, long words that no person would write are cut, and what is called a secret is
/// left out to the end of its line.
pub(crate) fn redact(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for line in cut_urls(text).split_inclusive('\n') {
        clean.push_str(&without_long_words(&without_named(line)));
    }
    clean
}

/// `password = hunter2` becomes `password = …`.
fn without_named(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let named = SECRETS.iter().filter_map(|name| {
        let end = lower.find(name)? + name.len();
        // A quote may stand between: `"password": "…"`; `private_key_file` names no secret.
        let gap = lower[end..].find(|c: char| !matches!(c, '"' | '\'' | '`' | ' '))?;
        let rest = &lower[end + gap..];
        rest.starts_with([':', '=']).then_some(end + gap + 1)
    });
    match named.min() {
        Some(end) => format!("{} …{}", &line[..end], if line.ends_with('\n') { "\n" } else { "" }),
        None => line.to_owned(),
    }
}

fn without_long_words(line: &str) -> String {
    let in_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '_' | '=' | '-' | '~');
    let mut clean = String::with_capacity(line.len());
    let mut rest = line;
    while !rest.is_empty() {
        let gap = rest.find(in_word).unwrap_or(rest.len());
        clean.push_str(&rest[..gap]);
        rest = &rest[gap..];
        let word = &rest[..rest.find(|c| !in_word(c)).unwrap_or(rest.len())];
        // In base64 there are slashes, as in paths.
        let base64 = &rest[..rest.find(|c| !in_word(c) && c != '/').unwrap_or(rest.len())];
        let word = if base64.len() > word.len() && is_base64(base64) { base64 } else { word };
        if is_long(word) || is_base64(word) {
            clean.push_str(&word[..LEFT]);
            clean.push('…');
        } else {
            clean.push_str(word);
        }
        rest = &rest[word.len()..];
    }
    clean
}

/// Key material as base64 has it: of 32 bytes, or more.
fn is_base64(word: &str) -> bool {
    let has = |test: fn(&u8) -> bool| word.bytes().any(|byte| test(&byte));
    word.len() >= 40
        && has(u8::is_ascii_uppercase)
        && has(u8::is_ascii_lowercase)
        && has(u8::is_ascii_digit)
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
}

fn is_long(word: &str) -> bool {
    let count = |test: fn(&u8) -> bool| word.bytes().filter(test).count();
    let (digits, upper, lower) =
        (count(u8::is_ascii_digit), count(u8::is_ascii_uppercase), count(u8::is_ascii_lowercase));
    let is_mixed = digits >= MANY_DIGITS || (digits > 0 && upper > 0 && lower > 0);
    word.len() >= LONG && upper + lower > 0 && is_mixed && !is_address(word) && !is_time(word)
}

/// An account, an app id or an instance id, by which a cluster's contract names its nodes; also as the first part of a gateway's name:
/// `<instance>-<port>s`.
fn is_address(word: &str) -> bool {
    let digits = word.strip_prefix("0x").unwrap_or(word);
    let (id, port) = digits.split_once('-').unwrap_or((digits, ""));
    let is_port = port.len() <= 6 && port.bytes().all(|byte| byte.is_ascii_digit() || byte == b's' || byte == b'g');
    id.len() == 40 && is_port && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `20261125T183522Z` and the like.
fn is_time(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit() || b"TZ+-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_looks_like_a_key_is_cut() {
        for (secret, left) in [
            ("0x4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318", "0x4c0883…"),
            ("4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318", "4c0883a6…"),
            ("yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=", "yAnz5TF+…"),
            ("2+/hFz5TFAlXXJte14tji3zlMNq/hd2rYUIgJBgB3fk=", "2+/hFz5T…"),
            ("sk_live_4eC39HqLyjWDarjtT1zdp7dc", "sk_live_…"),
            ("8f14e45f-ceea-467f-a8f7-1d2c3b4a5e6f", "8f14e45f…"),
            ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "ghp_16C7…"),
            ("AKIAIOSFODNN7EXAMPLEKEYab", "AKIAIOSF…"),
        ] {
            assert_eq!(redact(&format!("of {secret}, and")), format!("of {left}, and"));
            assert_eq!(redact(&format!("\"{secret}\"")), format!("\"{left}\""));
            assert_eq!(
                redact(&format!("wss://user:pw@rpc.example/v2/{secret}?x=1 failed")),
                "wss://rpc.example… failed"
            );
        }
    }

    #[test]
    fn what_is_called_a_secret_is_left_out() {
        for (line, left) in [
            ("password = hunter2\n", "password = …\n"),
            ("  \"Secret\": \"a b c\",\nmtu = 1400", "  \"Secret\": …\nmtu = 1400"),
            ("Authorization: Bearer abc", "Authorization: …"),
            ("API_KEY=abc", "API_KEY= …"),
            ("mnemonic: test test test junk", "mnemonic: …"),
        ] {
            assert_eq!(redact(line), left);
        }
        assert_eq!(redact("private_key_file: /run/key.pem"), "private_key_file: /run/key.pem");
    }

    #[test]
    fn what_finds_a_fault_stays() {
        for text in [
            "node-7 10.0.1.7 203.0.113.5:51820 [2001:db8::1]:51820",
            "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266 f39fd6e51aad88f6f4ce6ab8827279cfffb92266",
            "tls://f39fd6e51aad88f6f4ce6ab8827279cfffb92266-51823s.gw.example:443",
            "2026-11-25T18:35:22.123Z 20261125T183522Z",
            "/usr/lib/systemd/system/p2p-agent-guard@.service",
            "net.ipv4.tcp_congestion_control = bbr, 6.18.44-fc-v782",
            "the registration of token 12 is not believed: not signed by the node key",
            "mesh_core::agent::duties: warning W305 registry-unreadable direct_udp_silent",
        ] {
            assert_eq!(redact(text), text);
        }
    }
}
