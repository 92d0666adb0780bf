//! That requests come from one address.
//!
//! To Cedar a range is an address, too, and one that reaches beyond `10.0.0.0/9` is in `10.0.0.0/8` without being in either
//! of its halves. That it is no range can't be said in Cedar. But that it lies within or without each range that policies
//! name can: for what is without lies within one of the ranges beside it.

use std::collections::BTreeSet;

use cedar_policy_core::ast::{Expr, ExprKind, Literal};
use ipnet::IpNet;

use crate::bundle::{Bundle, Policy};

/// The most ranges of which this is said.
const RANGES_MAX: usize = 64;

/// What Cedar's `isLoopback()` and `isMulticast()` look for.
const IMPLIED: [(&str, [&str; 2]); 2] =
    [("isLoopback", ["127.0.0.0/8", "::1/128"]), ("isMulticast", ["224.0.0.0/4", "ff00::/8"])];

/// What holds for the address that a request comes from, as conditions.
pub(super) fn facts(bundles: [&Bundle; 2]) -> Vec<String> {
    let mut ranges = BTreeSet::new();
    for policy in bundles.into_iter().flat_map(|bundle| bundle.policies.policies()) {
        let Some(policy) = Policy::to_cedar(policy) else { continue };
        policy.as_ref().condition().subexpressions().for_each(|expr| ranges.extend(named(expr)));
    }
    ranges.into_iter().take(RANGES_MAX).map(is_within_or_without).collect()
}

/// The ranges that an expression names.
fn named(expr: &Expr) -> Vec<IpNet> {
    let ExprKind::ExtensionFunctionApp { fn_name, args } = expr.expr_kind() else { return Vec::new() };
    let name = fn_name.to_string();
    if let Some((_, ranges)) = IMPLIED.iter().find(|(function, _)| *function == name) {
        return ranges.iter().filter_map(|range| range.parse().ok()).collect();
    }
    let range = match args.first().map(Expr::expr_kind) {
        Some(ExprKind::Lit(Literal::String(text))) if name == "ip" => text
            .parse::<IpNet>()
            .or_else(|_address| text.parse().map(|address: std::net::IpAddr| address.into())),
        _ => return Vec::new(),
    };
    range.map(|range| range.trunc()).into_iter().collect()
}

fn is_within_or_without(range: IpNet) -> String {
    let mut within = vec![
        if range.addr().is_ipv4() { "context.source_ip.isIpv6()" } else { "context.source_ip.isIpv4()" }
            .to_owned(),
    ];
    let beside = (0..range.prefix_len()).filter_map(|length| {
        let around = IpNet::new(range.addr(), length).ok()?.trunc();
        around.subnets(length + 1).ok()?.find(|half| !half.contains(&range))
    });
    within.extend(
        std::iter::once(range)
            .chain(beside)
            .map(|range| format!("context.source_ip.isInRange(ip(\"{range}\"))")),
    );
    within.join(" || ")
}
