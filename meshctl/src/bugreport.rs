//! The text of `meshctl bugreport`: what someone who was not there needs to find a fault, and nothing that would let them in.

mod configuration;
mod log;
mod machine;
mod redact;

pub(crate) use configuration::settings_of;
pub(crate) use log::{journal, tail};
pub(crate) use machine::machine;
pub(crate) use redact::redact;

use crate::render::printable;

/// One part of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Section {
    /// What it is, in a few words.
    pub(crate) title: &'static str,
    /// The text, or why there is none.
    pub(crate) text: String,
}

impl Section {
    /// A section of the text, or of the reason why there is none.
    pub(crate) fn new(title: &'static str, text: Result<String, String>) -> Self {
        Self { title, text: text.unwrap_or_else(|reason| format!("(none: {reason})")) }
    }
}

/// The whole report. Each section's text passes `mask`, and then, whatever it is, [`redact()`]: no part can be forgotten.
pub(crate) fn report(sections: &[Section], mut mask: impl FnMut(&str) -> String) -> String {
    let mut report = String::new();
    for Section { title, text } in sections {
        let text = printable(&redact(&mask(text)));
        report.push_str(&format!("== {title} ==\n\n{}\n\n", text.trim_end()));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_is_masked_redacted_and_safe_for_a_terminal() {
        let sections = [
            Section::new("one", Ok("to 192.0.2.1\x1b[2J\n".to_owned())),
            Section::new("two", Err("https://rpc.example/v2/KEY was refused".to_owned())),
        ];
        let text = report(&sections, |text| text.replace("192.0.2.1", "198.51.100.1"));
        assert_eq!(
            text,
            "== one ==\n\nto 198.51.100.1\\u{1b}[2J\n\n== two ==\n\n(none: https://rpc.example… was refused)\n\n"
        );
    }
}
