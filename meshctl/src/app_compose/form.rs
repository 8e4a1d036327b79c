//! The forms in which dstack's tools write app-compose.json. The same document has another compose hash in each.

use super::Json;

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// As the SDKs hash it: names sorted, no white space
    Compact,
    /// As Phala Cloud writes it: names sorted, four spaces, none after a colon
    Phala,
    /// As dstack's vmm-cli.py writes it: the file's order, four spaces
    Vmm,
}

/// What Phala Cloud's own text does with characters above ASCII. Which of the two it is has not been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PhalaText {
    AsItIs,
    Escaped,
}

/// A document without the members that Phala Cloud's tools leave out: the script or compose file of the other runner, and an
/// empty script to run before.
pub(crate) struct Normalized(Json);

/// A number that the tools do not write alike.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it has the number {0}, which dstack's tools do not write alike: hash the file that is deployed, without `--form`"
)]
pub(crate) struct UnclearNumber(String);

impl Form {
    /// The document's text.
    ///
    /// # Errors
    /// It has a number with a fraction or an exponent.
    pub(crate) fn write(self, document: &Json) -> Result<String, UnclearNumber> {
        match self {
            Self::Compact => Style { indent: 0, colon: ":", is_sorted: true, text: PhalaText::AsItIs }.write(document),
            Self::Phala => Normalized::new(document.clone()).write(PhalaText::AsItIs),
            Self::Vmm => Style { indent: 4, colon: ": ", is_sorted: false, text: PhalaText::AsItIs }.write(document),
        }
    }

    /// What may make another tool's hash of this document differ.
    pub(crate) fn warnings(self, document: &Json) -> Vec<&'static str> {
        let has_other_characters = document.any_text(&|text| !text.is_ascii());
        let mut warnings = Vec::new();
        if self == Self::Phala && has_other_characters {
            warnings.push(
                "it has characters above ASCII: whether Phala Cloud writes them as they are, as here, has not been seen",
            );
        }
        if self == Self::Phala && document.any_text(&|text| text.contains("\": ")) {
            warnings.push(
                "it has a quote, a colon and a space inside of a string: Phala's JavaScript helper drops that space and gives \
                 another hash, Phala Cloud does not",
            );
        }
        if self == Self::Compact && has_other_characters {
            warnings.push("it has characters above ASCII: the Go SDK escapes some of them, the others none");
        }
        warnings
    }
}

impl Normalized {
    pub(crate) fn new(document: Json) -> Self {
        let Json::Object(members) = document else { return Self(document) };
        let runner = members.iter().find(|(name, _)| name == "runner").and_then(|(_, value)| value.as_text());
        let of_other_runner = match runner {
            Some("bash") => Some("docker_compose_file"),
            Some("docker-compose") => Some("bash_script"),
            Some(_) | None => None,
        };
        let is_empty =
            |value: &Json| matches!(value, Json::Null | Json::Bool(false)) || *value == Json::Text(String::new());
        let is_kept = |(name, value): &(String, Json)| {
            Some(name.as_str()) != of_other_runner && !(name == "pre_launch_script" && is_empty(value))
        };
        Self(Json::Object(members.into_iter().filter(is_kept).collect()))
    }

    /// Phala Cloud's text.
    ///
    /// # Errors
    /// It has a number with a fraction or an exponent.
    pub(crate) fn write(&self, text: PhalaText) -> Result<String, UnclearNumber> {
        Style { indent: 4, colon: ":", is_sorted: true, text }.write(&self.0)
    }
}

struct Style {
    /// Spaces per level; 0: all on one line.
    indent: usize,
    colon: &'static str,
    is_sorted: bool,
    text: PhalaText,
}

impl Style {
    fn write(&self, document: &Json) -> Result<String, UnclearNumber> {
        let mut out = String::new();
        self.value(document, 1, &mut out)?;
        Ok(out)
    }

