//! `tidegate net`

use anyhow::Result;
use clap::{ArgGroup, Args, Subcommand};
use ipnet::IpNet;
use serde::Serialize;

use super::{Format, Outcome, print};
use crate::interception::{Interception, Ports, Redirect, listing, nft, ruleset};

/// Redirect this host's connections to its sidecar, so that applications need no configuration
#[derive(Debug, Subcommand)]
pub(super) enum Net {
    Install(Install),
    Remove(Remove),
    Show(Show),
}

/// Have the kernel redirect connections to the sidecar
///
/// Writes the nftables table `inet tidegate` in one step, in place of the one that was there. The sidecar's
/// configuration says `intercept: true`. UDP is not redirected, nor what stays on this host.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("directions").args(["outbound", "inbound"]).multiple(true).required(true))]
#[command(after_help = "\
Examples:
  tidegate net install --uid 1337 --outbound 15001 --inbound 15006
  tidegate net install --uid 1337 --outbound 15001 --ports 80,8000-8999 --exclude-to 10.9.0.0/16
  tidegate net install --uid 1337 --inbound 15006 --exclude-inbound-ports 22,9100 --dry-run

Exit codes: 0 installed, 2 an error: nothing was changed.")]
pub(super) struct Install {
    /// The user that the sidecar runs as: what it sends is left alone (`id -u NAME` tells the number)
    #[arg(long, value_name = "UID", required = true, value_delimiter = ',')]
    uid: Vec<u32>,
    /// Redirect what this host sends to this port, where the sidecar's outbound listener is
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    outbound: Option<u16>,
    /// Only what is sent to these ports
    #[arg(long, value_name = "PORTS", value_delimiter = ',', default_value = "1-65535")]
    ports: Vec<Ports>,
    /// But not what is sent to these ports
    #[arg(long, value_name = "PORTS", value_delimiter = ',', requires = "outbound")]
    exclude_ports: Vec<Ports>,
    /// Nor what is sent to these networks
    #[arg(long, value_name = "CIDR", value_delimiter = ',', requires = "outbound", value_parser = network)]
    exclude_to: Vec<IpNet>,
    /// Redirect what others send to this host to this port, where the sidecar's inbound listener is
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    inbound: Option<u16>,
    /// Only what is sent to these ports of this host
    #[arg(long, value_name = "PORTS", value_delimiter = ',', default_value = "1-65535")]
    inbound_ports: Vec<Ports>,
    /// But not what is sent to these; give 22 again if you add others, or SSH can't be reached
    #[arg(long, value_name = "PORTS", value_delimiter = ',', default_value = "22")]
    exclude_inbound_ports: Vec<Ports>,
    /// Nor what comes from these networks
    #[arg(long, value_name = "CIDR", value_delimiter = ',', requires = "inbound", value_parser = network)]
    exclude_from: Vec<IpNet>,
    /// Only print the rules
    #[arg(long)]
    dry_run: bool,
    /// How to print what was done
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Take the rules away; connections that were redirected go on to their end
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate net remove

Exit codes: 0 nothing is redirected any more, 2 an error.")]
pub(super) struct Remove {
    /// Only print what `nft` would be given
    #[arg(long)]
    dry_run: bool,
}

/// Is something redirected, and what?
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate net show
  tidegate net show --format json | jq .users

Exit codes: 0 installed, 1 not installed, 2 an error, such as a table that was changed by hand.")]
pub(super) struct Show {
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// What `--format json` prints.
#[derive(Serialize)]
struct Report<'a> {
    installed: bool,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    interception: Option<&'a Interception>,
    /// The rules, as text for `nft -f`.
    #[serde(skip_serializing_if = "Option::is_none")]
    ruleset: Option<&'a str>,
}

impl Net {
    pub(super) fn run(self) -> Result<Outcome> {
        match self {
            Self::Install(install) => install.run(),
            Self::Remove(remove) => remove.run(),
            Self::Show(show) => show.run(),
        }
    }
}

impl Install {
    fn run(self) -> Result<Outcome> {
        let (dry_run, format) = (self.dry_run, self.format);
        let wanted = self.wanted();
        let rules = ruleset::install(&wanted);
        if !dry_run {
            nft::apply(&rules)?;
        }
        print(&match format {
            Format::Text if dry_run => rules,
            Format::Text => wanted.to_string(),
            Format::Json => serde_json::to_string_pretty(&Report {
                installed: !dry_run,
                interception: Some(&wanted),
                ruleset: Some(&rules),
            })?,
        });
        Ok(Outcome::Clean)
    }

    fn wanted(self) -> Interception {
        let redirect = |listener, ports, excluded_ports, excluded_networks| {
            Some(Redirect { listener: listener?, ports, excluded_ports, excluded_networks })
        };
        Interception {
            users: self.uid,
            outbound: redirect(self.outbound, self.ports, self.exclude_ports, self.exclude_to),
            inbound: redirect(
                self.inbound,
                self.inbound_ports,
                self.exclude_inbound_ports,
                self.exclude_from,
            ),
        }
    }
}

impl Remove {
    fn run(self) -> Result<Outcome> {
        let rules = ruleset::remove();
        if self.dry_run {
            print(&rules);
        } else {
            nft::apply(&rules)?;
        }
        Ok(Outcome::Clean)
    }
}

impl Show {
    fn run(self) -> Result<Outcome> {
        let interception = nft::list()?.map(|table| listing::read(&table)).transpose()?;
        let installed = interception.is_some();
        print(&match (self.format, &interception) {
            (Format::Json, interception) => serde_json::to_string_pretty(&Report {
                installed,
                interception: interception.as_ref(),
                ruleset: None,
            })?,
            (Format::Text, Some(interception)) => interception.to_string(),
            (Format::Text, None) => "nothing is redirected".to_owned(),
        });
        Ok(if installed { Outcome::Clean } else { Outcome::Findings })
    }
}

/// A network, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().ok();
    let network = network.or_else(|| text.parse().map(|address: std::net::IpAddr| address.into()).ok());
    match network {
        Some(network) if network.addr() == network.network() => Ok(network),
        Some(network) => Err(format!("has bits beyond its length: write `{}`", network.trunc())),
        None => Err("is no address nor network, such as `10.9.0.0/16`".to_owned()),
    }
}
