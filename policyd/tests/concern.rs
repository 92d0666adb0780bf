//! The law that makes revisions of services sound: while a service's revision stays, so does every decision on it.
//!
//! Random edits of a bundle. After each, every service whose revision did not change has the atoms it had, and
//! decides every request as it did. A table then says whom typical edits concern, and whom they don't.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Attributes, Decision};
use proptest::prelude::*;
use tidegate_policyd::bundle::{Bundle, Files};
use tidegate_policyd::check::check;
use tidegate_policyd::handlers::Handlers;
use tidegate_policyd::snapshot::{Current, Snapshot};

const SERVICES: [&str; 3] = ["orders", "stock", "mail"];

/// A bundle, part by part; a part that is missing is not written.
#[derive(Clone, Debug, Default)]
struct Parts {
    validity: u64,
    /// Namespaces by service; none: no such service.
    namespaces: [Option<&'static str>; 3],
    policies: BTreeMap<u8, String>,
    limits: BTreeMap<u8, (Option<usize>, String)>,
    rules: BTreeMap<u8, (Option<usize>, String, bool)>,
    entities: usize,
    schema: bool,
    list: bool,
    /// The service whose tokens of end users are taken, if there is one.
    tokens: Option<usize>,
}

#[derive(Clone, Debug)]
enum Edit {
    Validity(u64),
    Namespace(usize, Option<&'static str>),
    Policy(u8, Option<String>),
    Limit(u8, Option<(Option<usize>, String)>),
    Rule(u8, Option<(Option<usize>, String, bool)>),
    Entities(usize),
    Schema(bool),
    List(bool),
    Tokens(Option<usize>),
}

const ISSUERS: &str =
    "jwt: {a: {issuer: https://a.example, audiences: [a], jwks: {url: https://a.example/keys}}}\n";

const ENTITIES: [&str; 5] = [
    "[]",
    r#"[{"uid": {"type": "Workload", "id": "spiffe://shop.example/ns/shop/sa/mail"}, "attrs": {},
        "parents": [{"type": "Group", "id": "staff"}]}]"#,
    r#"[{"uid": {"type": "Namespace", "id": "shop"}, "attrs": {}, "parents": [{"type": "Group", "id": "staff"}]}]"#,
    r#"[{"uid": {"type": "Service", "id": "stock"}, "attrs": {}, "parents": [{"type": "Group", "id": "core"}]}]"#,
    r#"[{"uid": {"type": "Service", "id": "stock"}, "attrs": {}, "parents": [{"type": "Group", "id": "core"}]},
        {"uid": {"type": "Group", "id": "core"}, "attrs": {}, "parents": [{"type": "Group", "id": "staff"}]}]"#,
];

impl Parts {
    fn new() -> Self {
        Self { validity: 60, namespaces: [Some("shop"), Some("depot"), None], list: true, ..Self::default() }
    }

    fn edit(&mut self, edit: Edit) {
        fn put<T>(map: &mut BTreeMap<u8, T>, place: u8, value: Option<T>) {
            match value {
                Some(value) => drop(map.insert(place, value)),
                None => drop(map.remove(&place)),
            }
        }
        match edit {
            Edit::Validity(seconds) => self.validity = seconds,
            Edit::Namespace(service, namespace) => self.namespaces[service] = namespace,
            Edit::Policy(place, policy) => put(&mut self.policies, place, policy),
            Edit::Limit(place, limit) => put(&mut self.limits, place, limit),
            Edit::Rule(place, rule) => put(&mut self.rules, place, rule),
            Edit::Entities(which) => self.entities = which,
            Edit::Schema(own) => self.schema = own,
            Edit::List(blocks) => self.list = blocks,
            Edit::Tokens(service) => self.tokens = service,
        }
    }

