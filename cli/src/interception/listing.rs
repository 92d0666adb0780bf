//! Reads an interception back from what `nft --json list table` says of our table.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::ruleset::{INBOUND, OUTBOUND, USERS};
use super::{Interception, Ports, Redirect};

/// Our table is there, but not as we make it.
#[derive(Debug, thiserror::Error)]
#[error("the table is not as `tidegate net install` makes it: {0}; `tidegate net install` replaces it")]
pub struct Altered(String);

/// The interception that `listing` stands for, the parsed output of `nft --json list table`.
///
/// # Errors
/// When someone has changed the table so that it is none of ours.
pub fn read(listing: &Value) -> Result<Interception, Altered> {
    let objects = listing.get("nftables").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let users = elements(objects, USERS).iter().map(user).collect::<Result<_, _>>()?;
    Ok(Interception { users, outbound: redirect(objects, OUTBOUND)?, inbound: redirect(objects, INBOUND)? })
}

fn redirect(objects: &[Value], direction: &str) -> Result<Option<Redirect>, Altered> {
    let named = |object: &Value| text(object, "/chain/name") == Some(direction);
    if !objects.iter().any(named) {
        return Ok(None);
    }
    let rules = objects.iter().filter(|object| text(object, "/rule/chain") == Some(direction));
    let expressions = rules.filter_map(|rule| rule.pointer("/rule/expr")?.as_array()).flatten();
    let listener = expressions
        .filter_map(|expression| u16::try_from(expression.pointer("/redirect/port")?.as_u64()?).ok())
        .next()
        .ok_or_else(|| Altered(format!("the chain `{direction}` redirects nothing")))?;
    let set = |name: &str| elements(objects, &format!("{direction}_{name}"));
    let all_ports = |name| set(name).iter().map(ports).collect::<Result<Vec<_>, _>>();
    let mut excluded_networks = Vec::new();
    for element in set("excluded_v4").iter().chain(set("excluded_v6")) {
        excluded_networks.extend(networks(element)?);
    }
    Ok(Some(Redirect {
        listener,
        ports: all_ports("ports")?,
        excluded_ports: all_ports("excluded_ports")?,
        excluded_networks,
    }))
}

/// The elements of the set called `name`; none if it is empty or not there.
fn elements<'a>(objects: &'a [Value], name: &str) -> &'a [Value] {
    let set = objects.iter().find(|object| text(object, "/set/name") == Some(name));
    set.and_then(|set| set.pointer("/set/elem")?.as_array()).map(Vec::as_slice).unwrap_or_default()
}

fn user(element: &Value) -> Result<u32, Altered> {
    element.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| strange(element))
}

fn ports(element: &Value) -> Result<Ports, Altered> {
    let port = |value: &Value| u16::try_from(value.as_u64()?).ok();
    let range = match element.get("range").and_then(Value::as_array).map(Vec::as_slice) {
        Some([from, to]) => port(from).zip(port(to)),
        Some(_) => None,
        None => port(element).map(|port| (port, port)),
    };
    range.and_then(|(from, to)| Ports::new(from, to)).ok_or_else(|| strange(element))
}

/// An address, a network, or a range that the kernel has made of neighbouring networks.
fn networks(element: &Value) -> Result<Vec<IpNet>, Altered> {
    let address = |value: &Value| value.as_str()?.parse::<IpAddr>().ok();
    let read = || {
        if let Some(prefix) = element.get("prefix") {
            let length = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
            return Some(vec![IpNet::new(address(prefix.get("addr")?)?, length).ok()?]);
        }
        if let Some([from, to]) = element.get("range").and_then(Value::as_array).map(Vec::as_slice) {
            return match (address(from)?, address(to)?) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    Some(ipnet::Ipv4Subnets::new(from, to, 0).map(IpNet::V4).collect())
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    Some(ipnet::Ipv6Subnets::new(from, to, 0).map(IpNet::V6).collect())
                }
                _ => None,
            };
        }
        Some(vec![IpNet::from(address(element)?)])
    };
    read().ok_or_else(|| strange(element))
}

fn strange(element: &Value) -> Altered {
    Altered(format!("`{element}` is not what its set is for"))
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::super::tests::full;
    use super::*;

    /// What nft 1.0.6 says of `testdata/full.nft`.
    const FULL: &str = include_str!("testdata/full.json");

    #[test]
    fn what_was_installed_is_read_back() {
        let listing: Value = serde_json::from_str(FULL).unwrap();
        assert_eq!(read(&listing).unwrap(), full());
    }

    #[test]
    fn merged_networks_are_ranges() {
        let read = |text: &str| {
            let networks =
                networks(&serde_json::from_str(text).unwrap()).map_err(|error| error.to_string())?;
            Ok::<_, String>(super::super::list(&networks))
        };
        assert_eq!(read(r#"{"range": ["10.0.0.1", "10.0.0.3"]}"#).unwrap(), "10.0.0.1/32, 10.0.0.2/31");
        assert_eq!(read(r#"{"range": ["fd00::", "fd00::1"]}"#).unwrap(), "fd00::/127");
        for bad in
            [r#"{"range": ["10.0.0.1", "fd00::"]}"#, "7", r#"{"prefix": {"addr": "10.0.0.0", "len": 33}}"#]
        {
            assert!(read(bad).unwrap_err().contains("is not what its set is for"), "{bad}");
        }
    }

    #[test]
    fn a_table_that_was_changed_is_told() {
        let altered = FULL.replace(r#"{"redirect": {"port": 15006}}"#, r#"{"return": null}"#);
        let error = read(&serde_json::from_str(&altered).unwrap()).unwrap_err().to_string();
        assert!(error.contains("the chain `inbound` redirects nothing"), "{error}");
        let altered = FULL.replace("[1337, 20000]", r#"["root"]"#);
        assert!(read(&serde_json::from_str(&altered).unwrap()).is_err());
    }
}
