//! Runs a job: both sides in turn, round by round, so that what disturbs the machine disturbs both.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::daemons::{Daemon, free_addresses};
use crate::envoy::{self, Certificates};
use crate::load::{Exchange, Load, Outcome, Tls};
use crate::pki;
use crate::processor;
use crate::row::{CALLER, Hop, Row, SERVICE, Wire};
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

/// The processors of the proxies, of which most jobs use the first.
const PROXIES: &[usize] = &[0, 1];
/// The processor of everything else.
pub(crate) const OTHERS: &[usize] = &[1];

/// How long connections are used before memory is looked at.
const MEMORY_SECONDS: f64 = 3.0;

/// What came of one job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// What Tidegate lacks for this job.
    pub missing: Option<String>,
    pub tidegate: Rounds,
    pub envoy: Rounds,
}

/// What came of one side, a round each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rounds {
    /// What the processes had in memory before there was any load.
    pub idle_kib: u64,
    /// As fast as it goes.
    pub closed: Vec<Outcome>,
    /// At a fixed rate.
    pub open: Vec<Outcome>,
}

impl Measured {
    /// What is wrong with it, by side.
    pub(crate) fn faults(&self) -> Vec<String> {
        let side = |name: &str, rounds: &Rounds| {
            let mut all = rounds.closed.iter().chain(&rounds.open);
            all.find_map(Outcome::fault).map(|fault| format!("{name}: {fault}"))
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
    let (upstream, _service) = start_upstream(row, folder)?;
    let proxies = PROXIES.get(..row.processors).context("the proxies have two processors at most")?;
    let place = Place { folder, upstream, proxies, others: OTHERS };
    let caller = pki::issue(&ca.state(), CALLER, folder)?;
    let tls = (row.hop == Hop::Mutual).then(|| caller.to(SERVICE));
    let tidegate = match row.missing {
        None => Some(ca.start_side(row, &place).context("Tidegate does not start")?),
        Some(_) => None,
    };
    let envoy = match &options.envoy {
        Some(binary) => {
            let certificates = Certificates { caller, service: pki::issue(&ca.state(), SERVICE, folder)? };
            Some(envoy::start(binary, row, &certificates, &place).context("Envoy does not start")?)
        }
        None => None,
    };
    let mut measured = Measured { missing: row.missing.map(str::to_owned), ..Measured::default() };
    let sides = [(tidegate.as_ref(), &mut measured.tidegate), (envoy.as_ref(), &mut measured.envoy)];
    let mut sides: Vec<(&Side, &mut Rounds)> =
        sides.into_iter().filter_map(|(side, rounds)| Some((side?, rounds))).collect();
    for (side, rounds) in &mut sides {
        rounds.idle_kib = processor::resident_kib(&side.ids())?;
        if options.envoy.is_none() {
            println!(
                "{:<12} {} is at work as {:?}, on processors {proxies:?}",
                row.id,
                side.name,
                side.ids()
            );
        }
    }
    let rates = [row.closed.then_some(None), row.rate.map(Some)];
    // A profile is of one thing.
    let turns: Vec<Option<u32>> =
        rates.into_iter().flatten().take(if options.envoy.is_none() { 1 } else { 2 }).collect();
    let times = if row.is_for_memory() { 1 } else { options.rounds };
    for round in 0..times {
        for rate in &turns {
            for (side, rounds) in &mut sides {
                let how = rate.map_or_else(|| "as fast as it goes".to_owned(), |rate| format!("{rate}/s"));
                tell(&format!("round {}, {how}, {}", round + 1, side.name));
                let load = Load {
                    warm_up_seconds: options.warm_up_seconds,
                    // Every connection has to be used.
                    seconds: if row.is_for_memory() { MEMORY_SECONDS } else { options.seconds },
                    ..load_of(row, side, tls.as_ref(), *rate, proxies)
                };
                let outcome = generate(&load)?;
                let turns = if rate.is_some() { &mut rounds.open } else { &mut rounds.closed };
                turns.push(outcome);
            }
        }
        // A B, then B A.
        sides.reverse();
    }
    Ok(measured)
}

/// Starts the service behind the proxies.
pub(crate) fn start_upstream(row: &Row, folder: &Path) -> Result<(SocketAddr, Daemon)> {
    let [upstream] = free_addresses()?;
    let arguments = ["upstream", row.wire.as_argument(), &upstream.to_string()];
    let bench = std::env::current_exe()?;
    let mut service = Daemon::start(&bench, &arguments, OTHERS, folder.join("upstream.log"))?;
    service.until_listening(upstream)?;
    Ok((upstream, service))
}

/// What `side` is loaded with for `row`, for one second without a warm-up.
pub(crate) fn load_of(
    row: &Row,
    side: &Side,
    tls: Option<&Tls>,
    rate: Option<u32>,
    processors: &[usize],
) -> Load {
    let exchange = match row.wire {
        Wire::Http => Exchange::Http { prefix: row.prefix() },
        Wire::Grpc { streams } => Exchange::Grpc { streams },
        Wire::Tcp => Exchange::Tcp,
    };
    Load {
        target: side.target,
        exchange,
        connections: row.connections,
        rate,
        reconnect: row.reconnect,
        warm_up_seconds: 0.0,
        seconds: 1.0,
        processes: side.ids(),
        processors: processors.to_vec(),
        others: side.other_ids(),
        tls: tls.cloned(),
    }
}

/// Runs the generator in a process of its own.
pub(crate) fn generate(load: &Load) -> Result<Outcome> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["generate", &serde_json::to_string(load)?]).stderr(Stdio::inherit());
    let child = processor::on(OTHERS, || command.stdout(Stdio::piped()).spawn())??;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("the generator failed: {}", output.status);
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
