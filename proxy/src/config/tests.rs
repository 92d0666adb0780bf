use std::fs;

use expect_test::expect;
use rcgen::{CertificateParams, KeyPair};

use super::*;

const GOOD: &str = "\
instance: reviews-v1
service: reviews
outbound: 127.0.0.1:15001
application: 127.0.0.1:9080
policyd: 127.0.0.1:7000
ca: 127.0.0.1:7001
trust_domain: a.example
trust_bundle: roots.pem
join_token: secret
";

/// Loads `text` from a folder with a trust bundle and a join token.
fn load(text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://a.example".try_into().unwrap())];
    write("roots.pem", &params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem());
    write("token", "from-file\n");
    write("empty", "\n");
    write("proxy.yaml", text);
    let here = format!("{}/", folder.path().display());
    Config::load(&folder.path().join("proxy.yaml"))
        .map_err(|findings| findings.render(false).replace(&here, ""))
}

#[test]
fn a_small_file_is_enough() {
    let config = load(GOOD).unwrap();
    assert_eq!((config.instance.as_str(), config.service.as_str()), ("reviews-v1", "reviews"));
    assert_eq!((config.inbound, config.admin, config.ingress), (ANY_PORT, ANY_PORT, None));
    assert_eq!(config.policyd.id.to_string(), "spiffe://a.example/ns/tidegate/sa/policyd");
    assert_eq!(config.access_log, AccessLogDestination::Stdout);
    assert_eq!(config.trust_bundle.roots().len(), 1);
    let more = format!(
        "{}join_token_file: token\naccess_log: 'off'\ningress: 0.0.0.0:80\n",
        GOOD.replace("join_token: secret\n", "")
    );
    let config = load(&more).unwrap();
    assert_eq!((config.join_token.as_str(), config.access_log), ("from-file", AccessLogDestination::Off));
    assert_eq!(config.ingress.unwrap().port(), 80);
}

#[test]
fn each_mistake_is_named_at_its_place() {
    let table = [
        ("outbound: 127.0.0.1:15001", "outbound: localhost", "`localhost` is not an IP address with a port"),
        ("application: 127.0.0.1:9080", "application: 9080", "`9080` is not a host with a port"),
        ("application: 127.0.0.1:9080", "application: a:0", "`a:0` is not a host with a port"),
        ("instance: reviews-v1", "instance: ''", "a name must not be empty"),
        ("trust_domain: a.example", "trust_domain: A!", "`A!` is not a trust domain"),
        ("trust_bundle: roots.pem", "trust_bundle: none.pem", "`none.pem` can't be used"),
        ("join_token: secret", "join_token: ''", "a join token has 1 to 4096 bytes"),
        ("join_token: secret", "join_token_file: empty", "`empty` does not hold a join token"),
        ("join_token: secret", "join_token_file: gone", "can't be read"),
        ("join_token: secret", "", "neither `join_token` nor `join_token_file` is given"),
        ("join_token: secret", "join_token: a\njoin_token_file: token", "exclude each other"),
        ("join_token: secret", "join_token: a\ncolour: red", "unknown field `colour`"),
        ("policyd: 127.0.0.1:7000", "policyd: here", "`here` is no address: write an IP address with a port"),
    ];
    for (from, to, expected) in table {
        assert!(GOOD.contains(from));
        let shown = load(&GOOD.replace(from, to)).unwrap_err();
        assert!(shown.contains(expected), "{to}: {shown}");
    }
}

#[test]
fn redirected_connections_may_go_to_the_port_they_were_meant_for() {
    assert_eq!(load(GOOD).unwrap().intercept, None);
    assert_eq!(load(&format!("{GOOD}intercept: false\n")).unwrap().intercept, None);
    let config = load(&format!("{GOOD}intercept: true\n")).unwrap();
    let nothing_special = Intercept { outbound_to: OutboundTo::RegistryOnly, ports: vec![] };
    assert_eq!((config.intercept, config.application.as_str()), (Some(nothing_special), "127.0.0.1:9080"));
    let ports = GOOD.replace("application: 127.0.0.1:9080", "intercept: true\nports: [9080, 9443]");
    let config = load(&format!("{ports}outbound_to: allow-any\n")).unwrap();
    let both = Intercept { outbound_to: OutboundTo::AllowAny, ports: vec![9080, 9443] };
    assert_eq!((config.intercept, config.application.as_str()), (Some(both), "127.0.0.1:9080"));
    for (text, expected) in [
        (format!("{ports}application: 127.0.0.1:1\n"), "`application` and `ports` exclude each other"),
        (ports.replace("[9080, 9443]", "[]"), "write 1 to 64 ports"),
        (ports.replace("9443", "0"), "write 1 to 64 ports"),
        (ports.replace("intercept: true\n", ""), "write `intercept: true` as well"),
        (ports.replace("ports: [9080, 9443]\n", ""), "neither `application` nor `ports` is given"),
        (format!("{GOOD}outbound_to: allow-any\n"), "write `intercept: true` as well"),
        (format!("{GOOD}intercept: true\noutbound_to: all\n"), "write `registry-only` or `allow-any`"),
    ] {
        let shown = load(&text).unwrap_err();
        assert!(shown.contains(expected), "{text}: {shown}");
    }
}

