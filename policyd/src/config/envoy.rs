//! `envoy:` of policyd's configuration: where Envoys ask, and which of them.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use daemon::config_file::span_of;
use model::SpiffeId;
use serde::Deserialize;
use serde_saphyr::Spanned;

/// Where a request that asks by plain HTTP begins, unless the file says otherwise.
const PATH_PREFIX: &str = "/ext_authz";

/// Where Envoys ask, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envoy {
    /// A TCP address.
    pub listen: Option<(SocketAddr, Door)>,
    /// A Unix socket, which policyd's own user may open.
    pub socket: Option<PathBuf>,
    /// Envoys that may ask about every service, by their certificates.
    pub gateways: Vec<SpiffeId>,
    /// Whether the host of a request names its service where nothing better does.
    pub service_by_host: bool,
    /// How the path begins of what is asked by plain HTTP; nothing is, without one.
    pub path_prefix: Option<String>,
}

/// How an address is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// In the clear: whoever can reach it may ask.
    Open,
    /// By mutual TLS: an Envoy may ask about services whose identity it has.
    Mutual,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEnvoy {
    listen: Option<Spanned<SocketAddr>>,
    socket: Option<PathBuf>,
    #[serde(default)]
    tls: bool,
    #[serde(default)]
    gateways: Vec<SpiffeId>,
    #[serde(default)]
    service_by_host: bool,
    http: Option<RawHttp>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHttp {
    path_prefix: Option<Spanned<String>>,
}

/// What is meant by `raw`; none if something is `wrong`.
pub(super) fn resolve(
    raw: &Spanned<RawEnvoy>,
    folder: &Path,
    source: &str,
    wrong: &mut dyn FnMut(Range<usize>, String, &str),
) -> Option<Envoy> {
    let RawEnvoy { listen, socket, tls, gateways, service_by_host, http } = &raw.value;
    let mut is_good = true;
    let mut mistake = |place: Range<usize>, message: String, help: &str| {
        is_good = false;
        wrong(place, message, help);
    };
    if listen.is_none() && socket.is_none() {
        let help = "add `listen: 127.0.0.1:PORT`, or `socket: PATH`";
        mistake(span_of(raw, source), "Envoys have nowhere to ask".to_owned(), help);
    }
    if let Some(address) = listen.as_ref().filter(|address| !tls && !address.value.ip().is_loopback()) {
        let message = format!("`{}` is not on loopback, so it can't be asked in the clear", address.value);
        let help = "add `tls: true`, and have Envoy show a certificate of the mesh; or listen on loopback";
        mistake(span_of(address, source), message, help);
    }
    if *tls && listen.is_none() {
        let help = "add `listen: ADDRESS`; a Unix socket is spoken to in the clear";
        mistake(span_of(raw, source), "`tls` is for a TCP address, and there is none".to_owned(), help);
    }
    if !gateways.is_empty() && !tls {
        let help = "add `tls: true`; in the clear every caller may ask about every service";
        mistake(span_of(raw, source), "`gateways` are known by their certificates".to_owned(), help);
    }
    let path_prefix = http.as_ref().map(|http| match &http.path_prefix {
        Some(prefix) => {
            if !is_prefix(&prefix.value) {
                let help = "write a `/` and words of letters, digits, `-`, `_` and `.`, such as `/ext_authz`";
                mistake(span_of(prefix, source), format!("`{}` is no path prefix", prefix.value), help);
            }
            prefix.value.clone()
        }
        None => PATH_PREFIX.to_owned(),
    });
    let door = if *tls { Door::Mutual } else { Door::Open };
    is_good.then(|| Envoy {
        listen: listen.as_ref().map(|address| (address.value, door)),
        socket: socket.as_ref().map(|path| folder.join(path)),
        gateways: gateways.clone(),
        service_by_host: *service_by_host,
        path_prefix,
    })
}

/// Whether no request of a stranger's can begin so by itself: it has a word before the stranger's own path begins.
fn is_prefix(text: &str) -> bool {
    let is_word = |word: &str| {
        let mut bytes = word.bytes();
        !word.is_empty()
            && word != "."
            && word != ".."
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    text.strip_prefix('/').is_some_and(|words| words.split('/').all(is_word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> Result<Envoy, String> {
        #[derive(Deserialize)]
        struct File {
            envoy: Spanned<RawEnvoy>,
        }
        let file: File = daemon::config_file::parse("policyd.yaml", text).map_err(|f| f.render(false))?;
        let mut told = Vec::new();
        let envoy = resolve(&file.envoy, Path::new("/etc"), text, &mut |_, message, _| told.push(message));
        assert_eq!(envoy.is_none(), !told.is_empty(), "{text}");
        envoy.ok_or_else(|| told.join("; "))
    }

    #[test]
    fn the_clear_is_for_this_host_alone() {
        let table = [
            ("{listen: '127.0.0.1:9001'}", Ok(Door::Open)),
            ("{listen: '[::1]:9001'}", Ok(Door::Open)),
            ("{listen: '127.0.0.1:9001', tls: true}", Ok(Door::Mutual)),
            ("{listen: '10.0.0.1:9001', tls: true, gateways: [spiffe://a/b]}", Ok(Door::Mutual)),
            ("{listen: '0.0.0.0:9001'}", Err("can't be asked in the clear")),
            ("{listen: '[::]:9001'}", Err("can't be asked in the clear")),
            ("{listen: '10.0.0.1:9001'}", Err("can't be asked in the clear")),
            ("{}", Err("nowhere to ask")),
            ("{socket: s, tls: true}", Err("there is none")),
            ("{listen: '127.0.0.1:1', gateways: [spiffe://a/b]}", Err("known by their certificates")),
            ("{listen: '127.0.0.1:1', http: {path_prefix: /}}", Err("no path prefix")),
            ("{listen: '127.0.0.1:1', http: {path_prefix: check}}", Err("no path prefix")),
            ("{listen: '127.0.0.1:1', http: {path_prefix: /a/../b}}", Err("no path prefix")),
            ("{listen: '127.0.0.1:1', http: {path_prefix: /a/}}", Err("no path prefix")),
            ("{listen: '127.0.0.1:1', htp: {}}", Err("htp")),
        ];
        for (text, expected) in table {
            match (resolved(&format!("envoy: {text}\n")), expected) {
                (Ok(envoy), Ok(door)) => assert_eq!(envoy.listen.map(|(_, door)| door), Some(door), "{text}"),
                (Err(told), Err(part)) => assert!(told.contains(part), "{text}: {told}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn files_are_meant_from_the_folder_and_http_has_a_prefix() {
        let envoy = resolved("envoy: {socket: run/envoy.sock, http: {}}\n").unwrap();
        assert_eq!(envoy.socket, Some(PathBuf::from("/etc/run/envoy.sock")));
        assert_eq!(envoy.path_prefix.as_deref(), Some("/ext_authz"));
        let envoy =
            resolved("envoy: {socket: s, http: {path_prefix: /a/b-1}, service_by_host: true}\n").unwrap();
        assert_eq!((envoy.path_prefix.as_deref(), envoy.service_by_host), (Some("/a/b-1"), true));
        assert_eq!(resolved("envoy: {socket: s}\n").unwrap().path_prefix, None);
    }
}
