//! What a list holds, made ready for fast look-up.

use std::collections::HashSet;
use std::net::IpAddr;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use ipnet::{IpNet, Ipv4Net};
use model::Value;

/// How values are compared with entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// The value is an entry.
    Exact,
    /// The value as a whole matches an entry with `*`, `?`, `[…]` and `{…,…}`; `*` crosses slashes.
    Glob,
    /// The value is an address within an entry's network.
    Cidr,
}

/// The entries of one list. Immutable: a changed list is a new one.
#[derive(Debug)]
pub(crate) enum Entries {
    Exact(HashSet<String>),
    Glob(GlobSet),
    Cidr(Networks),
}

/// Networks by their prefix, so that a look-up costs one probe for each prefix length in use.
#[derive(Debug, Default)]
pub(crate) struct Networks {
    networks: HashSet<IpNet>,
    lengths_v4: Vec<u8>,
    lengths_v6: Vec<u8>,
}

/// Why one entry is no good.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EntryError {
    /// Which entry, from 0.
    pub(crate) index: usize,
    /// What is wrong with it.
    pub(crate) reason: String,
}

/// The most entries of one list.
pub(crate) const ENTRIES_MAX: usize = 1_000_000;
/// The most entries of one list of globs, which are compiled into automata.
pub(crate) const GLOBS_MAX: usize = 10_000;
/// The longest entry, in bytes.
pub(crate) const ENTRY_LENGTH_MAX: usize = 1024;

impl Entries {
    /// Makes a list of `entries`.
    ///
    /// # Errors
    /// The first entry that is no good, or one too many.
    pub(crate) fn new<'a>(how: Match, entries: impl Iterator<Item = &'a str>) -> Result<Self, EntryError> {
        let count_max = if how == Match::Glob { GLOBS_MAX } else { ENTRIES_MAX };
        let checked = entries.enumerate().map(|(index, entry)| {
            let reason = if index >= count_max {
                format!("there are more than {count_max} entries")
            } else if entry.is_empty() || entry.len() > ENTRY_LENGTH_MAX {
                format!("an entry has 1 to {ENTRY_LENGTH_MAX} bytes")
            } else {
                return Ok((index, entry));
            };
            Err(EntryError { index, reason })
        });
        match how {
            Match::Exact => {
                Ok(Self::Exact(checked.map(|e| e.map(|(_, e)| e.to_owned())).collect::<Result<_, _>>()?))
            }
            Match::Glob => globs(checked).map(Self::Glob),
            Match::Cidr => Networks::new(checked).map(Self::Cidr),
        }
    }

    /// Whether `value` is on the list; nothing for a value that can't be compared with its entries.
    pub(crate) fn contain(&self, value: &Value) -> Option<bool> {
        match (self, value) {
            (Self::Exact(entries), Value::Text(text)) => Some(entries.contains(text)),
            (Self::Glob(entries), Value::Text(text)) => Some(entries.is_match(text)),
            (Self::Cidr(networks), Value::Ip(address)) => Some(networks.contain(*address)),
            (Self::Cidr(networks), Value::Text(text)) => Some(networks.contain(text.trim().parse().ok()?)),
            _ => None,
        }
    }
}

impl Networks {
    fn new<'a>(
        entries: impl Iterator<Item = Result<(usize, &'a str), EntryError>>,
    ) -> Result<Self, EntryError> {
        let mut all = Self::default();
        for entry in entries {
            let (index, entry) = entry?;
            let network = parse_network(entry).map_err(|reason| EntryError { index, reason })?;
            let lengths = if network.addr().is_ipv4() { &mut all.lengths_v4 } else { &mut all.lengths_v6 };
            if !lengths.contains(&network.prefix_len()) {
                lengths.push(network.prefix_len());
            }
            all.networks.insert(network);
        }
        Ok(all)
    }

    fn contain(&self, address: IpAddr) -> bool {
        // An IPv4 caller of a dual-stack listener must not escape the IPv4 networks.
        let address = address.to_canonical();
        let lengths = if address.is_ipv4() { &self.lengths_v4 } else { &self.lengths_v6 };
        lengths.iter().any(|length| {
            IpNet::new(address, *length).is_ok_and(|network| self.networks.contains(&network.trunc()))
        })
    }
}

fn parse_network(entry: &str) -> Result<IpNet, String> {
    let network = match entry.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => entry
            .parse()
            .map_err(|_parse| format!("`{entry}` is no address and no network such as `10.0.0.0/8`"))?,
    };
    let truncated = network.trunc();
    if truncated != network {
        return Err(format!("`{entry}` has bits beyond its prefix: write `{truncated}`"));
    }
    Ok(canonical(network))
}

