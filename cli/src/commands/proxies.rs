//! `tidegate proxies`

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use comfy_table::presets;
use daemon::Clock;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use jiff::Timestamp;
use policyd::proxies::{Listing, Proxy, State};

use super::{Format, Outcome, print};
use crate::overview::{shown, table, unpadded};

/// How long policyd may take to answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// The longest answer read, in bytes: some hundreds for each proxy.
const ANSWER_SIZE_MAX: usize = 64 * 1024 * 1024;

/// Which proxy runs which revision of the policies, and is any behind?
///
/// Asks policyd. Proxies that are not connected are not in the list.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tidegate proxies --admin 127.0.0.1:7101
  tidegate proxies --admin http://127.0.0.1:7101 --format json | jq '.proxies[] | select(.state != \"current\")'

Exit codes: 0 all run what they should, 1 one is behind or has refused, 2 policyd can't be asked.")]
pub(super) struct Proxies {
    /// policyd's admin address
    #[arg(long, value_name = "URL")]
    admin: String,
    /// How to print the list
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Proxies {
    pub(super) fn run(self) -> Result<Outcome> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(async { tokio::time::timeout(DEADLINE, get(&self.admin)).await });
        let answer = answer
            .map_err(|_elapsed| anyhow::anyhow!("no answer within {} s", DEADLINE.as_secs()))
            .flatten()
            .with_context(|| format!("policyd can't be asked at `{}`", self.admin))?;
        let listing: Listing = serde_json::from_slice(&answer)
            .context("the answer is not policyd's: is this its admin address?")?;
        print(&match self.format {
            Format::Text => text(&listing, Clock::system().now()),
            Format::Json => serde_json::to_string_pretty(&listing)?,
        });
        let all_current = listing.proxies.iter().all(|proxy| proxy.state == State::Current);
        Ok(if all_current { Outcome::Clean } else { Outcome::Findings })
    }
}

async fn get(admin: &str) -> Result<Bytes> {
    let base = if admin.contains("://") { admin.to_owned() } else { format!("http://{admin}") };
    let uri: http::Uri = format!("{}/proxies", base.trim_end_matches('/')).parse()?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let answer = client.get(uri).await?;
    if !answer.status().is_success() {
        bail!("the answer is {}: is this policyd's admin address?", answer.status());
    }
    let body = Limited::new(answer.into_body(), ANSWER_SIZE_MAX).collect().await;
    Ok(body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes())
}

fn text(listing: &Listing, now: Timestamp) -> String {
    if listing.proxies.is_empty() {
        return format!("no proxy is connected; revision {} is in force", listing.revision);
    }
    let head = ["instance", "services", "state", "runs", "since", "heard", "SPIFFE ID"];
    let mut rows = table(presets::NOTHING, head);
    let ago = |at: Timestamp| format!("{} ago", shown(now.duration_since(at)));
    for proxy in &listing.proxies {
        rows.add_row([
            proxy.instance.clone(),
            proxy.services.join(", "),
            proxy.state.as_str().to_owned(),
            proxy.revision.clone().unwrap_or_else(|| "-".to_owned()),
            proxy.since.map_or_else(|| "-".to_owned(), ago),
            ago(proxy.heard),
            proxy.peer.clone(),
        ]);
    }
    let count = |state| listing.proxies.iter().filter(|proxy| proxy.state == state).count();
    let counts = State::ALL.map(|state| format!("{} {}", count(state), state.as_str())).join(", ");
    let mut text = format!("{}\n\nrevision {}: {counts}\n", unpadded(&rows), listing.revision);
    let refused = |proxy: &Proxy| Some(format!("\n{}: {}\n", proxy.instance, proxy.error.as_ref()?));
    text.extend(listing.proxies.iter().filter_map(refused));
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_list_says_who_runs_what_and_why_not() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let one = Proxy {
            instance: "reviews-v1".into(),
            peer: "spiffe://a/ns/b/sa/reviews".into(),
            services: vec!["reviews".into()],
            state: State::Current,
            revision: Some("5.7".into()),
            since: Some(at("2026-01-01T00:00:00Z")),
            connected: at("2026-01-01T00:00:00Z"),
            heard: at("2026-01-01T00:59:59Z"),
            error: None,
        };
        let two = Proxy {
            instance: "ratings-v1".into(),
            state: State::Refused,
            revision: None,
            since: None,
            error: Some("the handler `file`: no such folder".into()),
            ..one.clone()
        };
        let listing = Listing { revision: "5.9".into(), proxies: vec![one, two] };
        expect![[r#"
             instance    services  state    runs  since       heard    SPIFFE ID
             reviews-v1  reviews   current  5.7   60 min ago  1 s ago  spiffe://a/ns/b/sa/reviews
             ratings-v1  reviews   refused  -     -           1 s ago  spiffe://a/ns/b/sa/reviews

            revision 5.9: 1 current, 0 behind, 1 refused

            ratings-v1: the handler `file`: no such folder
        "#]]
        .assert_eq(&text(&listing, at("2026-01-01T01:00:00Z")));
        let none = Listing { proxies: vec![], ..listing };
        assert_eq!(text(&none, Timestamp::UNIX_EPOCH), "no proxy is connected; revision 5.9 is in force");
    }
}
