//! The form of CoreDNS's configuration: blocks of lines, each for the zones it names. What the lines mean is not known here.
//!
//! ```text
//! acme.example:53 {      # a block and its zones
//!     forward . 10.0.0.53 {
//!         max_fails 3    # a line of the line's own block
//!     }
//! }
//! ```

/// A block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block<'a> {
    /// Its zones, as they are written.
    pub(super) zones: Vec<&'a str>,
    pub(super) lines: Vec<Line<'a>>,
}

/// A line of a block, and those that belong to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// Never empty.
    pub(super) words: Vec<&'a str>,
    pub(super) below: Vec<Vec<&'a str>>,
}

/// The blocks of a text; an error says what is wrong and on which line.
pub(super) fn parse(text: &str) -> Result<Vec<Block<'_>>, String> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    // How deep we are: 1 in a block, 2 in a line's own.
    let mut depth = 0;
    for (number, line) in (1..).zip(text.lines()) {
        let wrong = |what: &str| Err(format!("line {number}: {what}"));
        let line = line.split_once('#').map_or(line, |(line, _)| line);
        let mut words: Vec<&str> = line.split_whitespace().map(|word| word.trim_matches('"')).collect();
        let opens = words.last() == Some(&"{");
        if opens {
            words.pop();
        }
        if words.iter().any(|word| word.contains(['{', '}'])) && words != ["}"] {
            return wrong("braces stand at the end of a line or on one of their own");
        }
        match (words.as_slice(), depth) {
            ([], _) if opens => return wrong("nothing in front of {"),
            ([], _) => {}
            (["}"], 0) => return wrong("} without {"),
            (["}"], _) => depth -= 1,
            (_, 0) if !opens => return wrong("zones and then {"),
            (_, 0) => {
                let zones = words.iter().flat_map(|word| word.split(',')).filter(|zone| !zone.is_empty()).collect();
                blocks.push(Block { zones, lines: Vec::new() });
                depth = 1;
            }
            (_, 1) => {
                let Some(block) = blocks.last_mut() else { continue };
                block.lines.push(Line { words, below: Vec::new() });
                depth += usize::from(opens);
            }
            (_, _) if opens => return wrong("{ within the block of a line"),
            (_, _) => {
                let Some(line) = blocks.last_mut().and_then(|block| block.lines.last_mut()) else { continue };
                line.below.push(words);
            }
        }
    }
    if depth > 0 { Err("a } is missing at the end".to_owned()) } else { Ok(blocks) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_lines_and_lines_below_them() {
        let text = "# all\n.:53, b.example {\n  errors\n\n  forward . \"10.0.0.1\" { # here\n    max_fails 3\n  }\n}\nc {\n}\n";
        let line = |words: &[&'static str], below: &[&[&'static str]]| Line {
            words: words.to_vec(),
            below: below.iter().map(|words| words.to_vec()).collect(),
        };
        let first = Block {
            zones: vec![".:53", "b.example"],
            lines: vec![line(&["errors"], &[]), line(&["forward", ".", "10.0.0.1"], &[&["max_fails", "3"]])],
        };
        assert_eq!(parse(text), Ok(vec![first, Block { zones: vec!["c"], lines: vec![] }]));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, why) in [
            ("a {\n", "a } is missing at the end"),
            ("}\n", "line 1: } without {"),
            ("\n a b\n", "line 2: zones and then {"),
            ("a {\n {\n", "line 2: nothing in front of {"),
            ("a {\n b {\n c {\n", "line 3: { within the block of a line"),
            ("a {\n b{c\n", "line 2: braces stand at the end of a line or on one of their own"),
        ] {
            assert_eq!(parse(text), Err(why.to_owned()), "{text:?}");
        }
    }
}
