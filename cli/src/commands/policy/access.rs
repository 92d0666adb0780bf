//! `tidegate policy who-can` and `what-can`

mod picture;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use comfy_table::{Table, presets};
use daemon::finding::did_you_mean;
use model::Action;
use policyd::author::access::{self, Asked, Matrix, Progress};
use policyd::bundle::{Bundle, Files};

use super::super::{Format, Outcome, print};
use super::request::{Options, told};
use crate::overview::unpadded;
use crate::progress::counted;

/// Who may call a service? Without --service: who may call what?
///
/// For each caller and service it tells whether all requests are allowed, whether it depends on the request, and by
/// which policies, or whether none is. With more than --service, it tells who may send this one request.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate policy who-can policies/bookinfo                     every caller and service
  tidegate policy who-can policies/bookinfo --service ratings
  tidegate policy who-can policies/bookinfo --service ratings --method POST --path /ratings/0
  tidegate policy who-can policies/bookinfo --svg access.svg    draw a picture, too

Exit codes: 0 somebody may, 1 nobody may, 2 the bundle or the request can't be read.")]
pub(in crate::commands) struct WhoCan {
    #[command(flatten)]
    access: Access,
}

/// What may a caller call? Without --principal: who may call what?
///
/// For each service it tells whether all requests are allowed, whether it depends on the request, and by which
/// policies, or whether none is. With more than --principal and --service, it tells where this one request is allowed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate policy what-can policies/bookinfo --principal unauthenticated
  tidegate policy what-can policies/bookinfo \\
      --principal spiffe://bookinfo.example/ns/bookinfo/sa/reviews --format json

Exit codes: 0 it may call something, 1 nothing, 2 the bundle or the request can't be read.")]
pub(in crate::commands) struct WhatCan {
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Args)]
struct Access {
    /// The bundle's folder, which holds mesh.yaml
    bundle: PathBuf,
    #[command(flatten)]
    options: Options,
    /// Draw the callers and services into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// How to print the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl WhoCan {
    pub(super) fn run(self) -> Result<Outcome> {
        self.access.run()
    }
}

impl WhatCan {
    pub(super) fn run(self) -> Result<Outcome> {
        self.access.run()
    }
}

impl Access {
    fn run(self) -> Result<Outcome> {
        let files = Files::read(&self.bundle)?;
        let bundle = Bundle::load(&files)?;
        let matrix = self.matrix(&bundle, &files)?;
        if let Some(path) = &self.svg {
            std::fs::write(path, picture::draw(&matrix))
                .with_context(|| format!("`{}` can't be written", path.display()))?;
        }
        print(&match self.format {
            Format::Text => shown(&matrix),
            Format::Json => serde_json::to_string_pretty(&access::json(&matrix))?,
        });
        Ok(if matrix.is_closed() { Outcome::Findings } else { Outcome::Clean })
    }

    fn matrix(&self, bundle: &Bundle, files: &Files) -> Result<Matrix> {
        let request = self.options.clone().text();
        if let Some(service) = &self.options.service
            && !bundle.mesh.services.contains_key(service)
        {
            let help = match did_you_mean(service, bundle.mesh.services.keys().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "name a service of mesh.yaml".to_owned(),
            };
            bail!("there is no service `{service}`\n  help: {help}");
        }
        // Whatever is wrong with what was typed is wrong for every caller and service.
        let service = || bundle.mesh.services.keys().next().cloned().unwrap_or_default();
        let mut typed = request.clone();
        if self.options.service.is_none() {
            typed.service = service();
        }
        let typed = typed.attributes(&bundle.mesh).map_err(|mistakes| told(&mistakes))?;
        let asked = Asked {
            caller: self.options.principal.is_some().then(|| typed.principal.clone()),
            service: self.options.service.clone(),
        };
        if !self.options.is_one_request() {
            let bar = counted("answers");
            let matrix = access::matrix(bundle, files, &asked, typed.action, &|progress| match progress {
                Progress::Cells(count) => bar.set_length(count as u64),
                Progress::Done => bar.inc(1),
            });
            bar.finish_and_clear();
            return Ok(matrix?);
        }
        access::of_request(bundle, files, &asked, |principal, service| {
            let principal = Some(principal.as_str().to_owned());
            let request = policyd::author::unit_test::RequestText {
                principal,
                service: service.to_owned(),
                action: Some(typed.action.as_str().to_owned()).filter(|_| typed.action != Action::Http),
                ..request.clone()
            };
            request.attributes(&bundle.mesh).map_err(|mistakes| told(&mistakes))
        })
    }
}

fn shown(matrix: &Matrix) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(std::iter::once("caller").chain(matrix.services.iter().map(String::as_str)));
    for (caller, cells) in matrix.rows() {
        table.add_row(std::iter::once(caller.name.as_str()).chain(cells.map(|(_, cell)| matrix.word(cell))));
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    format!("{}\n{}", unpadded(&table), access::details(matrix))
}
