//! A request in options, for the commands that are about one.

use std::collections::BTreeMap;

use anyhow::{Error, anyhow};
use clap::{ArgAction, Args};
use policyd::author::unit_test::RequestText;
use policyd::author::unit_test::request_text::Mistake;

/// A request in options.
#[derive(Clone, Debug, Args)]
pub(super) struct Options {
    /// Who calls: a SPIFFE ID, or `unauthenticated`, which is the default
    #[arg(long, value_name = "ID")]
    pub(super) principal: Option<String>,
    /// What kind of exchange it is: http, which is the default, grpc or tcp
    #[arg(long)]
    pub(super) action: Option<String>,
    /// The service called, by its name in mesh.yaml
    #[arg(long)]
    pub(super) service: Option<String>,
    /// The HTTP method; GET by default
    #[arg(long)]
    method: Option<String>,
    /// The path, without the query; / by default
    #[arg(long)]
    path: Option<String>,
    /// The host asked for; the service's name by default
    #[arg(long)]
    host: Option<String>,
    /// A header; may be given several times
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = pair)]
    headers: Vec<(String, String)>,
    /// A query parameter, decoded; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    query: Vec<(String, String)>,
    /// A cookie; may be given several times
    #[arg(long = "cookie", value_name = "NAME=VALUE", value_parser = pair)]
    cookies: Vec<(String, String)>,
    /// A claim of the caller's verified token; may be given several times
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = pair)]
    claims: Vec<(String, String)>,
    /// Where the connection comes from; 127.0.0.1 by default
    #[arg(long, value_name = "IP")]
    source_ip: Option<String>,
    /// Whether the connection is mutual TLS; by default true if the caller has a SPIFFE ID
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    tls: Option<bool>,
    /// The server name that the caller of a raw connection asked for; none by default
    #[arg(long, value_name = "NAME")]
    sni: Option<String>,
    /// The application's port that a raw connection is for; 0 by default
    #[arg(long, value_name = "PORT")]
    destination_port: Option<u16>,
    /// When the request arrives; 2026-01-01T12:00:00Z by default
    #[arg(long)]
    time: Option<String>,
}

impl Options {
    /// Whether more is given than who calls what, and in which way.
    pub(super) fn is_one_request(&self) -> bool {
        let named = [&self.method, &self.path, &self.host, &self.source_ip, &self.sni, &self.time];
        let paired = [&self.headers, &self.query, &self.cookies, &self.claims];
        named.into_iter().any(Option::is_some)
            || paired.into_iter().any(|pairs| !pairs.is_empty())
            || self.tls.is_some()
            || self.destination_port.is_some()
    }

    /// The request.
    pub(super) fn text(self) -> RequestText {
        RequestText {
            principal: self.principal,
            action: self.action,
            service: self.service.unwrap_or_default(),
            method: self.method,
            path: self.path,
            host: self.host,
            headers: joined(self.headers, ", "),
            query: joined(self.query, ","),
            cookies: joined(self.cookies, "; "),
            claims: self.claims.into_iter().collect(),
            source_ip: self.source_ip,
            tls: self.tls,
            sni: self.sni,
            destination_port: self.destination_port,
            time: self.time,
        }
    }
}

/// What is wrong with a request.
pub(super) fn told(mistakes: &[Mistake]) -> Error {
    let lines = mistakes.iter().map(|mistake| format!("{}\n  help: {}", mistake.message, mistake.help));
    anyhow!(lines.collect::<Vec<_>>().join("\nerror: "))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Several values of a name are joined, as a proxy joins them.
fn joined(pairs: Vec<(String, String)>, separator: &str) -> BTreeMap<String, String> {
    let mut joined: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in pairs {
        joined.entry(name).and_modify(|all| *all = format!("{all}{separator}{value}")).or_insert(value);
    }
    joined
}
