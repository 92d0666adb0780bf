//! `decision_log:` of mesh.yaml: how many cache hits are logged, and what is masked.

use std::collections::BTreeSet;

use daemon::config_file::span_of;
use daemon::finding::{Finding, Findings, did_you_mean};
use model::{Name, Operand, Record};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::cedar_text::Place;
use super::expression::{operand, parse_input};
use super::mesh::FILE;
use crate::atoms::context_path;

/// How many hits are logged unless the bundle says otherwise: one in a hundred.
const SAMPLE_HITS: f64 = 0.01;
/// What is masked unless the bundle says otherwise: what lets its reader pass for somebody else.
const MASK: [&str; 4] = [
    r#"context.headers["authorization"]"#,
    r#"context.headers["proxy-authorization"]"#,
    r#"context.headers["cookie"]"#,
    "context.cookies",
];
/// The most masks.
const MASK_COUNT_MAX: usize = 1000;
/// The attributes of a request that can be masked, and those that tell nothing of anybody.
const MASKABLE: [&str; 10] = [
    "principal",
    "context.method",
    "context.path",
    "context.host",
    "context.source_ip",
    "context.sni",
    "context.headers",
    "context.query",
    "context.cookies",
    "context.claims",
];
const PLAIN: [&str; 6] =
    ["action", "resource", "context.tls", "context.time", "context.operation", "context.destination_port"];

/// How decisions are logged.
#[derive(Clone, Debug, PartialEq)]
pub struct DecisionLog {
    /// The part of the hits that is logged, from 0 to 1. Misses always are.
    pub sample_hits: f64,
    /// What is masked.
    pub masks: Masks,
}

/// Which values never stand in a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masks {
    /// The caller's id.
    pub principal: bool,
    names: BTreeSet<Name>,
    records: BTreeSet<Record>,
}

/// How decisions are logged.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "DecisionLog")]
pub(super) struct RawDecisionLog {
    /// The part of the cache hits that is logged, from 0 to 1; 0.01 by default. Misses always are.
    #[schemars(with = "Option<f64>", range(min = 0, max = 1))]
    sample_hits: Option<Spanned<f64>>,
    /// Attributes whose values never stand in the log, such as `context.cookies`.
    #[schemars(with = "Option<Vec<String>>", example = ["context.headers[\"authorization\"]"])]
    mask: Option<Vec<Spanned<String>>>,
}

impl Masks {
    /// Whether the fact called `name` is masked.
    pub fn cover(&self, name: &Name) -> bool {
        self.names.contains(name) || name.field().is_some_and(|(record, _)| self.records.contains(&record))
    }

    /// Adds what `text` names; nothing is added if it names nothing that can be masked.
    fn add(&mut self, text: &str) -> bool {
        let mut unshown = Findings::new();
        let Some(expr) = parse_input(text, Place::file(FILE, text), &mut unshown) else { return false };
        if let Some([record]) = context_path(&expr).as_deref()
            && let Some(record) = Record::from_name(record)
        {
            self.records.insert(record);
            return true;
        }
        match operand(&expr) {
            Some(Operand::Principal) => self.principal = true,
            Some(Operand::Context(name)) if !PLAIN.contains(&text) => {
                self.names.insert(name);
            }
            _ => return false,
        }
        true
    }
}

/// Reads the section, and adds what is wrong with it to `findings`.
pub(super) fn read(raw: &RawDecisionLog, source: &str, findings: &mut Findings) -> DecisionLog {
    let at = |span, message: String| Finding::at(FILE, source, span, message);
    let mut sample_hits = SAMPLE_HITS;
    if let Some(written) = &raw.sample_hits {
        if (0.0..=1.0).contains(&written.value) {
            sample_hits = written.value;
        } else {
            let finding = at(span_of(written, source), format!("`{}` is no part of the hits", written.value));
            findings.push(finding.with_help("write 0 for none, 0.01 for one in a hundred, 1 for all"));
        }
    }
    let mut masks = Masks::default();
    match &raw.mask {
        None => {
            for text in MASK {
                masks.add(text);
            }
        }
        Some(written) => {
            for text in written.iter().take(MASK_COUNT_MAX) {
                if !masks.add(&text.value) {
                    let message = format!("`{}` can't be masked", text.value);
                    findings.push(at(span_of(text, source), message).with_help(help(&text.value)));
                }
            }
            if let Some(one_more) = written.get(MASK_COUNT_MAX) {
                let message = format!("there are more than {MASK_COUNT_MAX} masks");
                let help = "mask a whole record, such as `context.headers`";
                findings.push(at(span_of(one_more, source), message).with_help(help));
            }
        }
    }
    DecisionLog { sample_hits, masks }
}