/// `::ffff:10.0.0.0/104` is `10.0.0.0/8`, as addresses are compared in that form.
fn canonical(network: IpNet) -> IpNet {
    let mapped = match network {
        IpNet::V6(network) => network.addr().to_ipv4_mapped().zip(network.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    mapped.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(network, IpNet::V4)
}

fn globs<'a>(
    entries: impl Iterator<Item = Result<(usize, &'a str), EntryError>>,
) -> Result<GlobSet, EntryError> {
    let mut set = GlobSetBuilder::new();
    let mut last = 0;
    for entry in entries {
        let (index, entry) = entry?;
        let glob = GlobBuilder::new(entry).build();
        set.add(glob.map_err(|error| EntryError {
            index,
            reason: format!("`{entry}` is no glob: {}", error.kind()),
        })?);
        last = index;
    }
    set.build().map_err(|error| EntryError {
        index: last,
        reason: format!("the globs are too complex: {}", error.kind()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries(how: Match, list: &[&str]) -> Result<Entries, String> {
        Entries::new(how, list.iter().copied()).map_err(|error| format!("{}: {}", error.index, error.reason))
    }

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    fn ip(text: &str) -> Value {
        Value::Ip(text.parse().unwrap())
    }

    #[test]
    fn values_are_compared_as_the_list_says() {
        let networks = &["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::ffff:172.16.0.0/108"];
        let table: &[(Match, &[&str], Value, Option<bool>)] = &[
            (Match::Exact, &["a", "b"], text("b"), Some(true)),
            (Match::Exact, &["a", "b"], text("B"), Some(false)),
            (Match::Exact, &["1"], Value::Long(1), None),
            (Match::Glob, &["/a/*"], text("/a/b/c"), Some(true)),
            (Match::Glob, &["*.example", "x?"], text("x1"), Some(true)),
            (Match::Glob, &["*.example"], text("example"), Some(false)),
            (Match::Glob, &["a"], text("ab"), Some(false)),
            (Match::Cidr, networks, ip("10.255.0.1"), Some(true)),
            (Match::Cidr, networks, ip("::ffff:10.255.0.1"), Some(true)),
            (Match::Cidr, networks, ip("11.0.0.1"), Some(false)),
            (Match::Cidr, networks, ip("192.0.2.7"), Some(true)),
            (Match::Cidr, networks, ip("192.0.2.8"), Some(false)),
            (Match::Cidr, networks, ip("2001:db8:1::1"), Some(true)),
            (Match::Cidr, networks, ip("2001:db9::1"), Some(false)),
            (Match::Cidr, networks, ip("172.31.0.1"), Some(true)),
            (Match::Cidr, networks, text(" 10.1.1.1"), Some(true)),
            (Match::Cidr, networks, text("10.1.1.1, 1.1.1.1"), None),
            (Match::Cidr, networks, Value::Bool(true), None),
            (Match::Cidr, &[], ip("10.1.1.1"), Some(false)),
        ];
        for (how, list, value, expected) in table {
            assert_eq!(entries(*how, list).unwrap().contain(value), *expected, "{list:?} on {value:?}");
        }
    }

    #[test]
    fn bad_entries_are_named() {
        let long = "x".repeat(ENTRY_LENGTH_MAX + 1);
        let table: &[(Match, &[&str], &str)] = &[
            (Match::Exact, &["a", ""], "1: an entry has 1 to 1024 bytes"),
            (Match::Exact, &[&long], "0: an entry has 1 to 1024 bytes"),
            (Match::Glob, &["a", "[z"], "1: `[z` is no glob: "),
            (Match::Cidr, &["10.0.0"], "0: `10.0.0` is no address and no network such as `10.0.0.0/8`"),
            (Match::Cidr, &["10.1.0.0/8"], "0: `10.1.0.0/8` has bits beyond its prefix: write `10.0.0.0/8`"),
            (Match::Glob, &["x"; GLOBS_MAX + 1], "10000: there are more than 10000 entries"),
        ];
        for (how, list, expected) in table {
            let error = entries(*how, list).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
        assert!(Entries::new(Match::Exact, std::iter::repeat_n("x", ENTRIES_MAX)).is_ok());
        assert!(Entries::new(Match::Exact, std::iter::repeat_n("x", ENTRIES_MAX + 1)).is_err());
    }

    proptest! {
        #[test]
        fn look_up_by_prefix_agrees_with_trying_every_network(
            nets in prop::collection::vec((any::<u32>(), 0u8..=32), 0..8), address in any::<u32>(), near in any::<u8>(),
        ) {
            let nets: Vec<Ipv4Net> = nets.into_iter().map(|(a, l)| Ipv4Net::new(a.into(), l).unwrap().trunc()).collect();
            let texts: Vec<String> = nets.iter().map(ToString::to_string).collect();
            let list = Entries::new(Match::Cidr, texts.iter().map(String::as_str)).unwrap();
            // Addresses near a network's end are the interesting ones.
            let edge = nets.first().map_or(0, |net| u32::from(net.broadcast()).wrapping_add(u32::from(near % 3)));
            for address in [address, edge] {
                let address = std::net::Ipv4Addr::from(address);
                let expected = nets.iter().any(|net| net.contains(&address));
                prop_assert_eq!(list.contain(&Value::Ip(address.into())), Some(expected));
            }
        }
    }
}
