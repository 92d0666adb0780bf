//! The decision log: a line for every miss and for a part of the hits, with all that was decided on.
//!
//! Masked values are digested with a key that is random for each life of the proxy and never leaves it. So equal
//! values are seen to be equal within one life, which is what a reader needs to follow a caller; and nobody finds a
//! value by trying all that it may be, as they would with a plain digest of something as short as a name.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::config::DecisionLog as Settings;
use daemon::{Lifecycle, LineWriter, Rotation};
use model::decision::Source;
use model::decision_line::{DecisionLine, Inputs, Logged};
use model::{Attributes, Name, Operand};
use sha2::{Digest, Sha256};

use crate::check::Checked;
use crate::metrics::Metrics;

/// The file of a decision log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Where it is.
    pub path: PathBuf,
    /// When it is put aside, and how many files are kept.
    pub rotation: Rotation,
}

/// Takes decisions; clones are one log.
#[derive(Clone, Debug)]
pub(crate) struct DecisionLog(Option<Arc<Open>>);

/// One decision, as the log takes it.
pub(crate) struct Entry<'a> {
    pub request_id: &'a str,
    /// Makes all facts of the request: called only for a decision that is logged.
    pub whole: &'a dyn Fn() -> Attributes,
    pub checked: &'a Checked,
    /// False where the service only observes.
    pub enforced: bool,
}

#[derive(Debug)]
struct Open {
    lines: LineWriter,
    /// This proxy's name.
    instance: String,
    /// The digests' key.
    key: [u8; 32],
    /// The parts of hits so far, in units of 2^-32: a hit is logged when their sum reaches the next whole number.
    parts: AtomicU64,
}

impl DecisionLog {
    /// Opens the log, if it goes anywhere; its writer ends, with every line written, once the last clone is gone.
    pub(crate) async fn open(
        destination: Option<&Destination>,
        instance: &str,
        lifecycle: &Lifecycle,
        metrics: &Metrics,
    ) -> io::Result<Self> {
        let Some(Destination { path, rotation }) = destination else { return Ok(Self(None)) };
        let dropped = metrics.dropped_log_lines("decisions");
        let (lines, writing) = LineWriter::to_file(path, Some(*rotation), dropped).await?;
        drop(lifecycle.spawn(writing.run()));
        Ok(Self(Some(Arc::new(Open::new(lines, instance)))))
    }

    /// Logs a decision, if the service's `settings` say so. Never waits; nothing is built of a hit that is not logged.
    pub(crate) fn log(&self, settings: Option<&Settings>, entry: &Entry<'_>) {
        let (Some(open), Some(settings)) = (&self.0, settings) else { return };
        if open.is_due(entry.checked.source, settings.sample_hits) {
            // Texts and numbers alone: there is nothing that JSON has no form for.
            let mut text = serde_json::to_vec(&open.line(settings, entry)).unwrap_or_default();
            text.push(b'\n');
            open.lines.write(text);
        }
    }
}

impl Open {
    fn new(lines: LineWriter, instance: &str) -> Self {
        Self { lines, instance: instance.to_owned(), key: rand::random(), parts: AtomicU64::new(0) }
    }

