//! `jwt:` of `mesh.yaml`: the issuers of tokens by name, and those whose tokens a service takes.

mod keys;
mod url;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::config::{KeySource, TokenIssuer, TokenPlace};
use daemon::config_file::span_of;
use daemon::finding::{Finding, Findings, did_you_mean};
use model::Name;
use model::limit::parse_duration;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::files::Files;
use super::mesh::{FILE, Key, Service};
use crate::author::lint::Lint;

/// How far clocks may be apart unless the bundle says otherwise, and at most.
const CLOCK_SKEW: Duration = Duration::from_secs(60);
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(600);
/// The most issuers of a mesh, the most audiences of an issuer, and the most claims that it takes from within others.
const COUNT_MAX: usize = 100;
/// The longest name of anything, in bytes.
const LENGTH_MAX: usize = 1024;
/// Where tokens are looked for unless the bundle says otherwise.
const HEADER: &str = "authorization";
/// How claims are read.
const READ: &str = "context.claims";
/// Headers that say where a request goes or where it ends, and those that proxies set themselves.
const NO_TOKEN: [&str; 7] =
    ["host", "content-length", "transfer-encoding", "connection", "cookie", "te", "x-forwarded-client-cert"];

/// Who signs tokens (JWT), and which of them are taken.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TokenIssuer")]
pub(super) struct RawIssuer {
    /// The claim `iss` of its tokens.
    #[schemars(with = "String", example = "https://accounts.shop.example")]
    issuer: Spanned<String>,
    /// One of these has to be in the claim `aud`. An empty list takes tokens that are meant for anybody.
    #[schemars(with = "Vec<String>", example = ["shop"])]
    audiences: Spanned<Vec<Spanned<String>>>,
    /// Where its public keys come from.
    #[schemars(with = "RawKeys")]
    jwks: Spanned<RawKeys>,
    /// Where a request has the token; in the header `authorization`, after `Bearer`, by default.
    #[schemars(with = "Option<RawPlace>")]
    from: Option<Spanned<RawPlace>>,
    /// How far its clock and a proxy's may be apart, 0s to 10m; 60s by default.
    #[schemars(with = "Option<String>", example = "60s")]
    clock_skew: Option<Spanned<String>>,
    /// Whether the application gets the token, too; true by default.
    forward: Option<bool>,
    /// Claims that stand within others: a name for each, and the way to it.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Vec<String>>", example = inner_claims())]
    claims: BTreeMap<Key, Spanned<Vec<String>>>,
}

/// Where an issuer's public keys, a JWK set, come from: a `file` of the bundle, or a `url`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Keys")]
struct RawKeys {
    /// A file of the bundle.
    #[schemars(with = "Option<String>", example = "accounts.jwks.json")]
    file: Option<Spanned<String>>,
    /// Where proxies fetch it: by `https`, or by `http` from their own host.
    #[schemars(with = "Option<String>", example = "https://accounts.shop.example/jwks")]
    url: Option<Spanned<String>>,
}

/// Where a request has a token: in a `header`, a `cookie` or a parameter of the `query`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Place")]
struct RawPlace {
    /// A header's name. What it holds is the token, with or without `Bearer`.
    header: Option<String>,
    /// A cookie's name.
    cookie: Option<String>,
    /// A query parameter's name.
    query: Option<String>,
}

fn inner_claims() -> BTreeMap<&'static str, [&'static str; 2]> {
    BTreeMap::from([("roles", ["realm_access", "roles"])])
}

/// The issuers that are declared; none for one that is wrong, so that it is known all the same.
pub(super) type Declared = BTreeMap<String, Option<TokenIssuer>>;

/// The files that hold keys.
pub(super) fn key_files(raw: &BTreeMap<Key, RawIssuer>) -> impl Iterator<Item = String> {
    raw.values().filter_map(|issuer| Some(issuer.jwks.value.file.as_ref()?.value.clone()))
}

/// Reads the issuers of a mesh, and adds what is wrong with them to `findings`.
pub(super) fn read(
    raw: &BTreeMap<Key, RawIssuer>,
    source: &str,
    files: &Files,
    findings: &mut Findings,
) -> Declared {
    let mut reader = Reader { source, files, findings };
    if let Some((Key(name), _)) = raw.iter().nth(COUNT_MAX) {
        reader.wrong(
            name,
            format!("there are more than {COUNT_MAX} issuers"),
            "leave out what no service takes",
        );
    }
    raw.iter().map(|(Key(name), raw)| (name.value.clone(), reader.issuer(name, raw))).collect()
}

