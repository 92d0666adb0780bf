//! Runs a job: both sides in turn, round by round, so that what disturbs the machine disturbs both.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::daemons::{Daemon, free_addresses};
use crate::envoy::{self, Certificates};
use crate::load::{Exchange, Load, Outcome, Tls};
use crate::pki;
use crate::processor;
use crate::row::{CALLER, Hop, Row, SERVICE};
use crate::side::{Place, Side};
use crate::tidegate::Ca;

/// How a run goes.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub rounds: usize,
    /// What a round takes of each side, once it is warm.
    pub seconds: f64,
    pub warm_up_seconds: f64,
    /// Envoy's program; without, Tidegate is measured alone.
    pub envoy: Option<PathBuf>,
}

/// The processors of a run.
pub(crate) const PROXIES: &[usize] = &[0];
pub(crate) const OTHERS: &[usize] = &[1];

/// What came of one job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub tidegate: Rounds,
    pub envoy: Rounds,
}

/// What came of one side, a round each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rounds {
    /// As fast as it goes.
    pub closed: Vec<Outcome>,
    /// At a fixed rate.
    pub open: Vec<Outcome>,
}

impl Measured {
    /// What is wrong with it, by side.
    pub(crate) fn faults(&self) -> Vec<String> {
        let side = |name: &str, rounds: &Rounds| {
            let all = rounds.closed.iter().chain(&rounds.open);
            all.filter_map(Outcome::fault).next().map(|fault| format!("{name}: {fault}"))
        };
        [side("Tidegate", &self.tidegate), side("Envoy", &self.envoy)].into_iter().flatten().collect()
    }
}

/// Measures `row` with configurations and logs in `folder`; `tell` hears of each step.
pub(crate) fn measure(
    row: &Row,
    ca: &Ca,
    options: &Options,
    folder: &Path,
    tell: &dyn Fn(&str),
) -> Result<Measured> {
    tell("starting");
    let bench = std::env::current_exe()?;
    let [upstream] = free_addresses()?;
    let arguments = ["upstream".to_owned(), upstream.to_string()];
    let mut service = Daemon::start(&bench, &arguments, OTHERS, folder.join("upstream.log"))?;
    service.until_listening(upstream)?;
    let place = Place { folder, upstream, proxies: PROXIES, others: OTHERS };
    let caller = pki::issue(&ca.state(), CALLER, folder)?;
    let tls = (row.hop == Hop::Mutual).then(|| caller.to(SERVICE));
    let tidegate = ca.start_side(row, &place).context("Tidegate does not start")?;
    let envoy = match &options.envoy {
        Some(binary) => {
            let certificates = Certificates { caller, service: pki::issue(&ca.state(), SERVICE, folder)? };
            Some(envoy::start(binary, row, &certificates, &place).context("Envoy does not start")?)
        }
        None => None,
    };
    let mut measured = Measured::default();
    for round in 0..options.rounds {
        for rate in [None, Some(row.rate)] {
            let mut sides: Vec<(&Side, &mut Rounds)> = vec![(&tidegate, &mut measured.tidegate)];
            sides.extend(envoy.as_ref().map(|side| (side, &mut measured.envoy)));
            // A B, then B A.
            if round % 2 == 1 {
                sides.reverse();
            }
            for (side, rounds) in sides {
                let how = rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("{rate}/s"));
                tell(&format!("round {}/{}, {how}, {}", round + 1, options.rounds, side.name));
                let outcome = generate(&bench, &load(row, side, tls.as_ref(), rate, options))?;
                if rate.is_some() { rounds.open.push(outcome) } else { rounds.closed.push(outcome) }
            }
        }
    }
    Ok(measured)
}

fn load(row: &Row, side: &Side, tls: Option<&Tls>, rate: Option<u32>, options: &Options) -> Load {
    Load {
        target: side.target,
        exchange: Exchange::Http { prefix: row.prefix() },
        connections: row.connections,
        rate,
        reconnect: row.reconnect,
        warm_up_seconds: options.warm_up_seconds,
        seconds: options.seconds,
        processes: side.ids(),
        others: side.other_ids(),
        tls: tls.cloned(),
    }
}

/// Runs the generator in a process of its own.
fn generate(bench: &Path, load: &Load) -> Result<Outcome> {
    let mut command = Command::new(bench);
    command.args(["generate", &serde_json::to_string(load)?]).stderr(Stdio::inherit());
    let child = processor::on(OTHERS, || command.stdout(Stdio::piped()).spawn())??;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("the generator failed: {}", output.status);
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
