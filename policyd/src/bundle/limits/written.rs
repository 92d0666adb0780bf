//! `limits.yaml` as it is written, and the allowances that it says.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::ops::Range;

use ::limits::Meter;
use ::limits::meter::MeterError;
use daemon::config_file::span_of;
use daemon::finding::Finding;
use model::limit::amount::{parse_amount, parse_count};
use model::limit::{AmountError, Period};
use model::{Allowance, Mode, OnStoreFailure, Rate};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::FILE;
use crate::author::yaml_schema::one_of;

/// Limits: how much of what may be used, by whom.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "limits.yaml")]
pub(crate) struct RawLimits {
    /// The limits. A request is charged to all that concern it, or, if one refuses it, to none.
    #[serde(default)]
    pub(super) limits: Vec<RawLimit>,
}

/// A limit: one of `rate`, `quota`, `concurrency` and `bandwidth`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Limit", extend("oneOf" = [
    {"required": ["rate"]}, {"required": ["quota"]}, {"required": ["concurrency"]}, {"required": ["bandwidth"]},
]))]
pub(super) struct RawLimit {
    /// Unique; in headers, logs and metrics. Of a-z, A-Z, 0-9, `-`, `_` and `.`.
    #[schemars(with = "String", regex(pattern = r"^[A-Za-z0-9._-]{1,128}$"))]
    pub(super) name: Spanned<String>,
    /// Whose requests it is for; every service's by default.
    #[schemars(with = "Option<String>")]
    pub(super) service: Option<Spanned<String>>,
    /// A Cedar condition: only such requests are charged.
    #[schemars(with = "Option<String>", example = r#"context.path like "/api/*""#)]
    pub(super) when: Option<Spanned<String>>,
    /// Whose requests are counted together: up to 8 attributes or literals. Without it, all are.
    #[serde(default)]
    #[schemars(with = "Vec<String>", length(max = 8), example = ["principal", "context.source_ip"])]
    pub(super) key: Vec<Spanned<String>>,
    /// A count of at least 1, and a time of 1ms to 31d.
    #[schemars(with = "Option<String>", example = "100/s", example = "5 per 10s")]
    rate: Option<Spanned<String>>,
    /// How many may come at once after a pause; the rate's count by default.
    #[schemars(with = "Option<u64>", range(min = 1))]
    burst: Option<Spanned<u64>>,
    /// How a rate is kept: steadily, with bursts (`gcra`), or never more than the count in any such time
    /// (`sliding`).
    #[schemars(with = "Option<Algorithm>")]
    algorithm: Option<Spanned<Algorithm>>,
    /// A count, and a period of the calendar; or, with `window: rolling`, a time.
    #[schemars(with = "Option<String>", example = "10000 per day", example = "1000000 per month")]
    quota: Option<Spanned<String>>,
    /// Whether a quota begins afresh with each period of the calendar, or holds in any such time.
    #[schemars(with = "Option<Window>")]
    window: Option<Spanned<Window>>,
    /// By whose calendar a quota's days, weeks and months begin: an IANA name; UTC by default.
    #[schemars(with = "Option<String>", example = "Europe/Berlin")]
    time_zone: Option<Spanned<String>>,
    /// How many may be under way at once.
    #[schemars(with = "Option<u64>", range(min = 1))]
    concurrency: Option<Spanned<String>>,
    /// Bytes of bodies in a time, charged when they have passed.
    #[schemars(with = "Option<String>", example = "10MiB/s")]
    pub(super) bandwidth: Option<Spanned<String>>,
    /// What a request uses: a count, or an attribute that says it; 1 by default.
    #[schemars(with = "Option<CostSchema>")]
    pub(super) cost: Option<Spanned<String>>,
    /// Which bytes `bandwidth` counts: of requests' bodies, of responses', or of both.
    #[serde(default)]
    pub(super) bytes: Bytes,
    /// Other allowances of single keys.
    #[serde(default)]
    pub(super) overrides: Vec<RawOverride>,
    /// Who counts: each proxy for itself (`local`), or policyd for all, asked about each request (`exact`) or
    /// lending out parts (`leased`). By default `leased`; `concurrency` and `bandwidth` are `local`.
    #[serde(default)]
    #[schemars(schema_with = "one_of::<Mode>")]
    pub(super) mode: Option<Mode>,
    /// What happens to requests while who counts can't be asked; by default what the service's `fail_mode` says.
    #[serde(default)]
    #[schemars(schema_with = "one_of::<OnStoreFailure>")]
    pub(super) on_store_failure: Option<OnStoreFailure>,
    /// Whether requests over the limit pass, and are only counted.
    #[serde(default)]
    pub(super) shadow: bool,
    /// What a caller over the limit gets, besides the headers that tell of the limit.
    #[serde(default)]
    pub(super) refusal: RawRefusal,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Algorithm {
    Gcra,
    Sliding,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Window {
    Calendar,
    Rolling,
}

/// Which bytes are counted.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Bytes {
    Request,
    Response,
    #[default]
    Both,
}

/// A count, or an attribute.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum CostSchema {
    Count(u64),
    Attribute(String),
}