    fn bundle(&self) -> Arc<Bundle> {
        let services = SERVICES.iter().zip(self.namespaces).enumerate();
        let taken = |number| if self.tokens == Some(number) { ", jwt: [a]" } else { "" };
        let services: Vec<String> = services
            .filter_map(|(number, (name, namespace))| {
                Some(format!("{name}: {{namespace: {}{}}}", namespace?, taken(number)))
            })
            .collect();
        let services = services.join(", ");
        // A limit or rule of a service that is not there would be a mistake.
        let of = |service: Option<usize>| match service {
            None => Some(String::new()),
            Some(service) => self.namespaces[service].map(|_| format!("service: {}, ", SERVICES[service])),
        };
        let quoted = |text: &str| text.replace('\'', "''");
        let limits: String = self
            .limits
            .iter()
            .filter_map(|(place, (service, when))| {
                Some(format!(
                    "  - {{name: l{place}, {}rate: 1/s, when: '{}'}}\n",
                    of(*service)?,
                    quoted(when)
                ))
            })
            .collect();
        let rules: String = self
            .rules
            .iter()
            .filter_map(|(place, (service, when, checks))| {
                let action = if *checks { "{handler: list, instances: [path]}" } else { "{handler: out}" };
                let service = of(*service)?;
                Some(format!(
                    "  - {{name: r{place}, {service}match: '{}', actions: [{action}]}}\n",
                    quoted(when)
                ))
            })
            .collect();
        let entry = if self.list { "/a" } else { "/b" };
        let adapters = format!(
            "handlers:\n  - {{name: list, adapter: list, config: {{mode: deny, match: exact, entries: [{entry}]}}}}\n  \
             - {{name: out, adapter: stdio}}\ninstances: [{{name: path, fields: {{value: context.path}}}}]\n"
        );
        let listed =
            |name: &str, lines: String| if lines.is_empty() { lines } else { format!("{name}:\n{lines}") };
        // What is said of a service that is not there would be a mistake too.
        let entities = if self.namespaces[1].is_none() && self.entities > 2 { 0 } else { self.entities };
        let mut texts = BTreeMap::from([
            (
                "mesh.yaml".to_owned(),
                format!(
                    "trust_domain: shop.example\ndecision_validity: {}s\nservices: {{{services}}}\n{ISSUERS}",
                    self.validity
                ),
            ),
            ("acl.cedar".to_owned(), self.policies.values().cloned().collect()),
            ("limits.yaml".to_owned(), listed("limits", limits)),
            ("adapters.yaml".to_owned(), adapters + &listed("rules", rules)),
            ("entities.json".to_owned(), ENTITIES[entities].to_owned()),
        ]);
        if self.schema {
            let text = "entity Team;\nentity Workload in [Team] { friend?: Service };\n";
            texts.insert("schema.cedarschema".to_owned(), text.to_owned());
        }
        texts.retain(|_, text| !text.is_empty());
        let loaded = Bundle::load(&Files { folder: ".".into(), texts });
        Arc::new(loaded.unwrap_or_else(|findings| panic!("{}\n{self:?}", findings.render(false))))
    }
}

fn condition() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "true",
        r#"context.method == "GET""#,
        r#"context.path like "/a*""#,
        r#"context.headers has "x-a""#,
        r#"context.headers has "x-b" && context.headers["x-b"] == "1""#,
        r#"principal.namespace == "shop""#,
        r#"principal in Group::"staff""#,
        r#"resource in Group::"core""#,
        r#"resource in Group::"staff""#,
        r#"resource.namespace == "depot""#,
        r#"Service::"stock" in Group::"core""#,
        r#"Service::"stock" in Namespace::"shop""#,
        r#"(if context.tls then Namespace::"shop" else Namespace::"depot") in Group::"staff""#,
        "context.tls == true && context.host == resource.namespace",
    ])
    .prop_map(str::to_owned)
}

fn policy() -> impl Strategy<Value = String> {
    let scope = prop::sample::select(vec![
        "resource",
        r#"resource == Service::"orders""#,
        r#"resource == Service::"stock""#,
        r#"resource == Service::"mail""#,
        r#"resource in Namespace::"shop""#,
        r#"resource in Namespace::"depot""#,
        r#"resource in Group::"core""#,
    ]);
    (any::<bool>(), any::<u8>(), scope, condition()).prop_map(|(forbids, name, scope, condition)| {
        let effect = if forbids { "forbid" } else { "permit" };
        format!(
            "{effect} (principal, action == Action::\"http\", {scope}) when {{ {condition} }};\n// {name}\n"
        )
    })
}

