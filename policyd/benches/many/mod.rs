//! Bundles of any number of policies, as a large mesh has them, for what is measured of them.

use std::collections::BTreeMap;
use std::fmt::Write;

use model::Attributes;
use tidegate_policyd::bundle::Files;

/// So many policies name one caller and one service: the candidates of a check.
pub(crate) const CANDIDATES: usize = 20;

/// A bundle of `policies` in `files` files. Each policy names a caller, a service, a method and a path.
pub(crate) fn bundle(policies: usize, files: usize) -> Files {
    let services = services(policies);
    let mut texts = BTreeMap::from([("mesh.yaml".to_owned(), mesh(services))]);
    for file in 0..files {
        let numbers = policies * file / files..policies * (file + 1) / files;
        texts.insert(format!("acl{file}.cedar"), numbers.map(|number| policy(number, services)).collect());
    }
    Files { folder: ".".into(), texts }
}

/// The same policies as `links` of two templates, one of them a `forbid`.
pub(crate) fn linked(links: usize) -> Files {
    let services = services(links);
    let template = |id: &str, effect: &str| {
        format!(
            "@id(\"{id}\") {effect}(principal == ?principal, action == Action::\"http\", resource == ?resource) \
             when {{ context.method == \"GET\" && context.path like \"/v1/*\" }};\n"
        )
    };
    let mut text = "links:\n".to_owned();
    for number in 0..links {
        let (caller, service) = pair(number, services);
        let template = if number % CANDIDATES == 7 { "no" } else { "yes" };
        let _infallible = write!(
            text,
            "  - template: {template}\n    id: link-{number}\n    principal: {}\n    resource: Service::\"s{service}\"\n",
            workload(caller)
        );
    }
    let acl = template("yes", "permit") + &template("no", "forbid");
    let texts = [("mesh.yaml", mesh(services)), ("acl.cedar", acl), ("links.yaml", text)];
    Files { folder: ".".into(), texts: texts.map(|(name, text)| (name.to_owned(), text)).into() }
}

/// The request number `number` by the caller whose policies are the first ones.
pub(crate) fn request(number: usize) -> Attributes {
    Attributes {
        principal: "spiffe://shop.example/ns/n0/sa/s0".parse().unwrap_or(model::Principal::Unauthenticated),
        resource: "s0".into(),
        method: if number % 10 == 9 { "POST".into() } else { "GET".into() },
        path: format!("/v{}/orders/{number}", number % CANDIDATES),
        host: "s0".into(),
        source_ip: std::net::IpAddr::from([10, 0, 0, u8::try_from(number % 250).unwrap_or_default()]),
        tls: true,
        time: jiff::Timestamp::UNIX_EPOCH
            + jiff::SignedDuration::from_millis(i64::try_from(number).unwrap_or_default()),
        ..Attributes::default()
    }
}

/// The text of policy `number`.
fn policy(number: usize, services: usize) -> String {
    let (caller, service) = pair(number, services);
    let effect = if number % CANDIDATES == 7 { "forbid" } else { "permit" };
    format!(
        "{effect}(principal == {}, action == Action::\"http\", resource == Service::\"s{service}\") \
         when {{ context.method == \"GET\" && context.path like \"/v{number}/*\" }};\n",
        workload(caller)
    )
}

/// How many services a mesh with so many policies has.
fn services(policies: usize) -> usize {
    policies.div_ceil(CANDIDATES).min(500)
}

fn pair(number: usize, services: usize) -> (usize, usize) {
    let pair = number / CANDIDATES;
    (pair / services, pair % services)
}

fn workload(caller: usize) -> String {
    format!("Workload::\"spiffe://shop.example/ns/n{}/sa/s{caller}\"", caller % 10)
}

fn mesh(services: usize) -> String {
    let service = |number| {
        format!("  s{number}: {{namespace: n{}, instances: [{{endpoint: '127.0.0.1:80'}}]}}\n", number % 10)
    };
    let services: String = (0..services).map(service).collect();
    format!("trust_domain: shop.example\nservices:\n{services}")
}
