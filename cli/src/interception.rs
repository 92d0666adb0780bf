//! Transparent interception: which connections of this host the kernel hands to the sidecar instead.
//!
//! An [`Interception`] is what an operator asks for. [`ruleset`] writes it as nftables rules, [`listing`] reads it
//! back from those, and [`nft`] alone talks to the kernel.

pub mod listing;
pub mod nft;
pub mod ruleset;

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

/// Which connections the kernel redirects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interception {
    /// The users that the sidecar runs as: what they send is never redirected, or it would come back for ever.
    pub users: Vec<u32>,
    /// What this host sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outbound: Option<Redirect>,
    /// What others send to this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inbound: Option<Redirect>,
}

/// What is redirected of the TCP connections in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Redirect {
    /// The port of the sidecar's listener.
    pub listener: u16,
    /// The destination ports.
    pub ports: Vec<Ports>,
    /// Destination ports that are left alone all the same.
    pub excluded_ports: Vec<Ports>,
    /// Networks at the other end that are left alone.
    pub excluded_networks: Vec<IpNet>,
}

/// A port, or a range of ports with both ends in it; never port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    from: u16,
    to: u16,
}

/// A text that names no ports.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no port from 1 to 65535, nor a range such as `8000-8999`")]
pub struct NoPorts(String);

impl Ports {
    /// Every port.
    pub const ALL: Self = Self { from: 1, to: u16::MAX };

    /// The ports from `from` to `to`; none if there are none.
    pub const fn new(from: u16, to: u16) -> Option<Self> {
        if from == 0 || to < from { None } else { Some(Self { from, to }) }
    }
}

impl FromStr for Ports {
    type Err = NoPorts;

    fn from_str(text: &str) -> Result<Self, NoPorts> {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        let ports = from.parse().ok().zip(to.parse().ok()).and_then(|(from, to)| Self::new(from, to));
        ports.ok_or_else(|| NoPorts(text.to_owned()))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from == self.to { write!(f, "{}", self.from) } else { write!(f, "{}-{}", self.from, self.to) }
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Interception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, redirect) in [("outbound", &self.outbound), ("inbound", &self.inbound)] {
            let Some(redirect) = redirect else { continue };
            write!(f, "{name:8}  to port {}: TCP to ports {}", redirect.listener, list(&redirect.ports))?;
            if !redirect.excluded_ports.is_empty() {
                write!(f, ", but {}", list(&redirect.excluded_ports))?;
            }
            if !redirect.excluded_networks.is_empty() {
                let which = if name == "outbound" { "to" } else { "from" };
                write!(f, "; nothing {which} {}", list(&redirect.excluded_networks))?;
            }
            writeln!(f)?;
        }
        writeln!(f, "never     what users {} send, what stays on this host", list(&self.users))
    }
}

/// `items`, with commas.
fn list(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An interception that uses every option.
    pub(crate) fn full() -> Interception {
        let ports = |text: &str| text.split(' ').map(|text| text.parse().unwrap()).collect::<Vec<Ports>>();
        let networks = |text: &str| text.split(' ').map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        Interception {
            users: vec![1337, 20000],
            outbound: Some(Redirect {
                listener: 15001,
                ports: ports("80 8000-8999"),
                excluded_ports: ports("8125"),
                excluded_networks: networks("10.9.0.0/16 169.254.169.254/32 fd00:9::/32"),
            }),
            inbound: Some(Redirect {
                listener: 15006,
                ports: vec![Ports::ALL],
                excluded_ports: ports("22"),
                excluded_networks: networks("192.0.2.0/24"),
            }),
        }
    }

    #[test]
    fn ports_are_one_or_a_range() {
        let shown = |text: &str| text.parse::<Ports>().map(|ports| ports.to_string()).ok();
        for good in ["1", "65535", "8000-8999", "1-65535"] {
            assert_eq!(shown(good).as_deref(), Some(good));
        }
        assert_eq!(shown("80-80").as_deref(), Some("80"));
        for bad in ["", "0", "0-1", "2-1", "65536", "http", "1-", "-1", "1-2-3", " 1"] {
            assert_eq!(shown(bad), None, "{bad}");
        }
    }

    #[test]
    fn people_read_what_is_redirected() {
        expect_test::expect![[r#"
            outbound  to port 15001: TCP to ports 80, 8000-8999, but 8125; nothing to 10.9.0.0/16, 169.254.169.254/32, fd00:9::/32
            inbound   to port 15006: TCP to ports 1-65535, but 22; nothing from 192.0.2.0/24
            never     what users 1337, 20000 send, what stays on this host
        "#]]
        .assert_eq(&full().to_string());
    }
}
