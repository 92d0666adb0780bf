//! What the next hop is told of the caller and of the hops before: `x-forwarded-*`.
//!
//! Whoever sends such a field says who he is. From outside it is believed only as far as the configuration says that
//! load balancers of ours wrote it; from a verified sidecar it stands, for its word is as good as the request itself.

use std::net::IpAddr;

use crate::fields::{Fields, Known};

/// What is believed of fields that name earlier hops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// How many proxies of ours stand before the ingress, each of which adds an address to `x-forwarded-for`.
    pub trusted_hops: usize,
    /// Whether a verified peer's `x-forwarded-client-cert` is added to; else it is replaced.
    pub appends_client_cert: bool,
}

/// What the next hop is told of the caller, the same for all requests of a connection.
#[derive(Debug)]
pub(crate) enum Introduction {
    /// Nothing: the caller is our own application.
    Nothing {
        /// Whether it may say itself which certificates were shown before.
        passes_client_cert: bool,
    },
    /// A caller from outside the mesh.
    Outside {
        /// Its address.
        address: IpAddr,
        /// How many hops before it are believed.
        trusted_hops: usize,
    },
    /// A verified sidecar. Its word of earlier hops stands.
    Mesh {
        /// Its address.
        address: IpAddr,
        /// Both identities, in the form of Envoy's `x-forwarded-client-cert`.
        client_cert: String,
        /// Whether what it says of earlier certificates is kept before that.
        appends_client_cert: bool,
    },
}

/// A caller whom proxies of ours name, who stand between it and us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Named<'a> {
    /// Its address, in its canonical form.
    pub client: IpAddr,
    /// Which members of the fields come before it, and are its own word.
    unbelieved: usize,
    /// What it asked for, as the first of those proxies saw it.
    pub proto: Option<&'a [u8]>,
    pub host: Option<&'a [u8]>,
}

impl Introduction {
    /// Whom `fields` name as the caller, if they are believed and name one.
    ///
    /// As Envoy has it with `use_remote_address` and `xff_num_trusted_hops`: the last address but so many, before we
    /// add our own peer's; where there are fewer, or it is none, nobody is named, and the peer is the caller.
    pub(crate) fn named<'a>(&self, fields: Fields<'a>) -> Option<Named<'a>> {
        let Self::Outside { trusted_hops: hops @ 1.., .. } = *self else { return None };
        let unbelieved = fields.tokens(Known::ForwardedFor).count().checked_sub(hops)?;
        let client = fields.tokens(Known::ForwardedFor).nth(unbelieved)?;
        let client: IpAddr = std::str::from_utf8(client).ok()?.parse().ok()?;
        let proto = only(fields.of(Known::ForwardedProto));
        let proto = proto.filter(|proto| matches!(*proto, b"http" | b"https"));
        let host = only(fields.of(Known::ForwardedHost)).filter(|host| !host.is_empty());
        Some(Named { client: client.to_canonical(), unbelieved, proto, host })
    }
}

impl<'a> Named<'a> {
    /// The caller, and the proxies between it and our peer.
    pub(crate) fn hops(self, fields: Fields<'a>) -> impl Iterator<Item = &'a [u8]> {
        fields.tokens(Known::ForwardedFor).skip(self.unbelieved)
    }
}

/// The certificates that were shown before, as a verified peer says; nothing if that could be read in two ways once
/// something is added.
pub(crate) fn earlier_certs(fields: Fields<'_>) -> Vec<&[u8]> {
    let all: Vec<_> = fields.of(Known::ClientCert).filter(|value| !value.is_empty()).collect();
    if all.iter().all(|value| are_quotes_closed(value)) { all } else { Vec::new() }
}

/// Whether each quotation mark has its second one; else what is added would be part of a quoted text.
fn are_quotes_closed(value: &[u8]) -> bool {
    let (mut is_quoted, mut bytes) = (false, value.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b'\\' if is_quoted && bytes.next().is_none() => return false,
            _ => {}
        }
    }
    !is_quoted
}

/// The value of a field that was sent once.
fn only<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Head;

    fn named(hops: usize, values: &[&str]) -> Option<String> {
        let fields: Vec<_> = values.iter().map(|value| ("X-Forwarded-For", *value)).collect();
        let head = Head::of(&fields);
        let outside = Introduction::Outside { address: "10.0.0.1".parse().unwrap(), trusted_hops: hops };
        outside.named(head.fields()).map(|named| {
            let hops: Vec<_> = named.hops(head.fields()).map(String::from_utf8_lossy).collect();
            format!("{} of {}", named.client, hops.join(" "))
        })
    }

    #[test]
    fn the_last_address_but_so_many_is_the_callers() {
        let table: &[(usize, &[&str], Option<&str>)] = &[
            (0, &["1.1.1.1"], None),
            (1, &[], None),
            (1, &["1.1.1.1"], Some("1.1.1.1 of 1.1.1.1")),
            (1, &["6.6.6.6, 1.1.1.1"], Some("1.1.1.1 of 1.1.1.1")),
            (1, &["6.6.6.6", "1.1.1.1"], Some("1.1.1.1 of 1.1.1.1")),
            (2, &["6.6.6.6, 1.1.1.1, 2.2.2.2"], Some("1.1.1.1 of 1.1.1.1 2.2.2.2")),
            (2, &["6.6.6.6,,1.1.1.1", ",", " 2.2.2.2 ,"], Some("1.1.1.1 of 1.1.1.1 2.2.2.2")),
            (3, &["1.1.1.1, 2.2.2.2"], None),
            (1, &["2001:DB8::1"], Some("2001:db8::1 of 2001:DB8::1")),
            (1, &["::ffff:1.2.3.4"], Some("1.2.3.4 of ::ffff:1.2.3.4")),
            (1, &["6.6.6.6, unknown"], None),
            (1, &["1.1.1.1:80"], None),
            (1, &["[2001:db8::1]"], None),
            (2, &["1.1.1.1, unknown"], Some("1.1.1.1 of 1.1.1.1 unknown")),
            (usize::MAX, &["1.1.1.1"], None),
        ];
        for (hops, values, expected) in table {
            assert_eq!(named(*hops, values).as_deref(), *expected, "{hops} {values:?}");
        }
    }

    #[test]
    fn nothing_can_be_hidden_in_an_open_quotation() {
        let table: &[(&[&str], usize)] = &[
            (&["By=spiffe://a/b;URI=spiffe://a/c"], 1),
            (&["URI=a", "URI=b;Subject=\"CN=x,O=\\\"y\\\"\""], 2),
            (&["Subject=\"CN=x"], 0),
            (&["URI=a", "Subject=\"x\\\""], 0),
            (&["Subject=\"x\\"], 0),
            (&["\"", "\""], 0),
            (&["", "URI=a\\"], 1),
        ];
        for (values, kept) in table {
            let fields: Vec<_> = values.iter().map(|value| ("x-forwarded-client-cert", *value)).collect();
            assert_eq!(earlier_certs(Head::of(&fields).fields()).len(), *kept, "{values:?}");
        }
    }
}
