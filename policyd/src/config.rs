//! policyd's configuration file.

mod envoy;

use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use daemon::config_file::{self, span_of};
use daemon::finding::{Finding, Findings};
use identity::TrustBundle;
use model::TrustDomain;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::candidate::{self, Location};
use crate::delivery::{self, KEPT_DEFAULT, KEPT_RANGE, Origin, TrustedKeys};
use crate::publish::Addresses;
pub use envoy::{Door, Envoy};

/// The longest join token file, in bytes.
const TOKEN_SIZE_MAX: u64 = 4096;

/// What policyd needs to start.
#[derive(Debug)]
pub struct Config {
    /// Where bundles come from, and where they are kept.
    pub delivery: delivery::Config,
    /// Where proxies connect.
    pub listen: SocketAddr,
    /// A Unix socket at which proxies of this host connect, if there is one.
    pub socket: Option<PathBuf>,
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub admin: SocketAddr,
    /// How to get a certificate.
    pub identity: identity::client::Config,
    /// Inbound addresses of instances whose address the bundle leaves open.
    pub addresses: Addresses,
    /// Bundles to be tried beside the one in force.
    pub candidates: Vec<Location>,
    /// Where Envoys ask, if they may.
    pub envoy: Option<Envoy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    bundle: Spanned<PathBuf>,
    trusted_keys: Option<Spanned<Vec<PathBuf>>>,
    state_dir: Option<PathBuf>,
    bundles_kept: Option<Spanned<usize>>,
    #[serde(default = "any_port")]
    listen: SocketAddr,
    socket: Option<PathBuf>,
    #[serde(default = "any_port")]
    admin: SocketAddr,
    trust_domain: Spanned<TrustDomain>,
    ca: SocketAddr,
    trust_bundle: Spanned<PathBuf>,
    join_token_file: Spanned<PathBuf>,
    #[serde(default)]
    addresses: Addresses,
    #[serde(default)]
    candidates: Vec<RawCandidate>,
    envoy: Option<Spanned<envoy::RawEnvoy>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCandidate {
    name: Spanned<String>,
    bundle: PathBuf,
}

impl Config {
    /// Reads the file at `path`. Relative file names in it are meant from its folder.
    ///
    /// # Errors
    /// Every mistake in the file.
    pub fn load(path: &Path) -> Result<Self, Findings> {
        let name = path.display().to_string();
        let source = config_file::read(path, &name)?;
        let raw: RawConfig = config_file::parse(&name, &source)?;
        let folder = path.parent().unwrap_or(path);
        let mut findings = Findings::new();
        findings.add_source(name.as_str(), source.as_str());
        let mut wrong = |span: Range<usize>, message: String, help: &str| {
            findings.push(Finding::at(name.as_str(), &source, span, message).with_help(help));
        };
        let ca_id = identity::ca_id(&raw.trust_domain.value)
            .map_err(|error| {
                let message = format!("the trust domain makes no SPIFFE IDs: {error}");
                wrong(span_of(&raw.trust_domain, &source), message, "choose a shorter one");
            })
            .ok();
        let bundle = TrustBundle::load(raw.trust_domain.value.clone(), &folder.join(&raw.trust_bundle.value))
            .map_err(|error| {
                let help = "`tidegate ca` writes it to `bundle.pem` in its state folder";
                let message = format!("the trust bundle can't be used: {error}");
                wrong(span_of(&raw.trust_bundle, &source), message, help);
            })
            .ok();
        let join_token = read_token(&folder.join(&raw.join_token_file.value))
            .map_err(|why| {
                let message = format!("the token can't be read: {why}");
                wrong(span_of(&raw.join_token_file, &source), message, "make one with `tidegate ca token`");
            })
            .ok();
        let candidates = raw.candidates.iter().map(|candidate| Location {
            name: candidate.name.value.clone(),
            folder: folder.join(&candidate.bundle),
        });
        let candidates: Vec<Location> = candidates.collect();
        let mistakes = candidate::mistakes(&candidates);
        for (index, why) in &mistakes {
            if let Some(written) = raw.candidates.get(*index) {
                wrong(span_of(&written.name, &source), why.clone(), "the name is shown in logs and metrics");
            }
        }
        let delivery = raw.delivery(folder, &source, &mut wrong);
        let envoy = match &raw.envoy {
            Some(envoy) => envoy::resolve(envoy, folder, &source, &mut wrong).map(Some),
            None => Some(None),
        };
        match (bundle, join_token, ca_id, delivery, envoy) {
            (Some(bundle), Some(join_token), Some(ca_id), Some(delivery), Some(envoy))
                if mistakes.is_empty() =>
            {
                Ok(Self {
                    delivery,
                    listen: raw.listen,
                    socket: raw.socket.map(|path| folder.join(path)),
                    admin: raw.admin,
                    identity: identity::client::Config { ca_address: raw.ca, ca_id, bundle, join_token },
                    addresses: raw.addresses,
                    candidates,
                    envoy,
                })
            }
            _ => Err(findings),
        }
    }
}

impl RawConfig {
    /// Where bundles come from; none if something is `wrong`.
    fn delivery(
        &self,
        folder: &Path,
        source: &str,
        wrong: &mut dyn FnMut(Range<usize>, String, &str),
    ) -> Option<delivery::Config> {
        let path = folder.join(&self.bundle.value);
        let place = span_of(&self.bundle, source);
        let origin = match &self.trusted_keys {
            None if path.is_file() => {
                let message =
                    "an archive counts for nothing without keys that are trusted to sign it".to_owned();
                wrong(place, message, "name them in `trusted_keys`, or give the bundle's folder");
                None
            }
            None => Some(Origin::Folder(path)),
            Some(_) if path.is_dir() => {
                let message =
                    "with `trusted_keys` the bundle has to be a signed archive, and this is a folder";
                wrong(place, message.to_owned(), "`tidegate bundle build` makes an archive of it");
                None
            }
            Some(keys) => {
                let paths: Vec<PathBuf> = keys.value.iter().map(|path| folder.join(path)).collect();
                match TrustedKeys::load(&paths) {
                    Ok(_) if paths.is_empty() => {
                        let help = "name a file that `tidegate bundle key` wrote";
                        wrong(span_of(keys, source), "no key is trusted".to_owned(), help);
                        None
                    }
                    Ok(_) if self.state_dir.is_none() => {
                        let message = "an archive needs a `state_dir`: it is unpacked there".to_owned();
                        wrong(place, message, "add `state_dir`, a folder that policyd may write to");
                        None
                    }
                    Ok(trusted) => Some(Origin::Archive(path, trusted)),
                    Err(error) => {
                        let help = "`tidegate bundle key` makes keys; policyd needs the `.pub.pem`";
                        wrong(span_of(keys, source), error.to_string(), help);
                        None
                    }
                }
            }
        };
        let kept = self.bundles_kept.as_ref().map_or(KEPT_DEFAULT, |kept| kept.value);
        if let Some(written) = self.bundles_kept.as_ref().filter(|kept| !KEPT_RANGE.contains(&kept.value)) {
            let message =
                format!("between {} and {} bundles can be kept", KEPT_RANGE.start(), KEPT_RANGE.end());
            wrong(span_of(written, source), message, "the default is 20");
            return None;
        }
        let state = self.state_dir.as_ref().map(|path| delivery::State { folder: folder.join(path), kept });
        Some(delivery::Config { origin: origin?, state })
    }
}

fn read_token(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(TOKEN_SIZE_MAX + 1).read_to_string(&mut text))
        .map_err(|error| error.to_string())?;
    match text.trim() {
        "" => Err("the file is empty".to_owned()),
        _ if text.len() as u64 > TOKEN_SIZE_MAX => {
            Err(format!("the file has more than {TOKEN_SIZE_MAX} bytes"))
        }
        token => Ok(token.to_owned()),
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn all_mistakes_are_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policyd.yaml");
        std::fs::write(folder.path().join("token"), " \n").unwrap();
        std::fs::write(
            &file,
            "bundle: b\ntrust_domain: shop.example\nca: 127.0.0.1:1\ntrust_bundle: none.pem\njoin_token_file: token\n",
        )
        .unwrap();
        let told = Config::load(&file).unwrap_err().render(false);
        let told = told.replace(&folder.path().display().to_string(), "…");
        expect![[r#"
            error: the trust bundle can't be used: can't read the trust bundle `…/none.pem`: No such file or directory (os error 2)
             --> …/policyd.yaml:4:15
              |
            4 | trust_bundle: none.pem
              |               ^^^^^^^^
              |
              = help: `tidegate ca` writes it to `bundle.pem` in its state folder

            error: the token can't be read: the file is empty
             --> …/policyd.yaml:5:18
              |
            5 | join_token_file: token
              |                  ^^^^^
              |
              = help: make one with `tidegate ca token`

        "#]].assert_eq(&told);
    }

    #[test]
    fn archives_need_keys_and_a_state_folder() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let key = delivery::SigningKey::generate().unwrap();
        write("release.pub.pem", &key.public().to_pem());
        write("shop.tgb", "");
        std::fs::create_dir(folder.path().join("shop")).unwrap();
        let rest = "trust_domain: shop.example\nca: 127.0.0.1:1\ntrust_bundle: b\njoin_token_file: t\n";
        for (text, why) in [
            ("bundle: shop\n", None),
            ("bundle: shop\nstate_dir: state\n", None),
            ("bundle: none.tgb\ntrusted_keys: [release.pub.pem]\nstate_dir: state\n", None),
            ("bundle: shop.tgb\n", Some("an archive counts for nothing without keys")),
            ("bundle: shop.tgb\ntrusted_keys: []\nstate_dir: s\n", Some("no key is trusted")),
            ("bundle: shop.tgb\ntrusted_keys: [release.pub.pem]\n", Some("an archive needs a `state_dir`")),
            ("bundle: shop\ntrusted_keys: [release.pub.pem]\nstate_dir: s\n", Some("and this is a folder")),
            ("bundle: shop.tgb\ntrusted_keys: [none.pem]\nstate_dir: s\n", Some("can't read the key")),
            ("bundle: shop\nstate_dir: s\nbundles_kept: 1\n", Some("between 2 and 1000 bundles can be kept")),
        ] {
            write("policyd.yaml", &format!("{text}{rest}"));
            // The rest is wrong in any case: there is no trust bundle.
            let findings = Config::load(&folder.path().join("policyd.yaml")).unwrap_err();
            let told = findings.render(false);
            assert_eq!(findings.iter().count(), 2 + usize::from(why.is_some()), "{text}: {told}");
            assert!(told.contains(why.unwrap_or_default()), "{text}: {told}");
        }
    }

    #[test]
    fn a_token_file_has_a_size() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc\n").unwrap();
        assert_eq!(read_token(file.path()).unwrap(), "abc");
        std::fs::write(file.path(), "a".repeat(4097)).unwrap();
        assert_eq!(read_token(file.path()).unwrap_err(), "the file has more than 4096 bytes");
    }
}
