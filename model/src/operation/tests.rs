use proptest::prelude::*;

use super::*;

fn route(method: &str, template: &str, operation: &str) -> Route {
    Route { method: method.into(), template: template.parse().unwrap(), operation: operation.into() }
}

#[test]
fn templates_are_paths_in_their_normal_form() {
    let table: &[(&str, Result<(), TemplateError>)] = &[
        ("/", Ok(())),
        ("/reviews/{id}", Ok(())),
        ("/reviews/{review-id}/replies/{n}/", Ok(())),
        ("/files/{*path}", Ok(())),
        ("/a//b", Ok(())),
        ("/caf%C3%A9", Ok(())),
        ("/a;b=c,d:e@f", Ok(())),
        ("", Err(TemplateError::NotAbsolute)),
        ("reviews", Err(TemplateError::NotAbsolute)),
        ("/café", Err(TemplateError::Character('é'))),
        ("/a b", Err(TemplateError::Character(' '))),
        ("/a?b", Err(TemplateError::Character('?'))),
        ("/%61", Err(TemplateError::Percent("%61".into()))),
        ("/%c3", Err(TemplateError::Percent("%c3".into()))),
        ("/%2F", Err(TemplateError::Percent("%2F".into()))),
        ("/%+1", Err(TemplateError::Percent("%+1".into()))),
        ("/a%2", Err(TemplateError::Percent("%2".into()))),
        ("/a/../b", Err(TemplateError::DotSegment)),
        ("/.", Err(TemplateError::DotSegment)),
        ("/{}", Err(TemplateError::Parameter("{}".into()))),
        ("/{a}.json", Err(TemplateError::Parameter("{a}.json".into()))),
        ("/v{a}", Err(TemplateError::Parameter("v{a}".into()))),
        ("/{a}{b}", Err(TemplateError::Parameter("{a}{b}".into()))),
        ("/{*a}/b", Err(TemplateError::Parameter("{*a}".into()))),
        ("/a}", Err(TemplateError::Parameter("a}".into()))),
    ];
    for (text, expected) in table {
        assert_eq!(text.parse::<Template>().map(|_| ()), *expected, "{text}");
    }
    assert_eq!("/".repeat(TEMPLATE_LENGTH_MAX + 1).parse::<Template>(), Err(TemplateError::TooLong));
}

#[test]
fn a_request_is_for_the_most_literal_template() {
    let operations = Operations::new(vec![
        route("GET", "/reviews", "listReviews"),
        route("GET", "/reviews/{id}", "getReview"),
        route("GET", "/reviews/top", "topReviews"),
        route("GET", "/reviews/{id}/replies", "listReplies"),
        route("DELETE", "/reviews/{review}", "deleteReview"),
        route("GET", "/files/{*path}", "getFile"),
        route("HEAD", "/files/{*path}", "statFile"),
    ])
    .unwrap();
    let table = [
        ("GET", "/reviews", Some("listReviews")),
        ("GET", "/reviews/", None),
        ("GET", "/reviews/7", Some("getReview")),
        ("GET", "/reviews/top", Some("topReviews")),
        ("GET", "/reviews/topmost", Some("getReview")),
        ("GET", "/reviews/top/replies", Some("listReplies")),
        ("GET", "/reviews//replies", None),
        ("GET", "/reviews/7/", None),
        ("DELETE", "/reviews/7", Some("deleteReview")),
        ("delete", "/reviews/7", None),
        ("POST", "/reviews/7", None),
        ("HEAD", "/reviews/7", Some("getReview")),
        ("HEAD", "/files/a", Some("statFile")),
        ("GET", "/files/a/b/", Some("getFile")),
        ("GET", "/files/", None),
        ("GET", "*", None),
        ("GET", "", None),
    ];
    for (method, path, expected) in table {
        assert_eq!(operations.find(method, path), expected, "{method} {path}");
    }
}

