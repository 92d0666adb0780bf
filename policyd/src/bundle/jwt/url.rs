//! Where keys may be fetched from.

use std::net::IpAddr;

/// The longest URL, in bytes.
const LENGTH_MAX: usize = 2048;

/// Whether proxies may fetch keys from `url`; if not, why.
pub(super) fn check(url: &str) -> Result<(), &'static str> {
    if url.len() > LENGTH_MAX {
        return Err("it is too long");
    }
    if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("it holds spaces, or characters that must be percent-encoded");
    }
    let (scheme, rest) = url.split_once("://").ok_or("it is no URL")?;
    if rest.contains('#') {
        return Err("it has a fragment");
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("it has a user or a password in it");
    }
    let host = host(authority).ok_or("it has no host, or no port that is one")?;
    match scheme {
        "https" => Ok(()),
        "http" if is_loopback(host) => Ok(()),
        "http" => Err("what comes in the clear may come from anybody"),
        _ => Err("its scheme is neither `https` nor `http`"),
    }
}

/// The host of `host:port`, if both are such.
fn host(authority: &str) -> Option<&str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':').or_else(|| port.is_empty().then_some("443"))?)
        }
        None => authority.split_once(':').unwrap_or((authority, "443")),
    };
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:".contains(&byte);
    let is_port =
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    (!host.is_empty() && host.bytes().all(is_host) && is_port).then_some(host)
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_by_https_or_from_this_host() {
        for good in [
            "https://accounts.example/jwks",
            "https://accounts.example:8443/a?b=c",
            "https://[2001:db8::1]/a",
            "http://127.0.0.1:8080/jwks",
            "http://localhost/jwks",
            "http://[::1]:80/jwks",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "accounts.example/jwks",
            "http://accounts.example/jwks",
            "http://10.0.0.1/jwks",
            "http://127.0.0.1.example/jwks",
            "http://localhost@evil.example/jwks",
            "https://user:secret@accounts.example/",
            "https://accounts.example/#a",
            "https:///jwks",
            "https://a b/",
            "https://accounts.example:0/",
            "https://accounts.example:+1/",
            "https://accounts.example:99999/",
            "https://[::1/a",
            "https://[a]/a",
            "file:///etc/passwd",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
