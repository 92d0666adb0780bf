//! The schemas of YAML files: what the examples hold fits, what is wrong does not, and the files for editors are current.

#![cfg(test)]

use std::path::{Path, PathBuf};

use expect_test::expect_file;
use jsonschema::Validator;
use serde_json::Value;
use tidegate_policyd::author::yaml_schema::YamlFile;

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn validator(file: YamlFile) -> Validator {
    jsonschema::draft202012::new(file.schema().as_value()).unwrap()
}

fn value(yaml: &str) -> Value {
    serde_saphyr::from_str(yaml).unwrap()
}

#[test]
fn the_files_for_editors_are_current() {
    for file in YamlFile::ALL {
        let schema = format!("{:#}\n", file.schema().as_value());
        expect_file![folder(&format!("policies/schema/{file}.json"))].assert_eq(&schema);
    }
}

#[test]
fn a_schema_is_one() {
    for file in YamlFile::ALL {
        let schema = file.schema();
        assert_eq!(schema.get("$schema").unwrap(), "https://json-schema.org/draft/2020-12/schema");
        assert!(jsonschema::draft202012::meta::is_valid(schema.as_value()), "{file}");
        // An editor shows what a key means.
        let mut undescribed = Vec::new();
        let definitions = schema.get("$defs").and_then(Value::as_object);
        let all = definitions.into_iter().flatten().map(|(name, definition)| (name.as_str(), definition));
        for (name, definition) in all.chain([("", schema.as_value())]) {
            for (key, property) in definition["properties"].as_object().into_iter().flatten() {
                if property.get("description").is_none() {
                    undescribed.push(format!("{name}.{key}"));
                }
            }
        }
        assert!(undescribed.is_empty(), "{file}: say in a doc comment what {undescribed:?} are");
    }
}

/// The YAML files of all examples: in policies, and in the documents.
fn examples(file: YamlFile) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder("policies")).unwrap() {
        let bundle = entry.unwrap().path();
        let place = match file {
            YamlFile::Tests => bundle.join("tests"),
            _ => bundle.clone(),
        };
        for entry in std::fs::read_dir(place).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let is_it = file == YamlFile::Tests && name.ends_with(".yaml") || name == file.files();
            if is_it {
                found.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    for document in ["bundle.md", "adapters.md", "policy-tools.md", "end-users.md"] {
        let text = std::fs::read_to_string(folder("docs").join(document)).unwrap();
        let title = if file == YamlFile::Tests { "tests/" } else { file.files() };
        let blocks = text.split("\n```yaml title=").skip(1).filter(|block| block.starts_with(title));
        let body = |block: &str| block.split_once('\n').unwrap().1.split("```").next().unwrap().to_owned();
        found.extend(blocks.map(|block| (document.to_owned(), body(block))));
    }
    found
}

#[test]
fn every_example_fits() {
    for file in YamlFile::ALL {
        let validator = validator(file);
        let examples = examples(file);
        assert!(!examples.is_empty(), "{file}: there are examples in policies and in the documents");
        for (place, text) in examples {
            let value = value(&text);
            let wrong: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
            assert!(wrong.is_empty(), "{place}: {wrong:?}\n{text}");
        }
    }
}

#[test]
fn what_is_wrong_does_not_fit() {
    let mesh = "trust_domain: a.example\nservices:\n  a: ";
    let test = "tests:\n  - name: a\n    expect: {decision: allow}\n    request: ";
    let limit = "limits:\n  - name: a\n    ";
    let table = [
        (YamlFile::Mesh, "", "services: {}"),
        (YamlFile::Mesh, "", "trust_domain: a.example\nservices: [a]"),
        (YamlFile::Mesh, "", "trust_domain: a.example\nservices: {}\nservcies: {}"),
        (YamlFile::Mesh, mesh, "{timeout: 5}"),
        (YamlFile::Mesh, mesh, "{fail_mode: opne}"),
        (YamlFile::Mesh, mesh, "{enforcement: on}"),
        (YamlFile::Mesh, mesh, "{explain_denials: some}"),
        (YamlFile::Mesh, mesh, "{jwt: accounts}"),
        (YamlFile::Mesh, "", "trust_domain: a.example\nservices: {}\njwt: {a: {issuer: b, jwks: {file: c}}}"),
        (YamlFile::Mesh, mesh, "{instances: [{command: orders}]}"),
        (YamlFile::Mesh, mesh, "{instances: [{comand: [orders]}]}"),
        (YamlFile::Limits, limit, "burst: 3"),
        (YamlFile::Limits, limit, "rate: 10"),
        (YamlFile::Limits, limit, "rate: 1/s\n    burst: 0"),
        (YamlFile::Limits, limit, "rate: 1/s\n    burst: many"),
        (YamlFile::Limits, limit, "rate: 1/s\n    scope: global"),
        (YamlFile::Limits, limit, "rate: 1/s\n    key: principal"),
        (YamlFile::Limits, "", "limits: [{name: a b, rate: 1/s}]"),
        (YamlFile::Links, "", "links: [{id: a}]"),
        (YamlFile::Links, "", "links: [{id: a, template: b, action: c}]"),
        (YamlFile::Adapters, "", "handlers: [{name: a, adapter: lst}]"),
        (YamlFile::Adapters, "", "handlers: [{name: a}]"),
        (YamlFile::Adapters, "", "rules: [{name: a, actions: {handler: a}}]"),
        (YamlFile::Adapters, "", "rules: [{name: a, when: b, actions: []}]"),
        (YamlFile::Adapters, "", "instances: [{name: a, fields: {b: 1}}]"),
        (YamlFile::Tests, "", "test: []"),
        (YamlFile::Tests, "", "tests: [{name: a, request: {service: a}, expect: {decision: permit}}]"),
        (YamlFile::Tests, test, "{path: /a}"),
        (YamlFile::Tests, test, "{service: a, path: '/a?b=c'}"),
        (YamlFile::Tests, test, "{service: a, tls: 'yes'}"),
        (YamlFile::Tests, test, "{service: a, action: http2}"),
        (YamlFile::Tests, test, "{service: a, header: {}}"),
    ];
    for (file, before, after) in table {
        let text = format!("{before}{after}\n");
        assert!(!validator(file).is_valid(&value(&text)), "{file} takes\n{text}");
    }
    // What goes before is not what is wrong.
    for (file, text) in [
        (YamlFile::Mesh, format!("{mesh}{{}}\n")),
        (YamlFile::Limits, format!("{limit}rate: 1/s\n")),
        (YamlFile::Tests, format!("{test}{{service: a}}\n")),
    ] {
        assert!(validator(file).is_valid(&value(&text)), "{file}:\n{text}");
    }
}
