//! Coverage in the form of lcov's tracefiles, which `genhtml`, editors and CI systems read.
//!
//! A policy is a function, hit when it is satisfied. A part is a block of two branches, true and false, at its line. A
//! line is hit as often as what was reached most often of all that starts on it. See `geninfo(1)`. Its readers count what
//! they find, so shadow policies are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Coverage, Covered, Tried};

/// The tracefile. File names start with `folder`, the bundle's, as its reader calls it.
pub fn lcov(coverage: &Coverage, folder: &Path) -> String {
    let files: BTreeSet<&str> = coverage.enforced().map(|policy| policy.place.file.as_str()).collect();
    let record = |file: &&str| {
        let policies = coverage.enforced().filter(|policy| policy.place.file == **file);
        record(&folder.join(file), &policies.collect::<Vec<_>>())
    };
    format!("TN:\n{}", files.iter().map(record).collect::<String>())
}

fn record(file: &Path, policies: &[&Covered]) -> String {
    let mut lines: BTreeMap<usize, usize> = BTreeMap::new();
    let mut text = format!("SF:{}\n", file.display());
    let hits = policies.iter().filter(|policy| policy.satisfied > 0).count();
    for policy in policies {
        let (line, name) = (policy.place.line, name(policy));
        text.push_str(&format!("FN:{line},{name}\nFNDA:{},{name}\n", policy.satisfied));
        lines.entry(line).and_modify(|count| *count = policy.in_scope.max(*count)).or_insert(policy.in_scope);
    }
    text.push_str(&format!("FNF:{}\nFNH:{hits}\n", policies.len()));

    let parts: Vec<&Tried> = policies.iter().flat_map(|policy| &policy.parts).collect();
    for (block, tried) in parts.iter().enumerate() {
        let line = tried.part.place.line;
        for (branch, count) in [tried.held, tried.did_not].into_iter().enumerate() {
            // `-` says that the branch's condition was never evaluated.
            let taken = if tried.reached() == 0 { "-".to_owned() } else { count.to_string() };
            text.push_str(&format!("BRDA:{line},{block},{branch},{taken}\n"));
        }
        let reached = tried.reached();
        lines.entry(line).and_modify(|count| *count = reached.max(*count)).or_insert(reached);
    }
    let taken: usize = parts.iter().map(|tried| tried.outcomes().seen).sum();
    text.push_str(&format!("BRF:{}\nBRH:{taken}\n", parts.len() * 2));

    for (line, count) in &lines {
        text.push_str(&format!("DA:{line},{count}\n"));
    }
    let hits = lines.values().filter(|count| **count > 0).count();
    text.push_str(&format!("LF:{}\nLH:{hits}\nend_of_record\n", lines.len()));
    text
}

/// Kinds have names of their own: a limit may be called as a rule is.
fn name(policy: &Covered) -> String {
    format!("{} {}", policy.kind.as_str(), policy.name)
}
