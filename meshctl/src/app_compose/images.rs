//! Which images a docker-compose.yml names. A digest is what the compose hash vouches for: behind a tag, or a variable, the registry
//! or the operator could put anything.

/// What is wrong with a compose file that is to be measured.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unpinned {
    #[error("line {line}: image `{image}` has no digest, so that the compose hash does not say what it is")]
    NoDigest { line: usize, image: String },
    #[error("line {line}: image `{image}` is a variable, which is not measured")]
    Variable { line: usize, image: String },
    #[error("line {line}: it builds an image, and the compose hash does not say which")]
    Build { line: usize },
    #[error("line {line}: an image stands where it cannot be found for sure: give `image:` a line of its own")]
    Unclear { line: usize },
    #[error("it names no image")]
    NoImage,
}

/// Looks that every image has a digest. This reads lines and no YAML: what is written in another way than one key a line is refused,
/// never overlooked.
pub(crate) fn require_digests(compose_file: &str) -> Result<(), Unpinned> {
    let mut has_image = false;
    for (at, text) in compose_file.lines().enumerate() {
        let line = at + 1;
        let text = without_comment(text).trim();
        let text = text.strip_prefix("- ").unwrap_or(text).trim_start();
        if key(text, "build").is_some() {
            return Err(Unpinned::Build { line });
        }
        match key(text, "image") {
            Some(image) => {
                has_image = true;
                require_digest(image, line)?;
            }
            None if mentions_image(text) => return Err(Unpinned::Unclear { line }),
            None => {}
        }
    }
    if has_image { Ok(()) } else { Err(Unpinned::NoImage) }
}

/// The value of a key that begins the line, in quotes or not.
fn key<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let rest = ["\"", "'", ""].iter().find_map(|quote| {
        let rest = text.strip_prefix(quote)?.strip_prefix(name)?.strip_prefix(quote)?;
        rest.trim_start().strip_prefix(':')
    })?;
    (rest.is_empty() || rest.starts_with([' ', '\t'])).then(|| rest.trim())
}

/// The word, as a key within a line: `{image: x}`, `? image`.
fn mentions_image(text: &str) -> bool {
    let is_of_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '$');
    text.match_indices("image").any(|(at, word)| {
        let (before, after) = (text[..at].chars().next_back(), text[at + word.len()..].trim_start_matches(['"', '\'']));
        let begins_word = before.is_none_or(|c| !is_of_word(c));
        begins_word && (after.trim_start().starts_with(':') || text.starts_with('?'))
    })
}

fn require_digest(image: &str, line: usize) -> Result<(), Unpinned> {
    let image = image.trim_matches(['"', '\'']).to_owned();
    if image.contains('$') {
        return Err(Unpinned::Variable { line, image });
    }
    let digest = image.split_once("@sha256:").map(|(_, digest)| digest);
    match digest {
        Some(digest) if digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(()),
        Some(_) | None => Err(Unpinned::NoDigest { line, image }),
    }
}

/// YAML's comments begin a line, or follow white space.
fn without_comment(text: &str) -> &str {
    let begins =
        text.match_indices('#').find(|(at, _)| text[..*at].chars().next_back().is_none_or(char::is_whitespace));
    begins.map_or(text, |(at, _)| &text[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "@sha256:c143116fef3940e7f776bfc0919c256232ae5338a6e948c96b711e0b2383483a";

    #[test]
    fn every_image_with_a_digest_is_good() {
        let good = [
            format!(
                "services:\n  a:\n    image: registry.example/a:1.0{DIGEST} # the agent\n    environment:\n      IMAGE: x\n"
            ),
            format!(
                "services:\n  a:\n    \"image\": 'a{DIGEST}'\n  b:\n    image: \"b{DIGEST}\"\n    command: [show, --image, x]\n"
            ),
            format!("services:\n  a: &a\n    image: a{DIGEST}\n  b: *a\n# image: c:latest\n"),
        ];
        for text in good {
            assert_eq!(require_digests(&text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_the_hash_would_not_vouch_for_is_refused() {
        let file = |image: &str| format!("services:\n  a:\n    {image}\n");
        let no_digest = |image: &str| Unpinned::NoDigest { line: 3, image: image.to_owned() };
        for (line, wrong) in [
            ("image: a:1.0", no_digest("a:1.0")),
            ("image: a@sha256:12", no_digest("a@sha256:12")),
            ("image:", no_digest("")),
            ("image: ${IMAGE}", Unpinned::Variable { line: 3, image: "${IMAGE}".to_owned() }),
            ("build: .", Unpinned::Build { line: 3 }),
            ("{ image: a, command: b }", Unpinned::Unclear { line: 3 }),
            ("b: {\"image\": \"a\"}", Unpinned::Unclear { line: 3 }),
            ("b: {x: y,image: a}", Unpinned::Unclear { line: 3 }),
            ("? image", Unpinned::Unclear { line: 3 }),
        ] {
            assert_eq!(require_digests(&file(line)), Err(wrong), "{line}");
        }
        assert_eq!(require_digests("services:\n"), Err(Unpinned::NoImage));
        let hash_in_a_value = format!("services:\n  a:\n    image: a#b{DIGEST}\n");
        assert_eq!(require_digests(&hash_in_a_value), Ok(()));
    }
}
