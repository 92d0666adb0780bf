use std::collections::BTreeMap;

use cedar_policy::{
    Context, Entities, EvalResult, Expression, Request, RestrictedExpression, eval_expression,
};
use model::{Operations, Route};

use super::*;
use crate::bundle::Files;

/// What a solver is told of paths and templates is what proxies do.
#[test]
fn a_template_in_cedar_fits_what_an_operation_is_found_for() {
    let paths = [
        "/",
        "/a",
        "/a/",
        "/a/b",
        "/a/b/",
        "/a//b",
        "/a/b/c",
        "/a/b/c/d",
        "//",
        "/files/",
        "/files/x",
        "/files/x/y",
        "/a*/b",
        "/ab/b",
        "/a/x/b/y",
        "/a/x/y/b/z",
        "/a//b/y",
        "/a/x/b/",
    ];
    for (template, exact) in [
        ("/", true),
        ("/a", true),
        ("/a/{id}", true),
        ("/{one}/{two}", true),
        ("/a/{id}/b/{other}", true),
        ("/files/{*path}", true),
        ("/{first}/{*path}", false),
        ("/a*/{id}", true),
        ("/a//{id}", false),
    ] {
        let template: model::Template = template.parse().unwrap();
        let route =
            Route { method: "GET".to_owned(), template: template.clone(), operation: "op".to_owned() };
        let operations = Operations::new(vec![route]).unwrap();
        let (condition, is_exact) = world::path_fits(&template);
        assert_eq!(is_exact, exact, "{}", template.as_str());
        let expression: Expression = condition.parse().unwrap();
        for path in paths {
            let uid: cedar_policy::EntityUid = "Service::\"s\"".parse().unwrap();
            let path_value = RestrictedExpression::new_string(path.to_owned());
            let context = Context::from_pairs([("path".to_owned(), path_value)]).unwrap();
            let request = Request::new(uid.clone(), uid.clone(), uid, context, None).unwrap();
            let told =
                eval_expression(&request, &Entities::empty(), &expression).unwrap() == EvalResult::Bool(true);
            let found = operations.find("GET", path).is_some();
            assert!(
                if exact { told == found } else { told || !found },
                "{} {path}: {condition}",
                template.as_str()
            );
        }
    }
}

/// Nothing may be said of all requests that does not hold for one of them.
#[test]
fn what_is_known_of_requests_holds_at_every_boundary() {
    let mesh = "trust_domain: a.example
services:
  orders:
    namespace: shop
    operations:
      getOrder: {method: GET, path: '/orders/{id}', groups: [read]}
      getFile: {method: GET, path: '/files/{*path}'}
  stock: {namespace: depot}
";
    let acl = "permit (principal in Group::\"ops\", action in Action::\"http\", resource in Namespace::\"shop\")
        when { principal has tier && principal.tier > 1 || context.path like \"/orders/*\" };
        permit (principal in Namespace::\"depot\", action == Action::\"tcp\", resource) when { context.tls && !context.source_ip.isLoopback() };
        permit (principal, action in Action::\"http\", resource) when { [ip(\"10.0.0.0/9\"), ip(\"2001:db8::1\")].contains(context.source_ip) };
        permit (principal, action in Action::\"read\", resource) when { resource has owner && principal == resource.owner };";
    let entities = r#"[{"uid": {"type": "Group", "id": "ops"}, "attrs": {}, "parents": []},
        {"uid": {"type": "Namespace", "id": "far"}, "attrs": {}, "parents": [{"type": "Group", "id": "ops"}]},
        {"uid": {"type": "Service", "id": "stock"}, "attrs": {"owner": {"__entity": {"type": "Workload", "id": "spiffe://b.example/x"}}}, "parents": []},
        {"uid": {"type": "Workload", "id": "spiffe://a.example/ns/shop/sa/orders"}, "attrs": {"tier": 2}, "parents": [{"type": "Group", "id": "ops"}]}]"#;
    let schema = "entity Workload { tier?: Long }; entity Service { owner?: Workload };";
    let texts = [
        ("mesh.yaml", mesh),
        ("acl.cedar", acl),
        ("entities.json", entities),
        ("schema.cedarschema", schema),
    ];
    let texts: BTreeMap<_, _> = texts.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
    let files = Files { folder: ".".into(), texts };
    let bundle = Bundle::load(&files).unwrap_or_else(|wrong| panic!("{}", wrong.render(false)));
    let side = Side { bundle: &bundle, files: &files };
    let common = Common::of(side, side).unwrap();
    assert!(common.gaps.is_empty(), "{:?}", common.gaps);
    let world = World::of(&bundle, &bundle, &common);
    let boundaries = Boundaries::new(&[&bundle]);
    let mut requests = 0;
    for environment in &common.environments {
        let facts = world.policies(environment, &common.schema);
        assert!(facts.len() > 10, "{}", environment.action());
        let index =
            crate::engine::index::Index::new(&PolicySet::from_policies(facts.iter().cloned()).unwrap());
        let own = |request: &Attributes| request.action_id() == environment.action().id().unescaped();
        for service in &common.services {
            for request in boundaries.of(service).requests().requests.into_iter().filter(own) {
                let cedar = crate::engine::request::build(&request, &bundle).unwrap();
                let entities = with_caller(&bundle, &request.principal);
                let answer = index.answer(&cedar, &entities, crate::engine::index::Depth::Explain);
                let broken: Vec<String> = facts
                    .iter()
                    .filter(|fact| answer.forbids.iter().any(|id| id == AsRef::<str>::as_ref(fact.id())))
                    .map(ToString::to_string)
                    .collect();
                assert!(
                    broken.is_empty() && answer.errors.is_empty(),
                    "{request:?} {broken:?} {:?}",
                    answer.errors
                );
                requests += 1;
            }
        }
    }
    assert!(requests > 100, "{requests}");
}

/// All entities, and the caller's.
fn with_caller(bundle: &Bundle, caller: &Principal) -> Entities {
    let schema = Some(&bundle.schemas.entities);
    let json = crate::bundle::entities::workload(caller);
    let entity = cedar_policy::Entity::from_json_value(json, schema).unwrap();
    match bundle.entities.get(&entity.uid()) {
        Some(_) => bundle.entities.clone(),
        None => bundle.entities.clone().add_entities([entity], schema).unwrap(),
    }
}