fn edit() -> impl Strategy<Value = Edit> {
    let service = || prop::option::of(0usize..3);
    let limit = (service(), condition());
    let rule = (service(), condition(), any::<bool>());
    prop_oneof![
        1 => (60u64..62).prop_map(Edit::Validity),
        3 => (0usize..3, prop::sample::select(vec![Some("shop"), Some("depot"), None]))
            .prop_map(|(service, namespace)| Edit::Namespace(service, namespace)),
        12 => (0u8..8, prop::option::weighted(0.8, policy())).prop_map(|(place, policy)| {
            // Named, so that an edit elsewhere does not rename it.
            Edit::Policy(place, policy.map(|policy| format!("@id(\"p{place}\") {policy}")))
        }),
        3 => (0u8..3, prop::option::of(limit)).prop_map(|(place, limit)| Edit::Limit(place, limit)),
        3 => (0u8..3, prop::option::of(rule)).prop_map(|(place, rule)| Edit::Rule(place, rule)),
        2 => (0usize..ENTITIES.len()).prop_map(Edit::Entities),
        1 => any::<bool>().prop_map(Edit::Schema),
        1 => any::<bool>().prop_map(Edit::List),
        1 => prop::option::of(0..3usize).prop_map(Edit::Tokens),
    ]
}

fn requests(service: &str) -> Vec<Attributes> {
    let callers =
        ["unauthenticated", "spiffe://shop.example/ns/shop/sa/mail", "spiffe://shop.example/ns/depot/sa/x"];
    let mut requests = Vec::new();
    for (caller, variant) in callers.iter().flat_map(|caller| (0..8u8).map(move |variant| (caller, variant)))
    {
        let headers = if variant & 1 == 0 { vec![] } else { vec![("x-a", "1"), ("x-b", "1"), ("x-c", "1")] };
        requests.push(Attributes {
            principal: caller.parse().unwrap(),
            resource: service.into(),
            method: if variant & 2 == 0 { "GET" } else { "PUT" }.into(),
            path: if variant & 4 == 0 { "/a" } else { "/b" }.into(),
            host: "shop".into(),
            headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            tls: variant & 2 == 0,
            ..Attributes::default()
        });
    }
    requests
}

/// A policyd's state, without the parts that wait for files.
struct State(Current);

impl State {
    async fn new(parts: &Parts) -> Self {
        let bundle = parts.bundle();
        let handlers = Arc::new(Handlers::start(&bundle).await.unwrap());
        Self(Current::new(bundle, handlers, 1))
    }

    /// The snapshot before, and the one that `parts` make.
    async fn next(&self, parts: &Parts) -> (Arc<Snapshot>, Arc<Snapshot>) {
        let (before, bundle) = (self.0.get(), parts.bundle());
        let handlers = Arc::new(before.handlers.next(&bundle).await.unwrap());
        self.0.publish(self.0.next(bundle, handlers));
        (before, self.0.get())
    }
}

async fn decisions(snapshot: &Snapshot, service: &str) -> Vec<Decision> {
    let mut decisions = Vec::new();
    for request in requests(service) {
        decisions.push(check(snapshot, &request).await);
    }
    decisions
}

