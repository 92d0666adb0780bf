//! Each daemon as a process of its own, with a configuration file: what an operator runs.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::run::{self, Running};
use rustix::process::Signal;

/// Ports that are free now. Daemons in processes of their own have to be told each other's. They are on an address of
/// their own, so that no connection of another test takes one meanwhile: those come from 127.0.0.1.
pub(crate) fn free<const COUNT: usize>() -> [SocketAddr; COUNT] {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, 1 + high % 250, low, NEXT.fetch_add(1, Ordering::Relaxed));
    let listeners: [TcpListener; COUNT] = std::array::from_fn(|_| TcpListener::bind((own, 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

pub(crate) fn write(folder: &Path, file: &str, text: &str) -> String {
    let path = folder.join(file);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Starts a daemon and waits until it says that it works.
pub(crate) fn daemon(kind: &str, config: &str, said: &str) -> Running {
    Running::until(run::tidegate(&[kind, "--config", config]), said)
}

pub(crate) fn token(folder: &Path, ca: &str, account: &str, instance: &str) {
    let id = format!("spiffe://shop.example/ns/{account}");
    let output = run::run(&["ca", "token", "--config", ca, "--id", &id, "--instance", instance]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    write(folder, &format!("{instance}.token"), std::str::from_utf8(&output.stdout).unwrap());
}

/// A CA that listens at these addresses, and its configuration.
pub(crate) fn start_ca(folder: &Path, [listen, admin]: [SocketAddr; 2]) -> (Running, String) {
    let config = format!("trust_domain: shop.example\nstate_dir: ca\nlisten: {listen}\nadmin: {admin}\n");
    let config = write(folder, "ca.yaml", &config);
    (daemon("ca", &config, "the CA serves"), config)
}

/// A policyd that listens at these addresses, has its certificate from `ca`, and reads the bundle in `folder`; and its
/// configuration.
pub(crate) fn start_policyd(
    folder: &Path,
    (ca, ca_config): (SocketAddr, &str),
    [listen, admin]: [SocketAddr; 2],
) -> (Running, String) {
    token(folder, ca_config, "tidegate/sa/policyd", "policyd");
    let config = format!(
        "bundle: bundle\nlisten: {listen}\nadmin: {admin}\ntrust_domain: shop.example\nca: {ca}\ntrust_bundle: ca/bundle.pem\njoin_token_file: policyd.token\n"
    );
    let config = write(folder, "policyd.yaml", &config);
    (daemon("policyd", &config, "policyd serves"), config)
}

#[test]
fn daemons_run_alone_and_a_killed_policyd_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let [ca, ca_admin, policyd, policyd_admin, inbound, outbound, ingress, admin, details] = free();
    let mesh = format!(
        "trust_domain: shop.example\nservices:\n  details:\n    namespace: shop\n    instances:\n      - {{version: v1, endpoint: '{details}', inbound: '{inbound}'}}\n"
    );
    std::fs::create_dir(folder.join("bundle")).unwrap();
    write(folder, "bundle/mesh.yaml", &mesh);
    let acl = "permit (principal, action == Action::\"http\", resource)\n\
        when { context.method == \"GET\" && context.path like \"/details/*\" };";
    write(folder, "bundle/acl.cedar", acl);

    let (ca_daemon, ca_config) = start_ca(folder, [ca, ca_admin]);
    let (policyd_daemon, policyd_config) = start_policyd(folder, (ca, &ca_config), [policyd, policyd_admin]);

    token(folder, &ca_config, "shop/sa/details", "details-v1");
    let proxy_config = format!(
        "instance: details-v1\nservice: details\ninbound: {inbound}\noutbound: {outbound}\ningress: {ingress}\nadmin: {admin}\napplication: {details}\ntrust_domain: shop.example\npolicyd: {policyd}\nca: {ca}\ntrust_bundle: ca/bundle.pem\njoin_token_file: details-v1.token\naccess_log: 'off'\n"
    );
    let proxy_config = write(folder, "details-v1.yaml", &proxy_config);
    let listen = details.to_string();
    let service = run::tidegate(&["sample", "bookinfo", "details", "--listen", &listen]);
    let application = Running::spawn(service);
    while TcpStream::connect(details).is_err() {
        std::thread::yield_now();
    }
    let sidecar = run::sidecar(&["--config", &proxy_config]);
    let proxy_daemon = Running::until(sidecar, "configuration applied");

    let curl = |what: &str| run::shell(&format!("curl -s -o /dev/null -w '%{{http_code}}' {what}"));
    for address in [ca_admin, policyd_admin, admin] {
        for path in ["metrics", "healthz", "readyz"] {
            assert_eq!(curl(&format!("http://{address}/{path}")), "200", "{address} {path}");
        }
    }
    let ask = |method: &str, path: &str| curl(&format!("-X {method} http://{ingress}{path}"));
    assert_eq!(ask("GET", "/details/0"), "200");
    assert_eq!(ask("GET", "/health"), "403");

    policyd_daemon.signal(Signal::KILL);
    assert!(!policyd_daemon.wait().success());
    assert_eq!(ask("GET", "/details/0"), "200", "the cached decision serves");
    token(folder, &ca_config, "tidegate/sa/policyd", "policyd");
    let policyd_daemon = daemon("policyd", &policyd_config, "policyd serves");
    assert_eq!(ask("DELETE", "/details/0"), "403", "the proxy asks the new policyd by itself");

    for daemon in [proxy_daemon, application, policyd_daemon, ca_daemon] {
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait().code(), Some(0));
    }
}

#[test]
fn policyd_answers_envoys_where_its_configuration_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let [ca, ca_admin, policyd, policyd_admin, envoys] = free();
    std::fs::create_dir(folder.join("bundle")).unwrap();
    let mesh = "trust_domain: shop.example\nservices:\n  details:\n    namespace: shop\n";
    write(folder, "bundle/mesh.yaml", mesh);
    let acl =
        "permit (principal, action == Action::\"http\", resource) when { context.path like \"/details/*\" };";
    write(folder, "bundle/acl.cedar", acl);
    let (_ca_daemon, ca_config) = start_ca(folder, [ca, ca_admin]);
    token(folder, &ca_config, "tidegate/sa/policyd", "policyd");
    let text = format!(
        "bundle: bundle\nlisten: {policyd}\nadmin: {policyd_admin}\ntrust_domain: shop.example\nca: {ca}\ntrust_bundle: ca/bundle.pem\njoin_token_file: policyd.token\n"
    );
    let open = write(folder, "open.yaml", &format!("{text}envoy: {{listen: '0.0.0.0:0'}}\n"));
    let refused = run::run(&["policyd", "--config", &open]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(told.contains("can't be asked in the clear") && told.contains("add `tls: true`"), "{told}");

    let config = write(folder, "policyd.yaml", &format!("{text}envoy: {{listen: '{envoys}', http: {{}}}}\n"));
    let _policyd_daemon = daemon("policyd", &config, "policyd serves Envoys");
    let from = "-H 'x-forwarded-for: 10.0.0.1'";
    let curl = |path: &str| {
        run::shell(&format!(
            "curl -s -o /dev/null -w '%{{http_code}}' {from} http://{envoys}/ext_authz/details{path}"
        ))
    };
    assert_eq!((curl("/details/0").as_str(), curl("/health").as_str()), ("200", "403"));
    let metrics = run::shell(&format!("curl -s http://{policyd_admin}/metrics"));
    assert!(
        metrics.contains("tidegate_envoy_checks_total{service=\"details\",verdict=\"allow\"} 1"),
        "{metrics}"
    );
}

#[test]
fn a_configuration_with_mistakes_is_told_with_file_line_and_column() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, text, expected) in [
        ("ca", "trust_domain: Shop!\nstate_dir: x\n", ":1:15"),
        ("policyd", "bundel: x\n", ":1:1"),
        ("proxy", "instance: a\nservice: b\noutbound: nowhere\n", ".yaml"),
    ] {
        let config = write(folder.path(), &format!("{kind}.yaml"), text);
        let output = run::run(&[kind, "--config", &config]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{kind}: {told}");
        assert!(told.contains(&format!("{kind}.yaml")) && told.contains(expected), "{kind}: {told}");
    }
    let config = ["--config", "/no/such/file"];
    let missing = run::run(&["proxy", config[0], config[1]]);
    assert_eq!(missing.status.code(), Some(2));
    let alone = run::sidecar(&config).output().unwrap();
    assert_eq!((alone.status, alone.stderr), (missing.status, missing.stderr));
}