/// Warns of masks of what nothing reads where something with nearly the same name is read, and not masked.
pub(super) fn check(log: &DecisionLog, read: &BTreeSet<Name>, source: &str, findings: &mut Findings) {
    for unread in log.masks.names.iter().filter(|name| name.is_optional() && !read.contains(*name)) {
        let Some((record, field)) = unread.field() else { continue };
        let unmasked = read.iter().filter(|name| !log.masks.cover(name)).filter_map(Name::field);
        let candidates = unmasked.filter(|(other, _)| *other == record).map(|(_, field)| field);
        let Some(near) = did_you_mean(field, candidates) else { continue };
        let record = record.as_str();
        let message = format!("nothing reads `context.{record}[\"{field}\"]`, so there is nothing to mask");
        let finding = match source.find(field) {
            Some(start) => Finding::at(FILE, source, start..start + field.len(), message),
            None => Finding::in_file(FILE, message),
        };
        findings.push(finding.as_warning().with_help(format!("did you mean `{near}`?")));
    }
}

fn help(text: &str) -> String {
    if PLAIN.contains(&text) {
        return "it tells nothing of anybody: leave it out".to_owned();
    }
    let (attribute, rest) = match text.find('[') {
        Some(bracket) => text.split_at(bracket),
        None => (text, ""),
    };
    match did_you_mean(attribute, MASKABLE).filter(|near| *near != attribute) {
        Some(near) => format!("did you mean `{near}{rest}`?"),
        None => {
            "name an attribute as policies do: `principal`, `context.path`, `context.headers[\"x-user\"]`, \
                 or a whole record such as `context.headers`"
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::mesh;

    fn header(name: &str) -> Name {
        Name::Header(name.into())
    }

    fn masks(texts: &[&str]) -> Masks {
        let mut masks = Masks::default();
        for text in texts {
            assert!(masks.add(text), "{text}");
        }
        masks
    }

    #[test]
    fn a_mask_covers_a_value_or_a_whole_record() {
        let one = masks(&["context.headers.authorization", "context.headers[\"x-user\"]", "context.path"]);
        let all = masks(&["context.headers", "principal"]);
        for (name, of_one, of_all) in [
            (header("authorization"), true, true),
            (header("x-user"), true, true),
            (header("accept"), false, true),
            (Name::Query("x-user".into()), false, false),
            (Name::Path, true, false),
            (Name::Method, false, false),
        ] {
            assert_eq!((one.cover(&name), all.cover(&name)), (of_one, of_all), "{name:?}");
        }
        assert!(!one.principal && all.principal);
    }

    #[test]
    fn what_lets_its_reader_pass_for_somebody_is_masked_unless_the_bundle_says_otherwise() {
        let mut findings = Findings::new();
        let log = read(&RawDecisionLog::default(), "", &mut findings);
        assert!(findings.is_empty());
        assert!(log.masks.cover(&header("authorization")) && log.masks.cover(&header("cookie")));
        assert!(!log.masks.cover(&header("x-user")));
        let none = RawDecisionLog { mask: Some(Vec::new()), ..RawDecisionLog::default() };
        assert_eq!(read(&none, "", &mut findings).masks, Masks::default());
    }

    #[test]
    fn what_can_not_be_masked_says_what_can() {
        for (text, expected) in [
            ("context.heders[\"x\"]", "did you mean `context.headers[\"x\"]`?"),
            ("principle", "did you mean `principal`?"),
            ("context.tls", "it tells nothing of anybody: leave it out"),
            ("resource", "it tells nothing of anybody: leave it out"),
            ("1 + 1", "name an attribute as policies do: "),
            ("context.headers[", "name an attribute as policies do: "),
        ] {
            assert!(!Masks::default().add(text), "{text}");
            assert!(help(text).starts_with(expected), "{text}: {}", help(text));
        }
    }

    #[test]
    fn mistakes_in_a_mesh_are_told_with_their_place() {
        let text =
            "trust_domain: a.example\nservices: {}\ndecision_log:\n  sample_hits: 2\n  mask: [principle]\n";
        let findings = mesh::parse(text, &crate::bundle::Files::default()).unwrap_err();
        let told: Vec<_> = findings.iter().map(|f| (f.line, f.column, f.message.as_str())).collect();
        assert_eq!(
            told,
            [(4, 16, "`2` is no part of the hits"), (5, 10, "`principle` can't be masked")],
            "{findings}"
        );
    }

    #[test]
    fn a_mask_of_what_nothing_reads_is_told_where_it_looks_like_a_misspelling() {
        let log = DecisionLog { sample_hits: 0.0, masks: masks(&["context.headers[\"x-tokn\"]"]) };
        let told = |read: &[Name]| {
            let mut findings = Findings::new();
            check(&log, &read.iter().cloned().collect(), "mask: [x-tokn]", &mut findings);
            findings
                .iter()
                .filter_map(|finding| finding.help.as_deref().map(str::to_owned))
                .collect::<Vec<_>>()
        };
        assert_eq!(told(&[header("x-token")]), ["did you mean `x-token`?"]);
        assert_eq!(told(&[header("accept"), Name::Query("x-token".into())]), Vec::<String>::new());
        assert_eq!(told(&[header("x-tokn"), header("x-token")]), Vec::<String>::new());
    }
}