    /// Hits are counted, not drawn: which are logged is not for a caller to choose, by a request id for example, and
    /// of many hits as many are logged as should be.
    fn is_due(&self, source: Source, sample_hits: f64) -> bool {
        if source != Source::Hit {
            return true;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to 1, so it fits and is not negative"
        )]
        let part = (sample_hits.clamp(0.0, 1.0) * 4_294_967_296.0) as u64;
        let before = self.parts.fetch_add(part, Ordering::Relaxed);
        before >> 32 != before.wrapping_add(part) >> 32
    }

    fn line(&self, settings: &Settings, entry: &Entry<'_>) -> DecisionLine {
        let Entry { request_id, whole, checked, enforced } = *entry;
        let attributes = whole();
        let decision = checked.decision.as_ref();
        let caller = attributes.principal.as_str().to_owned();
        DecisionLine {
            ts: attributes.time,
            request_id: request_id.to_owned(),
            instance: self.instance.clone(),
            service: attributes.resource.clone(),
            principal: self.logged(settings, &Operand::Principal, caller),
            action: attributes.action,
            operation: attributes.operation.clone(),
            verdict: decision.verdict,
            enforced,
            source: checked.source,
            degraded: decision.degraded,
            reasons: decision.reasons.clone(),
            message: decision.message.clone(),
            limits: decision.limits.clone(),
            rules: decision.rules.clone(),
            revision: decision.revision.to_string(),
            shadows: decision.shadows.clone(),
            input: self.inputs(settings, &attributes),
        }
    }

    fn inputs(&self, settings: &Settings, attributes: &Attributes) -> Inputs {
        let fact = |name: Name| {
            let value = attributes.fact(&name)?.to_string();
            Some(self.logged(settings, &Operand::Context(name), value))
        };
        let always = |name: Name| fact(name).unwrap_or_else(|| Logged::Plain(String::new()));
        let mut inputs = Inputs {
            method: always(Name::Method),
            path: always(Name::Path),
            host: always(Name::Host),
            source_ip: always(Name::SourceIp),
            tls: attributes.tls,
            sni: fact(Name::Sni),
            destination_port: attributes.destination_port,
            ..Inputs::default()
        };
        for name in &settings.recorded {
            if let Some((record, field)) = name.field() {
                inputs.record_mut(record).insert(field.to_owned(), fact(name.clone()));
            }
        }
        inputs
    }

    fn logged(&self, settings: &Settings, of: &Operand, value: String) -> Logged {
        if settings.masked.contains(of) { Logged::Masked(self.digest(&value)) } else { Logged::Plain(value) }
    }

    /// The first eight bytes: enough to tell values apart.
    fn digest(&self, value: &str) -> String {
        let digest = Sha256::new().chain_update(self.key).chain_update(value).finalize();
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::{Decision, Revision, Shadow, Verdict};
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    fn fresh() -> Open {
        let (lines, _writing) = LineWriter::to_stream(tokio::io::sink(), "nowhere", Counter::default());
        Open::new(lines, "shop-v1")
    }

    fn checked(source: Source) -> Checked {
        let decision = Decision {
            verdict: Verdict::Deny,
            reasons: vec!["p".into()],
            message: "why".into(),
            limits: vec![],
            rules: vec!["r".into()],
            valid_for: Duration::from_secs(1),
            revision: Revision { epoch: 1, number: 2 },
            degraded: false,
            shadows: vec![Shadow {
                name: "next".into(),
                verdict: Verdict::Allow,
                reasons: vec!["q".into()],
                degraded: false,
            }],
        };
        Checked { decision: Arc::new(decision), source }
    }

    fn attributes() -> Attributes {
        let fields = |fields: &[(&str, &str)]| {
            fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        Attributes {
            principal: "spiffe://a.example/ns/b/sa/c".parse().unwrap(),
            resource: "shop".into(),
            method: "GET".into(),
            path: "/a".into(),
            host: "shop".into(),
            headers: fields(&[("authorization", "Basic x"), ("x-unread", "secret"), ("x-user", "jason")]),
            query: fields(&[("user", "jason")]),
            ..Attributes::default()
        }
    }

    fn logged(open: &Open, settings: &Settings) -> serde_json::Value {
        let (attributes, checked) = (attributes(), checked(Source::Miss));
        let whole = || attributes.clone();
        let entry = Entry { request_id: "id", whole: &whole, checked: &checked, enforced: true };
        serde_json::to_value(open.line(settings, &entry)).unwrap()
    }

    #[test]
    fn a_line_holds_what_policies_read_and_nothing_else() {
        let header = |name: &str| Name::Header(name.into());
        let recorded = vec![header("x-user"), header("x-absent"), Name::Cookie("c".into())];
        let settings = Settings { sample_hits: 0.0, recorded, masked: vec![] };
        let expected = serde_json::json!({
            "ts": "1970-01-01T00:00:00Z", "request_id": "id", "instance": "shop-v1", "service": "shop",
            "principal": "spiffe://a.example/ns/b/sa/c", "action": "http", "verdict": "deny", "enforced": true,
            "source": "miss", "reasons": ["p"], "message": "why", "limits": [], "rules": ["r"], "revision": "1.2",
            "shadows": [{"name": "next", "verdict": "allow", "reasons": ["q"], "degraded": false}],
            "input": {
                "method": "GET", "path": "/a", "host": "shop",
                "headers": {"x-absent": null, "x-user": "jason"}, "cookies": {"c": null},
                "source_ip": "0.0.0.0", "tls": false,
            },
        });
        assert_eq!(logged(&fresh(), &settings), expected);
    }

    #[test]
    fn masked_values_are_equal_where_they_were_and_differ_from_one_life_to_the_next() {
        let recorded = vec![
            Name::Header("authorization".into()),
            Name::Header("x-user".into()),
            Name::Query("user".into()),
        ];
        let masks = recorded.iter().cloned().chain([Name::SourceIp, Name::Path]).map(Operand::Context);
        let masked = masks.chain([Operand::Principal]).collect();
        let settings = Settings { sample_hits: 0.0, recorded, masked };
        let open = fresh();
        let line = logged(&open, &settings);
        let text = line.to_string();
        for secret in ["jason", "Basic", "0.0.0.0", "/a\"", "spiffe://"] {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
        let user = &line["input"]["headers"]["x-user"]["masked"];
        assert_eq!(user.as_str().map(str::len), Some(16));
        assert_eq!(user, &line["input"]["query"]["user"]["masked"]);
        assert_ne!(user, &line["input"]["headers"]["authorization"]["masked"]);
        assert_eq!(line, logged(&open, &settings));
        assert_ne!(line["principal"], logged(&fresh(), &settings)["principal"]);
    }

    #[test]
    fn every_miss_is_logged_and_the_part_of_the_hits_that_should_be() {
        let open = fresh();
        assert!(open.is_due(Source::Miss, 0.0) && open.is_due(Source::Degraded, 0.0));
        for (sample, expected) in [(0.0, 0), (0.01, 10), (0.25, 250), (1.0, 1000)] {
            let due = (0..1000).filter(|_| open.is_due(Source::Hit, sample)).count();
            assert!(due.abs_diff(expected) <= 1, "{due} of 1000 at {sample}");
        }
        let due: Vec<bool> = (0..4).map(|_| fresh().is_due(Source::Hit, 1.0)).collect();
        assert_eq!(due, [true; 4]);
    }
}