#[test]
fn templates_that_can_not_be_told_apart_are_refused() {
    let conflict =
        |routes: Vec<Route>| Operations::new(routes).err().map(|Conflict { first, second }| (first, second));
    let get = |template: &str| route("GET", template, template);
    assert_eq!(conflict(vec![get("/a"), get("/a/{x}"), get("/a/{y}")]), Some((1, 2)));
    assert_eq!(conflict(vec![get("/a"), get("/a")]), Some((0, 1)));
    assert_eq!(conflict(vec![get("/b"), get("/a/{*rest}"), get("/a/{x}")]), Some((1, 2)));
    assert_eq!(conflict(vec![get("/a/{x}"), route("PUT", "/a/{y}", "put")]), None);
    assert_eq!(conflict(vec![get("/a/{x}/c"), get("/a/{y}/d"), get("/a/b/{z}")]), None);
}

#[test]
fn names_can_stand_in_policies_logs_and_metrics() {
    for name in ["getReview", "repos/list-commits", "a.b:c_d"] {
        assert!(is_name(name), "{name}");
    }
    for name in ["", "a b", "é", "a\"b", "a\nb"] {
        assert!(!is_name(name), "{name}");
    }
    assert!(is_name(&"a".repeat(NAME_LENGTH_MAX)) && !is_name(&"a".repeat(NAME_LENGTH_MAX + 1)));
}

/// A parameter that has no value.
const EMPTY: u8 = 3;

/// The obvious, slow matcher: how well a template fits, segment by segment, if it does.
fn fit(template: &str, path: &str) -> Option<Vec<u8>> {
    let (mut expected, mut segments) = (template.split('/'), path.split('/'));
    let mut fit = Vec::new();
    loop {
        match (expected.next(), segments.next()) {
            (None, None) => return (fit.last() != Some(&EMPTY)).then_some(fit),
            (Some(part), Some(segment)) if part.starts_with("{*") => {
                let rest = [segment].into_iter().chain(segments).collect::<Vec<_>>().join("/");
                fit.push(2);
                return (!rest.is_empty()).then_some(fit);
            }
            (Some(part), Some(segment)) if part.starts_with('{') => {
                fit.push(if segment.is_empty() { EMPTY } else { 1 });
            }
            (Some(part), Some(segment)) if part == segment => fit.push(0),
            _ => return None,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_router_finds_what_the_obvious_matcher_finds(
        templates in prop::collection::vec("(/(a|ab|b|aa|\\{x\\})){1,4}(/\\{\\*r\\}|/)?", 1..8),
        paths in prop::collection::vec("(/(a|ab|b|c|aa)?){1,5}", 1..20),
    ) {
        let mut routes: Vec<Route> = Vec::new();
        for template in templates {
            // A set without conflicts, whatever was drawn.
            let with = [routes.clone(), vec![route("GET", &template, &template)]].concat();
            if Operations::new(with.clone()).is_ok() {
                routes = with;
            }
        }
        let operations = Operations::new(routes.clone()).unwrap();
        for path in paths {
            let fits = routes.iter().filter_map(|route| Some((fit(route.template.as_str(), &path)?, route)));
            let best = fits.min_by_key(|(fit, _)| fit.iter().map(|how| if *how == EMPTY { 1 } else { *how }).collect::<Vec<_>>());
            let best = best.filter(|(fit, _)| !fit.contains(&EMPTY)).map(|(_, route)| route.operation.as_str());
            prop_assert_eq!(operations.find("GET", &path), best, "{} among {:?}", path, routes);
        }
    }

    #[test]
    fn a_filled_template_is_a_path_of_its_operation(template in "(/(a|b|\\{x\\})){0,4}(/\\{\\*r\\}|/)?") {
        prop_assume!(!template.is_empty());
        let operations = Operations::new(vec![route("GET", &template, "it")]).unwrap();
        let path = operations.routes()[0].template.filled("x");
        prop_assert_eq!(operations.find("GET", &path), Some("it"), "{} of {}", path, template);
    }

    #[test]
    fn no_text_makes_it_fail_otherwise_than_by_an_error(text in ".{0,30}", path in ".{0,30}") {
        if let Ok(template) = text.parse::<Template>() {
            let route = Route { method: "GET".into(), template, operation: "it".into() };
            let operations = Operations::new(vec![route]).unwrap();
            drop(operations.find("GET", &path).map(str::to_owned));
        }
    }
}
