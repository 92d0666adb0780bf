//! A key set in a file of the bundle: what can be said of it before a proxy uses it.

use daemon::config_file::span_of;
use daemon::finding::{Finding, Findings, did_you_mean};
use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::bundle::files::{self, Files};
use crate::bundle::mesh::FILE;

/// The largest key set, in bytes, and the most keys in it. Proxies take no more.
const SIZE_MAX: usize = 256 * 1024;
const COUNT_MAX: usize = 100;
/// The types of keys that there are public keys of.
const TYPES: [&str; 3] = ["RSA", "EC", "OKP"];

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// The text of the key set in the file called `name`. What is wrong with it is added to `findings`.
pub(super) fn read(
    name: &Spanned<String>,
    source: &str,
    files: &Files,
    findings: &mut Findings,
) -> Option<String> {
    let Some(text) = files.text(&name.value) else {
        let message = format!("the bundle has no file `{}`", name.value);
        let finding = Finding::at(FILE, source, span_of(name, source), message);
        let others = files.texts.keys().map(String::as_str).filter(|file| !files::is_known(file));
        findings.push(match did_you_mean(&name.value, others) {
            Some(near) => finding.with_help(format!("did you mean `{near}`?")),
            None => finding.with_help("put the key set into the bundle's folder; its name ends in `.json`"),
        });
        return None;
    };
    match check(text) {
        Ok(()) => Some(text.to_owned()),
        Err((place, message, help)) => {
            findings.add_source(name.value.as_str(), text);
            findings.push(Finding::at(name.value.as_str(), text, place..place + 1, message).with_help(help));
            None
        }
    }
}

/// Where a text is no key set, why not, and what to do.
type Wrong = (usize, String, &'static str);

fn check(text: &str) -> Result<(), Wrong> {
    let start = |message: String, help| Err((0, message, help));
    if text.len() > SIZE_MAX {
        return start(
            format!("a key set has at most {} KiB", SIZE_MAX / 1024),
            "leave out keys that are not used",
        );
    }
    let set: KeySet = serde_json::from_str(text).map_err(|error| {
        let help = "write a JWK set (RFC 7517): `{\"keys\": [{\"kty\": \"EC\", …}]}`";
        (offset(text, error.line(), error.column()), format!("this is no key set: {error}"), help)
    })?;
    if set.keys.len() > COUNT_MAX {
        return start(format!("a key set has at most {COUNT_MAX} keys"), "leave out keys that are not used");
    }
    if set.keys.iter().any(|key| key.get("d").is_some()) {
        let help = "leave `d`, `p`, `q` and their like out of it, and make a new key: this one is no secret any more";
        return Err((text.find("\"d\"").unwrap_or(0), "this is a private key".to_owned(), help));
    }
    let is_public =
        |key: &Value| TYPES.iter().any(|kind| key.get("kty").and_then(Value::as_str) == Some(kind));
    if !set.keys.iter().any(is_public) {
        let help = "its keys have to be public keys: of the type `RSA`, `EC` or `OKP`";
        return start("no key of this set can verify a token".to_owned(), help);
    }
    Ok(())
}

/// The byte that is at this line and column, both from 1.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let before: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (before + column.saturating_sub(1)).min(text.len())
}