/// Those of the `declared` issuers whose tokens a service takes, by the `names` that it gives.
pub(super) fn of_service(
    names: &[Spanned<String>],
    declared: &Declared,
    source: &str,
    findings: &mut Findings,
) -> Vec<TokenIssuer> {
    let mut taken: Vec<TokenIssuer> = Vec::new();
    let at =
        |name: &Spanned<String>, message: String| Finding::at(FILE, source, span_of(name, source), message);
    for name in names {
        let Some(found) = declared.get(&name.value) else {
            let finding = at(name, format!("`{}` is no issuer of this mesh", name.value));
            findings.push(match did_you_mean(&name.value, declared.keys().map(String::as_str)) {
                Some(near) => finding.with_help(format!("did you mean `{near}`?")),
                None => finding.with_help("declare it in `jwt:` at the top of the file"),
            });
            continue;
        };
        let Some(issuer) = found else { continue };
        let same = |other: &&TokenIssuer| other.issuer == issuer.issuer && other.place == issuer.place;
        match taken.iter().find(same) {
            Some(other) if other.name == issuer.name => {
                let finding = at(name, format!("`{}` is named twice", name.value));
                findings.push(finding.with_help("name it once"));
            }
            Some(other) => {
                let message =
                    format!("`{}` and `{}` have the same issuer and the same place", other.name, issuer.name);
                let help = "a token says nothing but its issuer: keep one, with the audiences of both";
                findings.push(at(name, message).with_help(help));
            }
            None => {
                if issuer.audiences.is_empty() {
                    let message =
                        format!("tokens of `{}` are taken here whoever they are meant for", issuer.name);
                    let help = "name the service among its `audiences`; without, a token for any other service will do";
                    findings.push(
                        at(name, message).with_help(help).as_warning().with_lint(Lint::AnyAudience.name()),
                    );
                }
                taken.push(issuer.clone());
            }
        }
    }
    taken
}

/// Warns of issuers whose tokens no service takes.
pub(super) fn unused<'r>(
    raw: &BTreeMap<Key, RawIssuer>,
    taken: impl Iterator<Item = &'r Spanned<String>>,
    source: &str,
    findings: &mut Findings,
) {
    let taken: BTreeSet<&str> = taken.map(|name| name.value.as_str()).collect();
    for Key(name) in raw.keys().filter(|Key(name)| !taken.contains(name.value.as_str())) {
        let message = format!("no service takes tokens of `{}`", name.value);
        let finding = Finding::at(FILE, source, span_of(name, source), message).as_warning();
        findings.push(finding.with_help(format!("add `jwt: [{}]` to a service", name.value)));
    }
}

/// Warns when something reads claims, but nobody's tokens are taken, so that there never are any.
pub(super) fn unverified(
    files: &Files,
    read: &BTreeSet<Name>,
    services: &BTreeMap<String, Service>,
    findings: &mut Findings,
) {
    let reads_claims = read.iter().any(|name| matches!(name, Name::Claim(_)));
    if !reads_claims || services.values().any(|service| !service.issuers.is_empty()) {
        return;
    }
    let message = "claims are read, but no service takes tokens, so no request ever has claims";
    let found = files.texts.iter().find_map(|(file, text)| Some((file, text, text.find(READ)?)));
    let finding = match found {
        Some((file, text, start)) => Finding::at(file, text, start..start + READ.len(), message),
        None => Finding::in_file(FILE, message),
    };
    let help = "declare who signs tokens in `jwt:` of mesh.yaml, and add `jwt: [name]` to the service";
    findings.push(finding.as_warning().with_help(help));
}

