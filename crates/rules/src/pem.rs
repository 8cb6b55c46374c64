//! Blocks of PEM: of which types they are, and whether they are any (Go's `encoding/pem` and `crypto/tls`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// The types of the blocks in a field of bytes, which is written in base64.
pub(crate) fn types(field: &str) -> Vec<String> {
    let bytes = BASE64.decode(field).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut rest = &*text;
    let mut types = Vec::new();
    while let Some((label, after)) = next(rest) {
        let end = format!("{END}{label}{DASHES}");
        // What is no block is passed over, and the next one is looked for behind its first line.
        rest = after;
        let Some((body, behind)) = after.split_once(&end) else { continue };
        let is_header = |line: &&str| line.contains(':') || line.is_empty();
        let lines = body.lines().map(str::trim).skip_while(is_header);
        if BASE64.decode(lines.collect::<String>()).is_ok() {
            types.push(label.to_owned());
            rest = behind;
        }
    }
    types
}

/// The next line that begins a block: its type, and what follows.
fn next(text: &str) -> Option<(&str, &str)> {
    text.match_indices(BEGIN).find_map(|(at, _)| {
        let starts_line = at == 0 || text[..at].ends_with('\n');
        let (line, rest) = text[at + BEGIN.len()..].split_once('\n')?;
        let label = line.trim_end().strip_suffix(DASHES).filter(|_| starts_line)?;
        Some((label, rest))
    })
}

/// Why a server cannot use a certificate and a key, as far as their blocks tell.
pub(crate) fn pair_fault(certificate: &str, key: &str) -> Option<String> {
    let skipped = types(certificate);
    let is_key = |label: &str| label.ends_with("PRIVATE KEY");
    if !skipped.iter().any(|label| label == "CERTIFICATE") {
        return Some(match &*skipped {
            [] => "tls: failed to find any PEM data in certificate input".to_owned(),
            [only] if is_key(only) => "tls: failed to find certificate PEM data in certificate input, but did find a \
                                       private key; PEM inputs may have been switched"
                .to_owned(),
            all => format!(
                "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the \
                 following types: [{}]",
                all.join(" ")
            ),
        });
    }
    let skipped = types(key);
    if skipped.iter().any(|label| is_key(label)) {
        return None;
    }
    Some(match &*skipped {
        [] => "tls: failed to find any PEM data in key input".to_owned(),
        [only] if only == "CERTIFICATE" => {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        }
        all => format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks \
             of the following types: [{}]",
            all.join(" ")
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs() {
        let block = |label: &str| format!("x\n{BEGIN}{label}{DASHES}\nAAEC\n{END}{label}{DASHES}\n");
        let (certificate, key) = (block("CERTIFICATE"), block("EC PRIVATE KEY"));
        let broken = key.replace("AAEC", "%");
        for (certificate, key, fault) in [
            (&*certificate, &*key, None),
            (&format!("{}{certificate}", block("EC PARAMETERS")), &format!("{broken}{key}"), None),
            ("", &key, Some("failed to find any PEM data in certificate input")),
            (&key, &certificate, Some("PEM inputs may have been switched")),
            (&block("A"), &key, Some("of the following types: [A]")),
            (&certificate, "", Some("failed to find any PEM data in key input")),
            (&certificate, &broken, Some("failed to find any PEM data in key input")),
            (&certificate, &certificate, Some("found a certificate rather than a key")),
            (&certificate, &format!("{certificate}{certificate}"), Some("types: [CERTIFICATE CERTIFICATE]")),
        ] {
            let found = pair_fault(&BASE64.encode(certificate), &BASE64.encode(key));
            assert_eq!(found.is_some(), fault.is_some(), "{found:?} {fault:?}");
            assert!(found.unwrap_or_default().contains(fault.unwrap_or_default()), "{fault:?}");
        }
    }
}
