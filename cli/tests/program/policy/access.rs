//! `tidegate policy who-can` and `what-can`

use std::path::Path;

use expect_test::expect;
use serde_json::Value;

use super::{bundle, policy, text};

#[test]
fn who_may_call_what_is_shown() {
    let bookinfo = Path::new("policies/bookinfo");
    let output = policy(&["who-can", "--service", "ratings"], bookinfo);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    expect![[r#"
        caller              ratings
        details             never
        productpage         never
        ratings             never
        reviews             conditionally
        unauthenticated     never
        others              never
        others in bookinfo  never

        reviews -> ratings
          permit `reviews-read-ratings`  (acl.cedar:27)
            when { context.method == "GET" && context.path like "/ratings/*" }
    "#]]
    .assert_eq(&text(&output.stdout));
    let output = policy(&["what-can", "--principal", "unauthenticated"], bookinfo);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    expect![[r#"
        caller           details  productpage    ratings  reviews
        unauthenticated  never    conditionally  never    never

        unauthenticated -> productpage
          permit `anyone-may-read-the-page`  (acl.cedar:2)
            when { context.method == "GET" || (context.method == "POST" && ["/login", "/logout"].contains(context.path)) }
    "#]].assert_eq(&text(&output.stdout));
}

#[test]
fn one_request_has_an_exact_answer() {
    let bookinfo = Path::new("policies/bookinfo");
    let output = policy(&["who-can", "--service", "ratings", "--path", "/ratings/0"], bookinfo);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    expect![[r#"
        caller              ratings
        details             denied
        productpage         denied
        ratings             denied
        reviews             allowed
        unauthenticated     denied
        others              denied
        others in bookinfo  denied
    "#]]
    .assert_eq(&text(&output.stdout));
    let output = policy(&["who-can", "--service", "ratings", "--method", "POST"], bookinfo);
    assert_eq!(output.status.code(), Some(1), "nobody may");
    for wrong in [&["--service", "rating"][..], &["--principal", "x"], &["--path", "x"]] {
        let output = policy(&[&["who-can"], wrong].concat(), bookinfo);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(text(&output.stderr).contains("help: "), "{}", text(&output.stderr));
    }
}

#[test]
fn the_matrix_is_for_programs_and_eyes_too() {
    let bundle = bundle(&[]);
    let picture = bundle.path().join("access.svg");
    let output = policy(&["who-can", "--format", "json", "--svg", picture.to_str().unwrap()], bundle.path());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let matrix: Value = serde_json::from_slice(&output.stdout).unwrap();
    let cells = matrix["cells"].as_array().unwrap();
    assert_eq!(cells.len(), matrix["callers"].as_array().unwrap().len());
    assert!(cells.iter().all(|cell| cell["may"] == "conditionally" && cell["proven"] == true), "{matrix}");
    assert_eq!(cells[0]["policies"][0]["conditions"][0], "when { context.method == \"GET\" }");
    let drawn = std::fs::read_to_string(picture).unwrap();
    assert!(drawn.starts_with("<svg ") && drawn.contains("others in shop"), "{drawn}");
    assert_eq!(drawn.matches("class=\"half\"").count(), cells.len() + 1, "and one in the legend");
}
