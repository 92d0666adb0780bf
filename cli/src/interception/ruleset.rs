//! The nftables rules of an interception.
//!
//! They make one table of our own, replaced whole in one transaction, so that installing twice is installing once,
//! and nothing is left when it is removed. What an operator chose is in named sets; the rules are always the same.

use std::fmt::Write;

use ipnet::IpNet;

use super::{Interception, Redirect, list};

/// The table's family and name: IPv4 and IPv6 in one.
pub const TABLE: &str = "inet tidegate";

/// The set of the sidecar's users.
pub(super) const USERS: &str = "proxy_users";
/// The names of both directions' chains, which their sets begin with.
pub(super) const OUTBOUND: &str = "outbound";
/// The other one.
pub(super) const INBOUND: &str = "inbound";

/// What `nft -f` is given to install `wanted`, in place of whatever was installed.
pub fn install(wanted: &Interception) -> String {
    let mut text = remove();
    let mut body = set(USERS, "uid", "", &list(&wanted.users));
    if let Some(outbound) = &wanted.outbound {
        body.push_str(&sets(OUTBOUND, outbound));
        let rules = format!(
            "meta skuid @{USERS} return comment \"what the sidecar itself sends\"\n\
             fib daddr type local return comment \"loopback, and this host's own addresses\"\n\
             {}",
            rules(OUTBOUND, "daddr", outbound)
        );
        body.push_str(&chain(OUTBOUND, "output", &rules));
    }
    if let Some(inbound) = &wanted.inbound {
        body.push_str(&sets(INBOUND, inbound));
        let rules = format!(
            "fib daddr type != local return comment \"what only passes through this host\"\n\
             tcp dport {} return comment \"for the sidecar already\"\n\
             {}",
            inbound.listener,
            rules(INBOUND, "saddr", inbound)
        );
        body.push_str(&chain(INBOUND, "prerouting", &rules));
    }
    // Writing to a string does not fail.
    let _infallible = write!(text, "table {TABLE} {{\n{}}}\n", indented(&body));
    text
}

/// What `nft -f` is given to remove it. It is no error if nothing is installed: the table is made, then deleted.
pub fn remove() -> String {
    format!("table {TABLE}\ndelete table {TABLE}\n")
}

fn sets(direction: &str, redirect: &Redirect) -> String {
    // Ranges may overlap; the kernel takes only what does not.
    const INTERVALS: &str = "flags interval\nauto-merge\n";
    let (v4, v6): (Vec<IpNet>, Vec<IpNet>) =
        redirect.excluded_networks.iter().partition(|network| matches!(network, IpNet::V4(_)));
    [
        ("ports", "inet_service", list(&redirect.ports)),
        ("excluded_ports", "inet_service", list(&redirect.excluded_ports)),
        ("excluded_v4", "ipv4_addr", list(&v4)),
        ("excluded_v6", "ipv6_addr", list(&v6)),
    ]
    .into_iter()
    .map(|(name, kind, elements)| set(&format!("{direction}_{name}"), kind, INTERVALS, &elements))
    .collect()
}

/// The rules that follow an operator's choice; `end` is where the other side's address is.
fn rules(direction: &str, end: &str, redirect: &Redirect) -> String {
    format!(
        "ip {end} @{direction}_excluded_v4 return\n\
         ip6 {end} @{direction}_excluded_v6 return\n\
         tcp dport @{direction}_excluded_ports return\n\
         tcp dport @{direction}_ports redirect to :{}\n",
        redirect.listener
    )
}

fn set(name: &str, kind: &str, flags: &str, elements: &str) -> String {
    let elements = if elements.is_empty() { String::new() } else { format!("elements = {{ {elements} }}\n") };
    format!("set {name} {{\n{}}}\n", indented(&format!("type {kind}\n{flags}{elements}")))
}

/// A chain at a hook; -100 is where destinations are changed, and a name for it is not known at every hook.
fn chain(name: &str, hook: &str, rules: &str) -> String {
    let kind = format!("type nat hook {hook} priority -100; policy accept;\n");
    format!("chain {name} {{\n{}}}\n", indented(&format!("{kind}{rules}")))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("\t{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    use super::super::Ports;
    use super::super::tests::full;
    use super::*;

    #[test]
    fn every_option_has_its_place() {
        expect_file!["testdata/full.nft"].assert_eq(&install(&full()));
    }

    #[test]
    fn one_direction_alone_has_one_chain() {
        let outbound = Redirect {
            listener: 1,
            ports: vec![Ports::ALL],
            excluded_ports: vec![],
            excluded_networks: vec![],
        };
        let only = Interception { users: vec![7], outbound: Some(outbound), inbound: None };
        expect_file!["testdata/outbound.nft"].assert_eq(&install(&only));
    }
}