    fn value(&self, value: &Json, depth: usize, out: &mut String) -> Result<(), UnclearNumber> {
        match value {
            Json::Null => out.push_str("null"),
            Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Json::Number(number) if number.is_f64() => return Err(UnclearNumber(number.to_string())),
            Json::Number(number) => out.push_str(&number.to_string()),
            Json::Text(text) => self.text(text, out),
            Json::List(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    self.next(at, depth, out);
                    self.value(item, depth + 1, out)?;
                }
                self.close(items.is_empty(), depth, ']', out);
            }
            Json::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                if self.is_sorted {
                    members.sort_by(|(one, _), (other, _)| one.cmp(other));
                }
                out.push('{');
                for (at, (name, value)) in members.iter().enumerate() {
                    self.next(at, depth, out);
                    self.text(name, out);
                    out.push_str(self.colon);
                    self.value(value, depth + 1, out)?;
                }
                self.close(members.is_empty(), depth, '}', out);
            }
        }
        Ok(())
    }

    fn next(&self, at: usize, depth: usize, out: &mut String) {
        if at > 0 {
            out.push(',');
        }
        self.line(depth, out);
    }

    fn close(&self, is_empty: bool, depth: usize, bracket: char, out: &mut String) {
        if !is_empty {
            self.line(depth - 1, out);
        }
        out.push(bracket);
    }

    fn line(&self, depth: usize, out: &mut String) {
        if self.indent > 0 {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', depth * self.indent));
        }
    }

    /// JavaScript, Python and serde_json escape the same characters in the same way.
    fn text(&self, text: &str, out: &mut String) {
        let quoted = serde_json::Value::from(text).to_string();
        match self.text {
            PhalaText::AsItIs => out.push_str(&quoted),
            PhalaText::Escaped => {
                for c in quoted.chars() {
                    if c.is_ascii() && c != '\u{7f}' {
                        out.push(c);
                    } else {
                        out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app_compose::{compose_hash, parse};

    /// Byte for byte as the official functions of JavaScript (`@phala/cloud` 0.2.9) and Python (`dstack-sdk` 0.5.4) hash it.
    const DOCUMENT: &str = r#"{"allowed_envs":["A","B"],"docker_compose_file":"services:\n  a:\n    image: \"x\"\n","gateway_enabled":true,"kms_enabled":true,"manifest_version":2,"name":"","no_instance_id":false,"public_logs":false,"public_sysinfo":false,"public_tcbinfo":true,"runner":"docker-compose","secure_time":false}"#;
    /// The same, in the order in which vmm-cli.py makes it.
    const VMM_DOCUMENT: &str = r#"{"manifest_version":2,"name":"","runner":"docker-compose","docker_compose_file":"services:\n  a:\n    image: \"x\"\n","kms_enabled":true,"gateway_enabled":true,"public_logs":false,"public_sysinfo":false,"public_tcbinfo":true,"allowed_envs":["A","B"],"no_instance_id":false,"secure_time":false}"#;
    /// Its bytes are pinned by dstack's `sdk/go/compose_hash_parity_test.go`.
    const REQUIREMENTS: &str = r#"{"requirements":{"os_version":">=0.6.1"},"runner":"docker-compose"}"#;

    const COMPACT: &str = "da86b7a58b734be4d12e67eda1acb76009ca60f5acfbe872e36bde457b1cdf1a";

    fn hash(text: &str) -> String {
        hex::encode(compose_hash(text.as_bytes()))
    }

    fn written(document: &str, form: Form) -> String {
        form.write(&parse(document).unwrap()).unwrap()
    }

    #[test]
    fn bytes_are_hashed_as_they_are() {
        assert_eq!((DOCUMENT.len(), hash(DOCUMENT).as_str()), (293, COMPACT));
        let with_line_feed = format!("{DOCUMENT}\n");
        assert_eq!(hash(&with_line_feed), "c86bd911f54b65aa45f30e348fe878b254d17478683eba13abd8db71454a6ae1");
    }

    #[test]
    fn the_compact_form() {
        assert_eq!(written(DOCUMENT, Form::Compact), DOCUMENT);
        assert_eq!(hash(&written(VMM_DOCUMENT, Form::Compact)), COMPACT, "the order of members does not matter");
        assert_eq!(
            hash(&written(REQUIREMENTS, Form::Compact)),
            "2b8ea933129a65e77734f6ced4c26628e91f68d38e354101cbafbd738d709741"
        );
    }

    #[test]
    fn the_phala_form() {
        let text = written(VMM_DOCUMENT, Form::Phala);
        assert_eq!(text.len(), 377);
        assert_eq!(hash(&text), "229645101978ff046e3fc8f5338bcca15d86468359561a8062e1315de4667c88");
        let named = DOCUMENT.replace(r#""name":"""#, r#""name":"node-2""#);
        assert_eq!(
            hash(&written(&named, Form::Phala)),
            "150bb21a29f7d1d52cbe1ed7aa6b1e82123c18a1957ad361045fb78c1a3f2135",
            "a CVM's name is part of its hash"
        );
    }

    #[test]
    fn the_vmm_form_keeps_the_order() {
        let text = written(VMM_DOCUMENT, Form::Vmm);
        assert_eq!(text.len(), 389);
        assert_eq!(hash(&text), "f148075f8b65aee644c8eb22113c0aad340ff58bf05567ac9a9bc8b6743f1806");
        assert_ne!(hash(&written(DOCUMENT, Form::Vmm)), hash(&text));
    }

    #[test]
    fn the_phala_form_leaves_out_what_the_runner_does_not_use() {
        let text = r#"{"runner":"bash","bash_script":"true","docker_compose_file":"x","pre_launch_script":""}"#;
        assert_eq!(written(text, Form::Phala), "{\n    \"bash_script\":\"true\",\n    \"runner\":\"bash\"\n}");
        let text =
            r#"{"runner":"docker-compose","bash_script":null,"docker_compose_file":"x","pre_launch_script":"y"}"#;
        let kept = written(text, Form::Phala);
        assert!(!kept.contains("bash_script") && kept.contains("pre_launch_script"), "{kept}");
        assert!(written(text, Form::Compact).contains("bash_script"), "the SDKs drop nothing unless they are told to");
    }

    #[test]
    fn empty_lists_and_nested_objects_are_written_as_python_and_javascript_do() {
        let text = r#"{"runner":"bash","a":[],"b":{},"c":{"e":[1,null],"d":true}}"#;
        let phala = written(text, Form::Phala);
        let expected = "{\n    \"a\":[],\n    \"b\":{},\n    \"c\":{\n        \"d\":true,\n        \"e\":[\n            1,\n            \
                        null\n        ]\n    },\n    \"runner\":\"bash\"\n}";
        assert_eq!(phala, expected);
    }

    #[test]
    fn characters_above_ascii_stay_or_are_escaped_as_python_does() {
        let document = parse("{\"runner\":\"bash\",\"name\":\"é😀\\u007f\\n\\u0001\"}").unwrap();
        let as_it_is = Form::Phala.write(&document).unwrap();
        assert!(as_it_is.contains("\"name\":\"é😀\u{7f}\\n\\u0001\""), "{as_it_is}");
        let escaped = Normalized::new(document.clone()).write(PhalaText::Escaped).unwrap();
        assert!(escaped.contains(r#""name":"\u00e9\ud83d\ude00\u007f\n\u0001""#), "{escaped}");
        assert_eq!(Form::Phala.warnings(&document).len(), 1);
        assert_eq!(Form::Vmm.warnings(&document), [""; 0]);
    }

    #[test]
    fn what_is_known_to_differ_is_warned_of() {
        let quoted = parse(r#"{"runner":"bash","bash_script":"echo '{\"a\": 1}'"}"#).unwrap();
        let [warning] = Form::Phala.warnings(&quoted)[..] else { panic!("one warning") };
        assert!(warning.contains("JavaScript helper"), "{warning}");
        assert!(Form::Phala.warnings(&parse(DOCUMENT).unwrap()).is_empty());
    }

    #[test]
    fn a_number_that_tools_write_differently_is_refused() {
        for number in ["1.0", "1e3", "0.1"] {
            let document = parse(&format!(r#"{{"runner":"bash","swap_size":{number}}}"#)).unwrap();
            assert!(Form::Compact.write(&document).is_err(), "{number}");
        }
        let whole = parse(r#"{"runner":"bash","swap_size":18446744073709551615,"x":-1}"#).unwrap();
        assert!(Form::Compact.write(&whole).unwrap().contains("18446744073709551615"));
    }
}