#[test]
fn load_balancers_are_named_by_their_networks() {
    assert_eq!(load(GOOD).unwrap().proxy_protocol, None);
    let ingress = format!("{GOOD}ingress: 0.0.0.0:80\n");
    let config = load(&format!("{ingress}proxy_protocol_from: [10.0.0.0/8, 'fd00::/8']\n")).unwrap();
    let from = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
    assert_eq!(config.proxy_protocol, Some(ProxyProtocol { from }));
    for (text, expected) in [
        (format!("{GOOD}proxy_protocol_from: [10.0.0.0/8]\n"), "the load balancers before `ingress`"),
        (format!("{ingress}proxy_protocol_from: []\n"), "the load balancers before `ingress`"),
        (format!("{ingress}proxy_protocol_from: [10.0.0.1]\n"), "`10.0.0.1` is no network"),
    ] {
        let shown = load(&text).unwrap_err();
        assert!(shown.contains(expected), "{text}: {shown}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let bad =
        GOOD.replace("127.0.0.1:15001", "x").replace("127.0.0.1:7000", "y").replace("roots.pem", "none.pem");
    let shown = load(&bad).unwrap_err();
    for expected in ["proxy.yaml:3:11", "`x`", "`y`", "`none.pem`"] {
        assert!(shown.contains(expected), "{shown}");
    }
}

#[test]
fn there_are_as_many_workers_as_cores_unless_said() {
    assert!(load(GOOD).unwrap().workers >= 1);
    assert_eq!(load(&format!("{GOOD}workers: 3\n")).unwrap().workers, 3);
    let wrong = load(&format!("{GOOD}workers: 0\n")).unwrap_err();
    assert!(wrong.contains("`0` is not from 1 to 64"), "{wrong}");
}

#[test]
fn a_decision_log_is_a_file_that_is_rotated() {
    assert_eq!(load(GOOD).unwrap().decision_log, None);
    let log = load(&format!("{GOOD}decision_log: {{file: d.jsonl}}\n")).unwrap().decision_log.unwrap();
    assert!(log.path.is_absolute() && log.path.ends_with("d.jsonl"), "{}", log.path.display());
    assert_eq!(log.rotation, Rotation { size_max: 64 << 20, keep: 8 });
    let log = load(&format!("{GOOD}decision_log: {{file: d, rotate_mib: 1, keep: 0}}\n")).unwrap();
    assert_eq!(log.decision_log.unwrap().rotation, Rotation { size_max: 1 << 20, keep: 0 });
    let wrong = load(&format!("{GOOD}decision_log: {{file: d, rotate_mib: 0, keep: 1001}}\n")).unwrap_err();
    for message in ["`0` is not from 1 to 10240", "`1001` is not from 0 to 1000"] {
        assert!(wrong.contains(message), "{wrong}");
    }
}

#[test]
fn earlier_hops_are_believed_only_if_that_is_written() {
    assert_eq!(load(GOOD).unwrap().forwarding, Forwarding::default());
    let ingress = format!("{GOOD}ingress: 0.0.0.0:80\n");
    let config = load(&format!("{ingress}trusted_hops: 2\nclient_cert: append\n")).unwrap();
    assert_eq!(config.forwarding, Forwarding { trusted_hops: 2, appends_client_cert: true });
    for (text, expected) in [
        (format!("{GOOD}trusted_hops: 1\n"), "only callers of `ingress` come through load balancers"),
        (format!("{ingress}trusted_hops: 17\n"), "`17` is not from 0 to 16"),
        (format!("{GOOD}client_cert: forward\n"), "write `replace` or `append`"),
    ] {
        let shown = load(&text).unwrap_err();
        assert!(shown.contains(expected), "{text}: {shown}");
    }
}

#[test]
fn applications_are_told_of_callers_in_the_form_that_they_read() {
    assert_eq!(load(GOOD).unwrap().greets_application, None);
    for (written, version) in [("v1", ProxyProtocolVersion::V1), ("v2", ProxyProtocolVersion::V2)] {
        let config = load(&format!("{GOOD}proxy_protocol_to_application: {written}\n")).unwrap();
        assert_eq!(config.greets_application, Some(version));
    }
    let shown = load(&format!("{GOOD}proxy_protocol_to_application: 2\n")).unwrap_err();
    assert!(shown.contains("write `v1` or `v2`"), "{shown}");
}

#[test]
fn probes_name_exact_paths() {
    let probes = |written: &str| load(&format!("{GOOD}probes: {written}\n"));
    let read =
        probes("{listen: \"0.0.0.0:15021\", paths: [/healthz, \"/ready?a=b\"]}").unwrap().probes.unwrap();
    assert_eq!(
        (read.listen.port(), read.paths),
        (15021, vec!["/healthz".to_owned(), "/ready?a=b".to_owned()])
    );
    assert_eq!(load(GOOD).unwrap().probes, None);
    for (written, message) in [
        ("{listen: \"0.0.0.0:15021\", paths: []}", "name 1 to 16 paths"),
        ("{listen: \"0.0.0.0:15021\", paths: [healthz]}", "`healthz` is no path, such as `/healthz`"),
        ("{listen: \"0.0.0.0:15021\", paths: [\"/a b\"]}", "`/a b` is no path"),
        ("{listen: \"0.0.0.0:15021\", paths: [\"/a#b\"]}", "`/a#b` is no path"),
        ("{listen: here, paths: [/a]}", "`here` is not an IP address with a port"),
    ] {
        let shown = probes(written).unwrap_err();
        assert!(shown.contains(message), "{written}: {shown}");
    }
}

#[test]
fn local_addresses_are_each_of_one_service_and_all_mistakes_in_them_are_told_at_once() {
    let good = format!(
        "{GOOD}tcp:\n  - {{service: db, listen: 127.0.0.1:5432}}\n  - {{service: cache, listen: '127.0.0.1:0'}}\n  - {{service: queue, listen: '127.0.0.1:0'}}\n"
    );
    let services: Vec<String> = load(&good).unwrap().tcp.into_iter().map(|local| local.service).collect();
    assert_eq!(services, ["db", "cache", "queue"], "ports that are free are as many as are wanted");
    let bad = format!(
        "{GOOD}tcp:
  - {{service: db, listen: 127.0.0.1:5432}}
  - {{service: db, listen: 127.0.0.1:5433}}
  - {{service: cache, listen: 127.0.0.1:5432}}
  - {{service: '', listen: localhost:1}}
  - {{service: queue, listen: 127.0.0.1:15001}}
"
    );
    expect![[r#"
        error: `db` has a local address already
          --> proxy.yaml:12:15
           |
        12 |   - {service: db, listen: 127.0.0.1:5433}
           |               ^^

        error: `127.0.0.1:5432` is listened at already
          --> proxy.yaml:13:30
           |
        13 |   - {service: cache, listen: 127.0.0.1:5432}
           |                              ^^^^^^^^^^^^^^

        error: a name must not be empty
          --> proxy.yaml:14:15
           |
        14 |   - {service: '', listen: localhost:1}
           |               ^^

        error: `localhost:1` is not an IP address with a port, such as `127.0.0.1:8080`
          --> proxy.yaml:14:27
           |
        14 |   - {service: '', listen: localhost:1}
           |                           ^^^^^^^^^^^

        error: `127.0.0.1:15001` is listened at already
          --> proxy.yaml:15:30
           |
        15 |   - {service: queue, listen: 127.0.0.1:15001}
           |                              ^^^^^^^^^^^^^^^

    "#]]
    .assert_eq(&load(&bad).unwrap_err());
    // What is no entry at all is told alone: the rest has no form then.
    for (entry, expected) in [
        ("{service: db}", "proxy.yaml:10:8"),
        ("{service: db, listen: 127.0.0.1:1, port: 2}", "unknown field `port`\n  --> proxy.yaml:10:42"),
        ("db", "expected mapping start\n  --> proxy.yaml:10:7"),
    ] {
        let shown = load(&format!("{GOOD}tcp: [{entry}]\n")).unwrap_err();
        assert!(shown.contains(expected), "{shown}");
    }
    let many: String =
        (0..=1000).map(|n| format!("  - {{service: s{n}, listen: '127.0.0.1:0'}}\n")).collect();
    let shown = load(&format!("{GOOD}tcp:\n{many}")).unwrap_err();
    assert!(shown.contains("proxy.yaml:1011:15") && shown.contains("more than 1000 of them"), "{shown}");
}