/// The allowance of one key.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Override")]
pub(super) struct RawOverride {
    /// The values of the limit's `key`, in its order.
    #[schemars(with = "Vec<String>", length(min = 1, max = 8))]
    pub(super) key: Spanned<Vec<String>>,
    /// In place of what the limit says by `rate`, `quota`, `concurrency` or `bandwidth`, and written as there.
    #[schemars(with = "String", example = "500/s")]
    amount: Spanned<String>,
    /// In place of the limit's; the amount's count by default.
    #[schemars(with = "Option<u64>", range(min = 1))]
    burst: Option<Spanned<u64>>,
}

/// What a caller over a limit gets.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LimitRefusal")]
pub(super) struct RawRefusal {
    /// From 400 to 599; 429 by default.
    #[schemars(with = "Option<u16>", range(min = 400, max = 599))]
    pub(super) status: Option<Spanned<u16>>,
    /// Header fields.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub(super) headers: BTreeMap<String, Spanned<String>>,
    /// The body in place of Tidegate's own.
    #[schemars(with = "Option<String>")]
    pub(super) body: Option<Spanned<String>>,
}

/// Which of the four a limit says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rate,
    Quota,
    Concurrency,
    Bandwidth,
}

impl RawLimit {
    /// The allowance that it says; or all that is wrong with it.
    pub(super) fn allowance(&self, source: &str) -> Result<Allowance, Vec<Finding>> {
        let (kind, text) = self.said(source)?;
        let misplaced = self.misplaced(kind, source);
        if !misplaced.is_empty() {
            return Err(misplaced);
        }
        self.read(kind, text, self.burst.as_ref(), source).map_err(|finding| vec![finding])
    }

    /// The allowance of an override.
    pub(super) fn overridden(&self, other: &RawOverride, source: &str) -> Result<Allowance, Vec<Finding>> {
        // Whatever is wrong here was told.
        let (kind, _) = self.said(source).map_err(|_told| Vec::new())?;
        self.read(kind, &other.amount, other.burst.as_ref(), source).map_err(|finding| vec![finding])
    }

    fn said(&self, source: &str) -> Result<(Kind, &Spanned<String>), Vec<Finding>> {
        let help = "say one of `rate`, `quota`, `concurrency` and `bandwidth`";
        let all = [
            ("rate", Kind::Rate, &self.rate),
            ("quota", Kind::Quota, &self.quota),
            ("concurrency", Kind::Concurrency, &self.concurrency),
            ("bandwidth", Kind::Bandwidth, &self.bandwidth),
        ];
        let mut said = all.into_iter().filter_map(|(name, kind, text)| Some((name, kind, text.as_ref()?)));
        let Some((first, kind, text)) = said.next() else {
            let finding = Finding::at(FILE, source, span_of(&self.name, source), "this limit says no amount");
            return Err(vec![finding.with_help(help)]);
        };
        match said.next() {
            None => Ok((kind, text)),
            Some((second, _, text)) => {
                let message = format!("a limit can't have both `{first}` and `{second}`");
                Err(vec![Finding::at(FILE, source, span_of(text, source), message).with_help(help)])
            }
        }
    }