async fn run(edits: Vec<Edit>) -> Result<(), TestCaseError> {
    let mut parts = Parts::new();
    let state = State::new(&parts).await;
    for edit in edits {
        let told = format!("{edit:?}");
        parts.edit(edit);
        let (before, after) = state.next(&parts).await;
        for service in SERVICES.into_iter().filter(|name| after.bundle.mesh.services.contains_key(*name)) {
            if after.decisions_since(service) != before.decisions_since(service) {
                prop_assert_eq!(after.decisions_since(service), after.revision);
                continue;
            }
            prop_assert_eq!(before.bundle.atoms.get(service), after.bundle.atoms.get(service), "{}", &told);
            let (then, now) = (decisions(&before, service).await, decisions(&after, service).await);
            prop_assert_eq!(then, now, "{} after {}", service, &told);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn while_a_services_revision_stays_its_decisions_stay(edits in prop::collection::vec(edit(), 1..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(run(edits))?;
    }
}

#[tokio::test]
async fn an_edit_concerns_those_whose_decisions_it_may_change() {
    let permit = |scope: &str, condition: &str| {
        format!(
            "@id(\"p\") permit (principal, action == Action::\"http\", {scope}) when {{ {condition} }};\n"
        )
    };
    let policy = |scope: &str, condition: &str| Edit::Policy(0, Some(permit(scope, condition)));
    let of_stock = r#"resource == Service::"stock""#;
    // From a bundle with `orders` in `shop` and `stock` in `depot`: an edit, and which of both it concerns.
    let table = [
        ("another spelling", policy("resource", "true // the same\n"), [false, false]),
        ("a policy for all", policy("resource", "false"), [true, true]),
        ("a policy narrowed to one", policy(of_stock, "true"), [true, true]),
        ("a limit", Edit::Limit(0, Some((Some(0), "true".into()))), [true, false]),
        ("a limit for all", Edit::Limit(0, Some((None, "true".into()))), [true, true]),
        ("a rule that checks", Edit::Rule(0, Some((Some(1), "true".into(), true))), [false, true]),
        ("a rule that reports", Edit::Rule(0, Some((Some(1), "true".into(), false))), [false, true]),
        ("a list that nobody asks", Edit::List(false), [false, false]),
        ("whose tokens are taken", Edit::Tokens(Some(0)), [false, false]),
        ("a service's namespace", Edit::Namespace(1, Some("shop")), [false, true]),
        ("a service more", Edit::Namespace(2, Some("shop")), [false, false]),
        ("a service less", Edit::Namespace(0, None), [true, false]),
        ("a caller's group", Edit::Entities(1), [true, true]),
        ("a service's group", Edit::Entities(3), [false, true]),
        ("a schema", Edit::Schema(true), [true, true]),
        ("how long decisions hold", Edit::Validity(61), [true, true]),
    ];
    for (what, edit, concerned) in table {
        let mut parts = Parts::new();
        parts.edit(policy("resource", "true"));
        let state = State::new(&parts).await;
        parts.edit(edit);
        let (_, after) = state.next(&parts).await;
        let changed = ["orders", "stock"].map(|service| after.decisions_since(service) == after.revision);
        assert_eq!(changed, concerned, "{what}");
    }
}

#[tokio::test]
async fn what_is_changed_and_changed_back_is_new() {
    let mut parts = Parts::new();
    let state = State::new(&parts).await;
    for (validity, number) in [(61, 2), (60, 3), (60, 3)] {
        parts.edit(Edit::Validity(validity));
        let (_, after) = state.next(&parts).await;
        assert_eq!(after.decisions_since("stock").number, number);
    }
    for (namespace, number) in [(None, 5), (Some("depot"), 6)] {
        parts.edit(Edit::Namespace(1, namespace));
        let (_, after) = state.next(&parts).await;
        assert_eq!(after.decisions_since("stock").number, number, "a service that is back is another one");
    }
}

#[tokio::test]
async fn whose_tokens_are_taken_is_told_to_the_proxies_of_that_service_alone() {
    let mut parts = Parts::new();
    let state = State::new(&parts).await;
    parts.edit(Edit::Tokens(Some(0)));
    let (before, after) = state.next(&parts).await;
    let told = |snapshot: &Snapshot, service: &str| snapshot.told_since(&[service.to_owned()]);
    assert_eq!(told(&after, "orders"), after.revision);
    assert_eq!(told(&after, "stock"), told(&before, "stock"));
    assert_eq!(after.mesh_since(), before.mesh_since());
}
