use std::collections::BTreeMap;

use cedar_policy::pst;
use proptest::prelude::*;

use super::*;
use crate::bundle::mesh;

const MESH: &str = "trust_domain: a.example\nservices: {orders: {namespace: shop}}\n";

fn read_all(files: &[(&str, &str)]) -> (BTreeMap<String, String>, Vec<Clauses>) {
    let texts: BTreeMap<String, String> =
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let (mesh, _warnings) = mesh::parse(MESH, &Files::default()).unwrap();
    let clauses = read(&Files { texts: texts.clone(), ..Files::default() }, &mesh).unwrap();
    (texts, clauses)
}

/// Each part with its place; what stands at the place has to be what the part says.
fn told(files: &[(&str, &str)]) -> Vec<String> {
    let (texts, clauses) = read_all(files);
    let told = clauses.iter().flat_map(|clauses| {
        let part = |part: &Part| {
            let Place { file, line, column, start, end } = &part.place;
            assert_eq!(on_one_line(texts[file].get(*start..*end).unwrap()), part.text);
            format!("{file}:{line}:{column}: {} {}", part.word, part.text)
        };
        let Place { file, line, column, .. } = &clauses.place;
        let head = format!("{file}:{line}:{column}: {} {}", clauses.kind.as_str(), clauses.name);
        std::iter::once(head).chain(clauses.parts().map(part)).collect::<Vec<_>>()
    });
    told.collect()
}

#[test]
fn parts_are_found_among_strings_comments_and_brackets() {
    let text = r#"// when { no }
@note("when; (x)") @id("a") permit (principal in
  Namespace::"a,b", action, resource)
when { // one; &&
  context.path like "/ä && \"b\"//*" && (context.tls && [1, 2].contains(1)) // two
  && (context.tls || // either
      context.method == "GET") }
unless { context.tls && principal is Workload in Namespace::"x" };
forbid (principal, action, resource) when { true && true || false };
"#;
    assert_eq!(
        told(&[("x.cedar", text)]),
        [
            r#"x.cedar:2:1: permit a"#,
            r#"x.cedar:2:37: principal principal in Namespace::"a,b""#,
            r#"x.cedar:5:3: when context.path like "/ä && \"b\"//*""#,
            r#"x.cedar:5:42: when context.tls"#,
            r#"x.cedar:5:57: when [1, 2].contains(1)"#,
            r#"x.cedar:6:7: when context.tls || context.method == "GET""#,
            r#"x.cedar:8:10: unless context.tls"#,
            r#"x.cedar:8:25: unless principal is Workload in Namespace::"x""#,
            r#"x.cedar:9:1: forbid x.cedar#2"#,
            r#"x.cedar:9:45: when true && true || false"#,
        ]
    );
}

#[test]
fn conditions_of_limits_and_rules_have_places_in_their_files() {
    let limits = "\
limits:
  - {name: a, rate: 1/s}
  - name: b
    service: orders
    when: context.path like \"/a/*\" && context.tls
    rate: 1/s
";
    let adapters = "\
handlers: [{name: h, adapter: denier}]
rules:
  - name: c
    match: >-
      context.tls &&
      context.method == \"PUT\"
    actions: [{handler: h}]
";
    let (_, clauses) = read_all(&[("limits.yaml", limits), ("adapters.yaml", adapters)]);
    let found: Vec<String> = clauses
        .iter()
        .flat_map(|clauses| {
            let conditions = clauses.conditions.iter().flat_map(|condition| &condition.parts);
            conditions.map(move |Part { text, place: Place { file, line, column, .. }, .. }| {
                format!("{} {}: {file}:{line}:{column}: {text}", clauses.kind.as_str(), clauses.name)
            })
        })
        .collect();
    assert_eq!(
        found,
        [
            r#"limit a: limits.yaml:2:12: true"#,
            r#"limit b: limits.yaml:5:11: context.path like "/a/*""#,
            r#"limit b: limits.yaml:5:39: context.tls"#,
            // Folded text has no offsets in the file: the whole value is shown.
            r#"rule c: adapters.yaml:5:7: context.tls"#,
            r#"rule c: adapters.yaml:5:7: context.method == "PUT""#,
        ]
    );
}

/// Any condition, with blanks and comments where they are allowed.
fn conditions() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("context.tls".to_owned()),
        Just("context.path like \"/(a && b)/*\"".to_owned()),
        Just("[1, 2].contains(1) // && (\n".to_owned()),
        Just("{a: true && false}.a".to_owned()),
        Just("context.method == \"\\\"||\"".to_owned()),
        Just("principal is Workload in Namespace::\"//\"".to_owned()),
    ];
    leaf.prop_recursive(5, 24, 3, |inner| {
        prop_oneof![
            4 => (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("{left} && {right}")),
            2 => (inner.clone(), inner.clone()).prop_map(|(left, right)| format!("{left} || {right}")),
            2 => inner.clone().prop_map(|inner| format!("({inner})")),
            1 => inner.clone().prop_map(|inner| format!("!({inner}\n)")),
            1 => (inner.clone(), inner.clone(), inner)
                .prop_map(|(a, b, c)| format!("(if {a} then {b} else {c})")),
        ]
    })
}

fn pst(expr: &Expr) -> pst::Expr {
    expr.clone().try_into().unwrap()
}

/// The condition of a policy of one condition, as Cedar evaluates it.
fn evaluated(policy: &str) -> pst::Expr {
    let policy = cedar_policy::Policy::parse(None, policy).unwrap();
    pst(policy.as_ref().non_scope_constraints().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The law: what is shown of a condition, joined by `&&`, is what Cedar evaluates. Else a reader would look at the
    /// wrong place.
    #[test]
    fn what_is_shown_is_what_is_evaluated(when in conditions(), unless in any::<bool>()) {
        let word = if unless { "unless" } else { "when" };
        let text = format!("permit (principal, action, resource) {word} {{{when}}};");
        let (_, clauses) = read_all(&[("a.cedar", &text)]);
        let parts = &clauses[0].conditions[0].parts;
        // `&&` groups from left to right: brackets keep the right side's groups, which have the same parts.
        let joined = parts.iter().map(|part| format!("({})", part.text)).collect::<Vec<_>>().join(" && ");
        let (_, again) = read_all(&[("a.cedar", &format!("permit (principal, action, resource) {word} {{{joined}}};"))]);
        let exprs = |clauses: &[Clauses]| -> Vec<pst::Expr> {
            clauses[0].conditions[0].parts.iter().map(|part| pst(part.expr())).collect()
        };
        prop_assert_eq!(exprs(&clauses), exprs(&again));
        // And no `&&` is left between them.
        let mut sides = Vec::new();
        flat(&evaluated(&text), unless, &mut sides);
        prop_assert_eq!(exprs(&clauses), sides);
    }
}

/// The sides of the outermost `&&`, `is … in` not counted.
fn flat(expr: &pst::Expr, negated: bool, into: &mut Vec<pst::Expr>) {
    match expr {
        pst::Expr::UnaryOp { op: pst::UnaryOp::Not, expr } if negated => flat(expr, false, into),
        pst::Expr::BinaryOp { op: pst::BinaryOp::And, left, right }
            if !matches!(left.as_ref(), pst::Expr::Is { .. }) =>
        {
            flat(left, false, into);
            flat(right, false, into);
        }
        other => into.push(other.clone()),
    }
}
