//! `@shadow("true")`: a policy that is tried and not enforced.

use daemon::finding::{Findings, did_you_mean};
use model::{AtomSet, Name, Test};

use super::policies::Policy;

/// The annotation.
const ANNOTATION: &str = "shadow";
const VALUES: [&str; 2] = ["true", "false"];

/// Whether a policy is a shadow policy. What is wrong with its being one is added to `findings`.
pub(super) fn is_one(policy: &Policy, findings: &mut Findings) -> bool {
    let Some(value) = policy.annotation(ANNOTATION) else { return false };
    match value {
        "true" => {
            uncacheable(policy, findings);
            true
        }
        "false" => false,
        other => {
            let message = format!("`@shadow({other:?})` says nothing that is known");
            let help = match did_you_mean(other, VALUES) {
                Some(near) => format!("did you mean `@shadow({near:?})`?"),
                None => {
                    "write `@shadow(\"true\")` to try the policy, or leave it out to enforce it".to_owned()
                }
            };
            findings.push(policy.spot().finding(message).with_help(help));
            false
        }
    }
}

/// What is tried must not slow down what is enforced: a policy of which no key can hold what it reads would have every
/// request decided anew.
fn uncacheable(policy: &Policy, findings: &mut Findings) {
    let derived = policy.statement().derived();
    if AtomSet::new(derived.atoms.clone(), !derived.reads_everything).is_cacheable() {
        return;
    }
    let reads_time = derived.atoms.iter().any(|atom| atom.name == Name::Time && atom.test == Test::Value);
    let what = if reads_time { "the time" } else { "the context as a whole" };
    let message = format!("a shadow policy may not read {what}: no decision could be cached any more");
    let help =
        if reads_time { "compare `context.time` with a literal" } else { "read its attributes one by one" };
    findings.push(policy.spot().finding(message).with_help(help));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::bundle::{Bundle, Files};

    fn load(acl: &str) -> Result<Bundle, Vec<String>> {
        let mesh = "trust_domain: a.example\nservices: {shop: {}}\n";
        let texts = [("mesh.yaml", mesh), ("acl.cedar", acl)].map(|(name, text)| (name.into(), text.into()));
        let files = Files { folder: ".".into(), texts: BTreeMap::from(texts) };
        Bundle::load(&files).map_err(|findings| {
            let told = |finding: &daemon::Finding| {
                let help = finding.help.clone().unwrap_or_default();
                format!("{}:{} {}: {help}", finding.line, finding.column, finding.message)
            };
            findings.iter().map(told).collect()
        })
    }

    #[test]
    fn shadow_policies_are_kept_apart() {
        let bundle = load(
            "@id(\"a\") permit (principal, action == Action::\"http\", resource);\n\
             @id(\"b\") @shadow(\"true\") forbid (principal, action == Action::\"http\", resource) when { context.tls };\n\
             @id(\"c\") @shadow(\"false\") permit (principal, action == Action::\"http\", resource);\n",
        )
        .unwrap();
        let ids = |policies: std::slice::Iter<'_, super::Policy>| {
            policies.map(|policy| policy.id().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(ids(bundle.policies.policies()), ["a", "c"]);
        assert_eq!(ids(bundle.policies.shadows()), ["b"]);
        assert_eq!((bundle.policies_index.len(), bundle.shadows_index.len()), (2, 1));
        assert_eq!(bundle.atoms["shop"].atoms().len(), 1, "what a shadow policy reads is part of the key");
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        let permit = "permit (principal, action == Action::\"http\", resource)";
        let twice = format!("@id(\"a\") {permit};\n@id(\"a\") @shadow(\"true\") {permit};\n");
        for (acl, expected) in [
            (
                format!("\n @shadow(\"ture\") {permit};"),
                "2:2 `@shadow(\"ture\")` says nothing that is known: did you mean `@shadow(\"true\")`?",
            ),
            (
                format!("@shadow {permit};"),
                "1:1 `@shadow(\"\")` says nothing that is known: write `@shadow(\"true\")` to try the policy, or leave it out to enforce it",
            ),
            (
                format!("@shadow(\"true\") {permit} when {{ context.time <= context.time }};"),
                "1:1 a shadow policy may not read the time: no decision could be cached any more: compare `context.time` with a literal",
            ),
            (
                twice,
                "2:1 duplicate template or policy id `a`: give each policy an id of its own; the other one is in acl.cedar at line 1",
            ),
            (format!("@shadow(\"true\") {permit} when {{ context.pth == \"/\" }};"), "1:"),
        ] {
            let told = load(&acl).unwrap_err();
            assert!(told.iter().any(|told| told.starts_with(expected)), "{acl}\n{told:#?}");
        }
    }
}
