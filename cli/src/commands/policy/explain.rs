//! `tidegate policy explain`

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap::{ArgAction, Args};
use daemon::config_file;
use model::{Attributes, Verdict};
use policyd::bundle::{Bundle, Files, Mesh};
use policyd::explain::{self, explain};
use policyd::unit_test::{self, RequestText};

use super::super::{Format, Outcome, print};

/// Why would a request be allowed or denied?
///
/// Prints the decision, then each policy that concerns the service: whether it is satisfied and, if not, which parts
/// of it do not hold, where they stand, and the values that they read; then what would have to change for the request
/// to be decided the other way. Check adapters are not asked.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate policy explain policies/bookinfo --service ratings --path /ratings/0
  tidegate policy explain policies/bookinfo --service reviews --path /reviews/0 \\
      --principal spiffe://bookinfo.example/ns/bookinfo/sa/productpage --header end-user=jason
  tidegate policy explain policies/bookinfo --test 'the page writes no reviews'
  tidegate policy explain policies/bookinfo --request request.yaml --format json

A file for --request holds what stands under `request:` in a test.

Exit codes: 0 allowed, 1 denied, 2 the bundle or the request can't be read.")]
pub(in crate::commands) struct Explain {
    /// The bundle's folder, which holds mesh.yaml
    bundle: PathBuf,
    /// A file that holds the request, instead of the options below
    #[arg(long, value_name = "FILE", required_unless_present_any = ["service", "test"])]
    request: Option<PathBuf>,
    /// A test of the bundle whose request is meant, by its name or its place, such as tests/acl.yaml:14
    #[arg(long, value_name = "NAME", conflicts_with = "request")]
    test: Option<String>,
    #[command(flatten)]
    options: Request,
    /// How to print the explanation
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// A request in options.
#[derive(Debug, Args)]
#[group(conflicts_with_all = ["request", "test"], multiple = true)]
struct Request {
    /// Who calls: a SPIFFE ID, or `unauthenticated`, which is the default
    #[arg(long, value_name = "ID")]
    principal: Option<String>,
    /// What kind of exchange it is: http, which is the default, grpc or tcp
    #[arg(long)]
    action: Option<String>,
    /// The service called, by its name in mesh.yaml
    #[arg(long)]
    service: Option<String>,
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
    /// When the request arrives; 2026-01-01T12:00:00Z by default
    #[arg(long)]
    time: Option<String>,
}

impl Explain {
    pub(super) fn run(self) -> Result<Outcome> {
        let files = Files::read(&self.bundle)?;
        let bundle = Bundle::load(&files)?;
        let attributes = match (&self.request, &self.test) {
            (Some(path), _) => from_file(path, &bundle)?,
            (None, Some(wanted)) => unit_test::find(unit_test::load(&bundle)?, wanted)?.attributes,
            (None, None) => self.options.attributes(&bundle.mesh)?,
        };
        let explanation = explain(&bundle, &files, &attributes)?;
        print(&match self.format {
            Format::Text => explain::text(&explanation, &files, std::io::stdout().is_terminal()),
            Format::Json => serde_json::to_string_pretty(&explain::json(&explanation))?,
        });
        Ok(match explanation.answer.decision {
            Verdict::Allow => Outcome::Clean,
            Verdict::Deny => Outcome::Findings,
        })
    }
}

impl Request {
    fn attributes(self, mesh: &Mesh) -> Result<Attributes> {
        let text = RequestText {
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
            time: self.time,
        };
        text.attributes(mesh).map_err(|mistakes| {
            let lines =
                mistakes.iter().map(|mistake| format!("{}\n  help: {}", mistake.message, mistake.help));
            anyhow!(lines.collect::<Vec<_>>().join("\nerror: "))
        })
    }
}

fn from_file(path: &Path, bundle: &Bundle) -> Result<Attributes> {
    let name = path.display().to_string();
    let source = config_file::read(path, &name)?;
    Ok(unit_test::request(&name, &source, bundle)?)
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
