//! The one form of Cedar files, as Cedar's own formatter has it: the same as of `cedar format` and of editors.

use std::str::FromStr;

use cedar_policy::PolicySet;
use cedar_policy_formatter::{Config, policies_str_to_pretty};
use daemon::finding::Findings;

use crate::bundle::cedar_text::Place;

/// The text of the Cedar file called `file` in its one form. Comments are kept.
///
/// # Errors
/// What keeps the text from being policies.
pub fn formatted(file: &str, text: &str) -> Result<String, Findings> {
    let place = Place::file(file, text);
    let mut findings = Findings::new();
    findings.add_source(file, text);
    match PolicySet::from_str(text) {
        // The formatter has no place for comments without a policy.
        Ok(policies) if policies.is_empty() => return Ok(text.to_owned()),
        Ok(_) => {}
        Err(errors) => {
            place.diagnose(&errors, &mut findings);
            return Err(findings);
        }
    }
    // The formatter parses what it made, and compares it with what it was given.
    policies_str_to_pretty(text, &Config::default()).map_err(|error| {
        findings.push(place.finding(format!("this file can't be formatted: {error:#}")));
        findings
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    const LOOSE: &str = "\
// Who may read.
@id(\"a\") permit(principal,action==Action::\"http\",
  resource) when { context.method==\"GET\" // only that
  && context.tls }; // until spring
// the end
";

    #[test]
    fn the_form_is_cedars_and_comments_are_kept() {
        expect![[r#"
            // Who may read.
            @id("a")
            permit (
              principal,
              action == Action::"http",
              resource
            )
            when
            {
              context.method == "GET" // only that
               &&
              context.tls
            }; // until spring
            // the end
        "#]]
        .assert_eq(&formatted("a.cedar", LOOSE).unwrap());
    }

    #[test]
    fn what_is_formatted_stays_as_it_is() {
        let acl = include_str!("../../../policies/bookinfo/acl.cedar");
        for text in [LOOSE, acl, "// nothing yet\n", ""] {
            let once = formatted("a.cedar", text).unwrap();
            assert_eq!(formatted("a.cedar", &once).unwrap(), once);
            assert_eq!(text.matches("//").count(), once.matches("//").count(), "{once}");
        }
    }

    #[test]
    fn what_is_no_policy_is_a_finding() {
        let findings =
            formatted("a.cedar", "permit (principal, action, resource)\nwhen { contxt };").unwrap_err();
        expect![[r#"
            error: invalid variable: contxt
             --> a.cedar:2:8
              |
            2 | when { contxt };
              |        ^^^^^^
              |
              = help: the valid Cedar variables are `principal`, `action`, `resource`, and `context`; did you mean to enclose `contxt` in quotes to make a string?

        "#]].assert_eq(&findings.render(false));
    }
}
