//! Bundles of policies.

use std::path::Path;

use daemon::Findings;
use policyd::bundle::{Bundle, Files};
use serde_json::Value;

/// The files of a bundle, each after a line `=== NAME`. They are loaded twice alike; mistakes can be shown, and workloads
/// are of the bundle's own trust domain.
pub fn bundle(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let parts = text.split("=== ").filter_map(|part| part.split_once('\n'));
    let named: Vec<_> = parts.map(|(name, text)| (name.trim(), text.as_bytes())).collect();
    let Ok(files) = Files::of(Path::new("/nowhere"), named.iter().copied()) else { return };
    match (Bundle::load(&files), Bundle::load(&files)) {
        (Ok(one), Ok(other)) => {
            assert_eq!(shown(&one.warnings), shown(&other.warnings));
            assert!(!one.warnings.has_errors(), "a bundle with a mistake is taken");
            assert_eq!(one.atoms, other.atoms);
            for (name, service) in &one.mesh.services {
                let domain = service.spiffe_id.trust_domain();
                assert_eq!(domain, one.mesh.trust_domain.as_str(), "`{name}` is of another domain");
                assert!(one.atoms.contains_key(name), "nobody knows what decides on `{name}`");
            }
        }
        (Err(one), Err(other)) => {
            assert!(one.has_errors(), "it is refused, and nobody is told why");
            assert_eq!(shown(&one), shown(&other));
        }
        (one, _) => assert!(one.is_err() && one.is_ok(), "it is a bundle now and then"),
    }
}

/// What is wrong, and where. The help is left out: among words that are equally near Cedar takes any.
fn shown(findings: &Findings) -> Value {
    assert_eq!(findings.render(false).is_empty(), findings.iter().next().is_none());
    let mut shown = findings.to_json();
    for finding in shown.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        finding.remove("help");
    }
    shown
}
