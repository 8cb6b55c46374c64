//! `--config FILE`: the flags of a command in YAML, a key per flag. What the command line says goes before the file.

use clap::{Arg, ArgAction, Command, CommandFactory};
use serde_json::Value;

use crate::error::StartError;
use crate::flags::Skiff;

/// The words of a command line with those of its file put in.
pub(crate) fn expand(words: Vec<String>) -> Result<Vec<String>, StartError> {
    let [_, name, rest @ ..] = &words[..] else { return Ok(words) };
    let skiff = Skiff::command();
    // Other commands mean another file by this flag.
    let reads_it = |command: &&Command| command.get_arguments().any(|arg| arg.get_id() == "_config");
    let (Some(command), Some(Some(file))) = (skiff.find_subcommand(name).filter(reads_it), given(rest, "config"))
    else {
        return Ok(words);
    };
    let failed = |why: String| StartError::Config(file.to_owned(), why);
    let text = std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
    let config: Value = serde_saphyr::from_str(&text).map_err(|error| failed(error.to_string()))?;
    let more = flags(&config, rest, command).map_err(failed)?;
    Ok([&words[..2], &more, rest].concat())
}

/// Whether a flag is among the words, and what is said beside it.
fn given<'a>(words: &'a [String], flag: &str) -> Option<Option<&'a str>> {
    let words = &words[..words.iter().position(|word| word == "--").unwrap_or(words.len())];
    words.iter().enumerate().find_map(|(at, word)| {
        let rest = word.strip_prefix("--")?.strip_prefix(flag)?;
        match rest.strip_prefix('=') {
            Some(value) => Some(Some(value)),
            None => rest.is_empty().then(|| words.get(at + 1).map(String::as_str)),
        }
    })
}

/// The words for what a file says, but for flags that were given.
fn flags(config: &Value, rest: &[String], command: &Command) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let entries = match config {
        Value::Null => return Ok(words),
        Value::Object(entries) => entries,
        _ => return Err("it is no map of flags, such as `secure-port: 6443`".to_owned()),
    };
    for (flag, value) in entries {
        let is_it = |arg: &&Arg| arg.get_long_and_visible_aliases().is_some_and(|names| names.contains(&flag.as_str()));
        let Some(arg) = command.get_arguments().find(is_it).filter(|_| flag != "config") else {
            return Err(format!("there is no flag --{flag} of skiff {}", command.get_name()));
        };
        if given(rest, flag).is_some() {
            continue;
        }
        let says = |text: &str| format!("--{flag}={text}");
        let wrong = || format!("--{flag} cannot be {value}");
        match value {
            Value::Null => {}
            Value::Bool(on) if matches!(arg.get_action(), ArgAction::SetTrue) => {
                words.extend(on.then(|| format!("--{flag}")));
            }
            Value::Array(items) => {
                for item in items {
                    words.push(says(&scalar(item).ok_or_else(wrong)?));
                }
            }
            // Labels, for example.
            Value::Object(pairs) => {
                for (key, value) in pairs {
                    words.push(says(&format!("{key}={}", scalar(value).ok_or_else(wrong)?)));
                }
            }
            value => words.push(says(&scalar(value).ok_or_else(wrong)?)),
        }
    }
    Ok(words)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_file_says_what_flags_say() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text =
            "secure-port: 7000\nephemeral: true\nnode-label: {a: b}\ndisable: [dns, proxy]\ntls-san: [one, two]\n";
        std::fs::write(file.path(), text).unwrap();
        let config = file.path().display();
        let all = expand(words(&format!("skiff server --config {config} --disable agent"))).unwrap();
        let said = ["--secure-port=7000", "--ephemeral", "--node-label=a=b", "--tls-san=one", "--tls-san=two"];
        assert!(said.iter().all(|word| all.iter().any(|w| w == word)), "{all:?}");
        assert!(!all.iter().any(|word| word.starts_with("--disable=")), "{all:?}");
        let parsed = Skiff::try_parse_from(all).unwrap_or_else(|error| panic!("{error}"));
        let crate::flags::Command::Server(server) = parsed.command else { panic!("a server") };
        assert_eq!((server.secure_port, server.tls_san.len()), (7000, 2));

        std::fs::write(file.path(), "secure-prot: 7000\n").unwrap();
        let wrong = expand(words(&format!("skiff agent --config={config}"))).unwrap_err();
        assert!(wrong.to_string().contains("there is no flag --secure-prot of skiff agent"), "{wrong}");
        assert!(expand(words("skiff server --config /nowhere")).is_err());
    }

    #[test]
    fn other_commands_are_left_alone() {
        for text in [
            "skiff",
            "skiff server",
            "skiff scheduler --config x",
            "skiff kubectl get --config x",
            "skiff server -- --config x",
        ] {
            assert_eq!(expand(words(text)).unwrap(), words(text), "{text}");
        }
    }
}