struct Reader<'a> {
    source: &'a str,
    files: &'a Files,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    /// Every part is looked at, so that all mistakes are told at once.
    fn issuer(&mut self, name: &Spanned<String>, raw: &RawIssuer) -> Option<TokenIssuer> {
        let issuer = self.text(&raw.issuer, "an issuer");
        let audiences = self.audiences(raw);
        let keys = self.keys(&raw.jwks);
        let place = match &raw.from {
            None => Some(TokenPlace::Header(HEADER.to_owned())),
            Some(place) => self.place(place),
        };
        let clock_skew = raw.clock_skew.as_ref().map_or(Some(CLOCK_SKEW), |text| self.clock_skew(text));
        let claims = self.claims(&raw.claims);
        Some(TokenIssuer {
            name: name.value.clone(),
            issuer: issuer?,
            audiences,
            keys: keys?,
            place: place?,
            clock_skew: clock_skew?,
            forward: raw.forward.unwrap_or(true),
            claims,
        })
    }

    fn audiences(&mut self, raw: &RawIssuer) -> Vec<String> {
        let all = &raw.audiences;
        if all.value.len() > COUNT_MAX {
            self.wrong(all, format!("there are more than {COUNT_MAX} audiences"), "leave some out");
        }
        all.value.iter().filter_map(|audience| self.text(audience, "an audience")).collect()
    }

    fn keys(&mut self, raw: &Spanned<RawKeys>) -> Option<KeySource> {
        match (&raw.value.file, &raw.value.url) {
            (Some(file), None) => {
                keys::read(file, self.source, self.files, self.findings).map(KeySource::Text)
            }
            (None, Some(url)) => match url::check(&url.value) {
                Ok(()) => Some(KeySource::Url(url.value.clone())),
                Err(why) => {
                    let help = "write `https://host/path`; `http` is for keys on the proxies' own host alone";
                    self.wrong(url, format!("keys can't be fetched from here: {why}"), help);
                    None
                }
            },
            _ => {
                let help = "write `{file: keys.jwks.json}` for a file of the bundle, or `{url: https://…}`";
                self.wrong(raw, "`jwks` needs either `file` or `url`".to_owned(), help);
                None
            }
        }
    }

    fn place(&mut self, raw: &Spanned<RawPlace>) -> Option<TokenPlace> {
        let RawPlace { header, cookie, query } = &raw.value;
        let is_name = |name: &str| !name.is_empty() && name.len() <= LENGTH_MAX;
        match (header, cookie, query) {
            (Some(name), None, None) => {
                let name = name.to_ascii_lowercase();
                if is_name(&name) && name.bytes().all(is_token) && !NO_TOKEN.contains(&name.as_str()) {
                    return Some(TokenPlace::Header(name));
                }
                self.wrong(
                    raw,
                    format!("`{name}` is no header for a token"),
                    "use `authorization`, or one of your own",
                );
            }
            (None, Some(name), None) if is_name(name) && name.bytes().all(is_token) => {
                return Some(TokenPlace::Cookie(name.clone()));
            }
            (None, None, Some(name)) if is_name(name) => return Some(TokenPlace::Query(name.clone())),
            _ => {
                let help = "write `{header: x-token}`, `{cookie: session}` or `{query: access_token}`";
                self.wrong(raw, "a token stands in one place".to_owned(), help);
            }
        }
        None
    }

    fn clock_skew(&mut self, text: &Spanned<String>) -> Option<Duration> {
        let skew = parse_duration(&text.value).filter(|skew| *skew <= CLOCK_SKEW_MAX);
        if skew.is_none() {
            self.wrong(text, format!("`{}` is no clock skew", text.value), "use `0s` to `10m`");
        }
        skew
    }

    fn claims(&mut self, raw: &BTreeMap<Key, Spanned<Vec<String>>>) -> Vec<(String, Vec<String>)> {
        if let Some((Key(name), _)) = raw.iter().nth(COUNT_MAX) {
            self.wrong(name, format!("there are more than {COUNT_MAX} claims"), "leave some out");
        }
        for (Key(name), path) in raw {
            if path.value.is_empty() {
                self.wrong(
                    path,
                    format!("there is no way to `{}`", name.value),
                    "write `[realm_access, roles]`",
                );
            }
        }
        raw.iter().map(|(Key(name), path)| (name.value.clone(), path.value.clone())).collect()
    }

    fn text(&mut self, text: &Spanned<String>, what: &str) -> Option<String> {
        if text.value.is_empty() || text.value.len() > LENGTH_MAX {
            let help = "write it exactly as tokens have it";
            self.wrong(text, format!("{what} has 1 to {LENGTH_MAX} bytes"), help);
            return None;
        }
        Some(text.value.clone())
    }

    fn wrong<T>(&mut self, place: &Spanned<T>, message: String, help: &str) {
        self.findings.push(self.at(place, message).with_help(help));
    }

    fn at<T>(&self, place: &Spanned<T>, message: String) -> Finding {
        Finding::at(FILE, self.source, span_of(place, self.source), message)
    }
}

/// A byte of a name in HTTP (RFC 9110 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