    /// What says more about another kind of amount.
    fn misplaced(&self, kind: Kind, source: &str) -> Vec<Finding> {
        let steady = (kind == Kind::Rate && !self.slides()) || kind == Kind::Bandwidth;
        let calendar = kind == Kind::Quota && !self.rolls();
        let fields = [
            (
                "burst",
                self.burst.as_ref().map(|it| span_of(it, source)),
                steady,
                "a steady `rate`, or `bandwidth`",
            ),
            (
                "algorithm",
                self.algorithm.as_ref().map(|it| span_of(it, source)),
                kind == Kind::Rate,
                "`rate`",
            ),
            ("window", self.window.as_ref().map(|it| span_of(it, source)), kind == Kind::Quota, "`quota`"),
            (
                "time_zone",
                self.time_zone.as_ref().map(|it| span_of(it, source)),
                calendar,
                "a `quota` of the calendar",
            ),
        ];
        let misplaced = fields.into_iter().filter(|(_, _, fits, _)| !fits);
        let finding = |(name, place, _, of): (&str, Option<Range<usize>>, bool, &str)| {
            Some(Finding::at(FILE, source, place?, format!("`{name}` belongs to {of}")))
        };
        misplaced.filter_map(finding).collect()
    }

    fn slides(&self) -> bool {
        self.algorithm.as_ref().is_some_and(|algorithm| algorithm.value == Algorithm::Sliding)
    }

    fn rolls(&self) -> bool {
        self.window.as_ref().is_some_and(|window| window.value == Window::Rolling)
    }

    fn read(
        &self,
        kind: Kind,
        text: &Spanned<String>,
        burst: Option<&Spanned<u64>>,
        source: &str,
    ) -> Result<Allowance, Finding> {
        let allowance = match kind {
            Kind::Rate if self.slides() => Allowance::Rolling(rate(text, source, RATE)?),
            Kind::Rate => steady(rate(text, source, RATE)?, burst, source)?,
            Kind::Bandwidth => steady(rate(text, source, BANDWIDTH)?, burst, source)?,
            Kind::Quota if self.rolls() => Allowance::Rolling(rate(text, source, ROLLING)?),
            Kind::Quota => self.calendar(text, source)?,
            Kind::Concurrency => Allowance::Concurrency(parse_count(&text.value).map_err(|error| {
                Finding::at(FILE, source, span_of(text, source), format!("this is no concurrency: {error}"))
                    .with_help("use a `forbid` policy to let nothing pass")
            })?),
        };
        Meter::new(&allowance).map(|_meter| allowance).map_err(|error| {
            let place = match (&error, &self.time_zone) {
                (MeterError::Zone { .. }, Some(zone)) => span_of(zone, source),
                _ => span_of(text, source),
            };
            Finding::at(FILE, source, place, error.to_string())
        })
    }

    fn calendar(&self, text: &Spanned<String>, source: &str) -> Result<Allowance, Finding> {
        let help = "write it as `1000 per day`, with second, minute, hour, day, week or month; or add `window: rolling`";
        let wrong =
            |message: String| Finding::at(FILE, source, span_of(text, source), message).with_help(help);
        let (count, period) =
            parse_amount(&text.value).map_err(|error| wrong(format!("this is not a quota: {error}")))?;
        let known = Period::ALL.into_iter().find(|known| known.as_str() == period);
        let period = known.ok_or_else(|| wrong(format!("`{period}` is no period of the calendar")))?;
        let zone = self.time_zone.as_ref().map_or_else(|| "UTC".to_owned(), |zone| zone.value.clone());
        Ok(Allowance::Calendar { count, period, zone })
    }
}

/// How amounts are written.
const RATE: &str = "write it as `100/s`, `100/min` or `5 per 10s`";
const BANDWIDTH: &str = "write it as `10MiB/s` or `5GB per 1h`";
const ROLLING: &str = "write it as `1000 per 1d` or `1000 per 12h`";

fn steady(rate: Rate, burst: Option<&Spanned<u64>>, source: &str) -> Result<Allowance, Finding> {
    let burst = match burst {
        None => rate.count,
        Some(burst) => NonZeroU64::new(burst.value).ok_or_else(|| {
            Finding::at(FILE, source, span_of(burst, source), "a burst of 0 lets nothing pass")
                .with_help("use a `forbid` policy to let nothing pass")
        })?,
    };
    Ok(Allowance::Rate { rate, burst })
}

fn rate(text: &Spanned<String>, source: &str, help: &str) -> Result<Rate, Finding> {
    text.value.parse().map_err(|error| {
        let finding =
            Finding::at(FILE, source, span_of(text, source), format!("this is not a rate: {error}"));
        if error == AmountError::Form { finding } else { finding.with_help(help) }
    })
}

/// A cost that is written as a count; none if it is not.
pub(super) fn fixed_cost(text: &str) -> Option<NonZeroU64> {
    parse_count(text).ok()
}
