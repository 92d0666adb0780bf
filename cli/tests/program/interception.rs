//! Applications that know nothing of a mesh, in one: hosts with sidecars, and a kernel that redirects.

mod raw;

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::namespaces::Network;
use crate::run::{self, Running};

/// Where the CA and policyd are; a host with the caller `cart`; one with `details`; one for `db`; one outside of the mesh.
const HOSTS: [u8; 5] = [CONTROL, CART, DETAILS, DB, OUTSIDE];
const CONTROL: u8 = 1;
const CART: u8 = 2;
const DETAILS: u8 = 3;
const DB: u8 = 4;
const OUTSIDE: u8 = 9;

/// An address that no host has: the sidecar finds the service by its name.
const NOBODY: u8 = 200;

/// A mesh of `cart` and `details`, and a host outside of it that looks like `details`. Sidecars run as root.
struct World {
    running: Vec<Running>,
    folder: TempDir,
    network: Network,
    family: Family,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// A host's address, as URLs have it.
    fn of(self, host: u8) -> String {
        match self {
            Self::V4 => format!("10.77.0.{host}"),
            Self::V6 => format!("[fd77::{host}]"),
        }
    }
}

impl World {
    fn start(family: Family, test: &str) -> Option<Self> {
        let network = Network::of(&HOSTS, test)?;
        let folder = tempfile::tempdir().unwrap();
        let mut world = Self { running: Vec::new(), folder, network, family };
        world.start_control();
        for (host, listen, port) in [(DETAILS, "127.0.0.1:9080", 9080), (OUTSIDE, "[::]:80", 80)] {
            world.serve(host, listen, port);
        }
        // The kernel may not have tracked connections before: it could take the sidecar's to policyd for one from there.
        world.install(DETAILS, LETS_IN);
        world.start_proxy(DETAILS, "details", "v1", 15001, "ports: [9080, 9081]");
        world.start_proxy(CART, "cart", "v1", 15001, "application: 127.0.0.1:1");
        world.start_proxy(CART, "cart", "v2", 15011, "application: 127.0.0.1:2\noutbound_to: allow-any");
        Some(world)
    }

    /// The application `details`, as it is outside of any mesh.
    fn serve(&mut self, host: u8, listen: &str, port: u16) {
        let program = run::tidegate(&["sample", "bookinfo", "details", "--listen", listen]);
        self.running.push(self.network.serve(host, &program, port));
    }

    fn start_control(&mut self) {
        let inbound = |host, port: u16| format!("inbound: '{}:{port}'", self.family.of(host));
        let mesh = format!(
            "trust_domain: shop.example\nservices:\n  cart:\n    namespace: shop\n    instances:\n      - {{version: v1, endpoint: '127.0.0.1:1', {}}}\n      - {{version: v2, endpoint: '127.0.0.1:2', {}}}\n  details:\n    namespace: shop\n    instances:\n      - {{version: v1, endpoint: '127.0.0.1:9080', {}}}\n  db:\n    namespace: shop\n    protocol: tcp\n    instances:\n      - {{version: v1, endpoint: '127.0.0.1:5432', {}}}\n",
            inbound(CART, 9070),
            inbound(CART, 9071),
            inbound(DETAILS, 9080),
            inbound(DB, 5432),
        );
        std::fs::create_dir(self.path("bundle")).unwrap();
        self.write("bundle/mesh.yaml", &mesh);
        let acl = "permit (principal == Workload::\"spiffe://shop.example/ns/shop/sa/cart\", \
            action == Action::\"http\", resource) when { context.path like \"/details/*\" };\n\
            @id(\"cart-stores\") permit (principal == Workload::\"spiffe://shop.example/ns/shop/sa/cart\", \
            action == Action::\"tcp\", resource == Service::\"db\") when { context.destination_port == 5432 };";
        self.write("bundle/acl.cedar", acl);
        let state = self.path("ca");
        self.write(
            "ca.yaml",
            &format!("trust_domain: shop.example\nstate_dir: {state}\nlisten: 10.77.0.1:7000\n"),
        );
        self.start_daemon(CONTROL, "ca", "ca.yaml", "the CA serves");
        self.token("tidegate/sa/policyd", "policyd");
        let policyd = "bundle: bundle\nlisten: 10.77.0.1:7001\nadmin: 127.0.0.1:7101\ntrust_domain: shop.example\nca: 10.77.0.1:7000\n\
            trust_bundle: ca/bundle.pem\njoin_token_file: policyd.token\n";
        self.write("policyd.yaml", policyd);
        self.start_daemon(CONTROL, "policyd", "policyd.yaml", "policyd serves");
    }

    fn start_proxy(&mut self, host: u8, service: &str, version: &str, port: u16, more: &str) {
        let instance = format!("{service}-{version}");
        self.token(&format!("shop/sa/{service}"), &instance);
        let inbound = port + 5;
        let config = format!(
            "instance: {instance}\nservice: {service}\ninbound: '[::]:{inbound}'\noutbound: 127.0.0.1:{port}\nintercept: true\npolicyd: 10.77.0.1:7001\nca: 10.77.0.1:7000\ntrust_domain: shop.example\ntrust_bundle: ca/bundle.pem\njoin_token_file: {instance}.token\naccess_log: {instance}.jsonl\n{more}\n"
        );
        let file = format!("{instance}.yaml");
        self.write(&file, &config);
        self.start_daemon(host, "proxy", &file, "configuration applied");
    }

    fn start_daemon(&mut self, host: u8, kind: &str, config: &str, said: &str) {
        let program = run::tidegate(&[kind, "--config", &self.path(config)]);
        self.running.push(Running::until(self.network.command(host, &program), said));
    }

    fn token(&self, account: &str, instance: &str) {
        let id = format!("spiffe://shop.example/ns/{account}");
        let made = run::run(&[
            "ca",
            "token",
            "--config",
            &self.path("ca.yaml"),
            "--id",
            &id,
            "--instance",
            instance,
        ]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self.write(&format!("{instance}.token"), std::str::from_utf8(&made.stdout).unwrap());
    }

    fn path(&self, file: &str) -> String {
        self.folder.path().join(file).to_str().unwrap().to_owned()
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.folder.path().join(file), text).unwrap();
    }

    /// Runs `tidegate net …` on a host: its exit code, and what it said.
    fn net(&self, host: u8, arguments: &str) -> (Option<i32>, String) {
        let program = run::tidegate(&[&["net"], &arguments.split(' ').collect::<Vec<_>>()[..]].concat());
        let output = self.network.command(host, &program).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }

    fn install(&self, host: u8, arguments: &str) {
        let (code, said) = self.net(host, &format!("install {arguments}"));
        assert_eq!(code, Some(0), "{arguments}: {said}");
    }

    /// The status and the body that curl gets on a host as an ordinary user, who knows where `details` is from
    /// /etc/hosts alone; the status is 000 if there was no answer.
    fn curl(&self, host: u8, url: &str) -> (String, String) {
        self.curl_as("setpriv --reuid 20001 --clear-groups ", host, url)
    }

    fn curl_as(&self, user: &str, host: u8, url: &str) -> (String, String) {
        let address = self.family.of(NOBODY);
        self.write("hosts", &format!("{} details\n", address.trim_matches(['[', ']'])));
        let line = format!(
            "mount --bind {} /etc/hosts; {user}curl -gsk --max-time 20 -w ' %{{http_code}}' {url} || true",
            self.path("hosts")
        );
        let said = self.network.says(host, &line);
        let (body, status) = said.rsplit_once(' ').unwrap();
        (status.to_owned(), body.to_owned())
    }

    /// The lines of an instance's access log, once there are `count`.
    fn access_log(&self, instance: &str, count: usize) -> Vec<Value> {
        loop {
            let text = std::fs::read_to_string(Path::new(&self.path(&format!("{instance}.jsonl")))).unwrap();
            if text.matches('\n').count() >= count {
                return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            }
            std::thread::yield_now();
        }
    }

    /// The error code in the body of a refusal.
    fn refusal(&self, host: u8, url: &str) -> (String, String) {
        let (status, body) = self.curl(host, url);
        // What is no refusal has no error.
        let json: Value = serde_json::from_str(&body).unwrap_or_default();
        (status, json["error"].as_str().unwrap_or(&body).to_owned())
    }
}

const CALLS_OUT: &str = "--uid 0 --outbound 15001";
const LETS_IN: &str = "--uid 0 --inbound 15006";

fn applications_need_no_configuration(family: Family, test: &str) {
    let Some(world) = World::start(family, test) else { return };
    let at = |host| family.of(host);
    let ok = || "200".to_owned();
    assert_eq!(world.curl(CART, "http://details:9080/details/0").0, "000", "nothing is redirected yet");
    world.install(CART, CALLS_OUT);

    // By its name, and by its address: mutual TLS between the sidecars, and a decision.
    for url in ["http://details:9080/details/0".to_owned(), format!("http://{}:9080/details/0", at(DETAILS))]
    {
        let (status, body) = world.curl(CART, &url);
        assert_eq!((status, body.contains("ISBN-10")), (ok(), true), "{url}: {body}");
    }
    assert_eq!(world.refusal(CART, "http://details/health"), ("403".into(), "denied".into()));
    let let_in = world.access_log("details-v1", 3);
    assert_eq!(let_in.len(), 3);
    for line in &let_in {
        assert_eq!(line["principal"], "spiffe://shop.example/ns/shop/sa/cart", "{line}");
        assert_eq!(line["direction"], "inbound");
    }
    assert_eq!(let_in[0]["upstream_address"], "127.0.0.1:9080", "the port that was meant");

    // Who has no identity is not let in.
    let plain = format!("http://{}:9080/details/0", at(DETAILS));
    assert_eq!(world.curl(OUTSIDE, &plain).0, "000");
    assert_eq!(world.curl_as("", CART, &plain).0, "000", "the sidecar's user is not redirected");
    assert_eq!(world.access_log("details-v1", 3).len(), 3);

    // What lies outside of the mesh.
    let outside = format!("http://{}/details/0", at(OUTSIDE));
    assert_eq!(world.refusal(CART, &outside), ("404".into(), "no_such_service".into()));
    assert_eq!(world.curl_as("", CART, &outside).0, ok(), "the sidecar's user is not redirected");
    for exclusion in [
        format!("--exclude-to {}", at(OUTSIDE).trim_matches(['[', ']'])),
        "--exclude-ports 80".to_owned(),
        "--ports 9080".to_owned(),
    ] {
        world.install(CART, &format!("{CALLS_OUT} {exclusion}"));
        assert_eq!(world.curl(CART, &outside).0, ok(), "{exclusion}");
        assert_eq!(world.curl(CART, "http://details:9080/details/0").0, ok(), "{exclusion}");
    }
    world.install(CART, "--uid 0 --outbound 15011");
    assert_eq!(world.curl(CART, &outside).0, ok());
    assert_eq!(world.curl(CART, "http://details:9080/details/0").0, ok());
    let passed = world.access_log("cart-v2", 2);
    assert_eq!((&passed[0]["service"], &passed[1]["service"]), (&"outside".into(), &"details".into()));
    let http2 = "--http2-prior-knowledge http://details:9080/details/0";
    assert_eq!(world.curl(CART, http2).0, ok(), "HTTP/2 to the sidecar, HTTP/1.1 to the application");
    let own = format!("http://{}:15016/", at(CART));
    assert_eq!(world.curl(CART, &own).0, "000", "what stays on this host is not redirected");
}

#[test]
fn applications_need_no_configuration_over_ipv4() {
    applications_need_no_configuration(Family::V4, "applications_need_no_configuration_over_ipv4");
}

#[test]
fn applications_need_no_configuration_over_ipv6() {
    applications_need_no_configuration(Family::V6, "applications_need_no_configuration_over_ipv6");
}

#[test]
fn what_is_not_http_passes_and_what_comes_back_is_stopped() {
    let name = "what_is_not_http_passes_and_what_comes_back_is_stopped";
    let Some(mut world) = World::start(Family::V4, name) else { return };
    let (outside, tls) = ("http://10.77.0.9/details/0", "https://10.77.0.1:7000/");
    world.install(CART, "--uid 0 --outbound 15011");
    let status = world.curl(CART, tls).0;
    assert_ne!(status, "000", "the CA speaks TLS, and is outside of the mesh");
    assert_eq!(world.access_log("cart-v2", 0), Vec::<Value>::new(), "it was not taken for HTTP");

    // The rules take another user for the sidecar's, so what it sends comes back.
    world.install(CART, "--uid 4242 --outbound 15011");
    assert_eq!(world.refusal(CART, outside), ("508".into(), "loop".into()));
    assert_eq!(world.curl(CART, tls).0, "000");

    // Ports of the application that are not for the mesh, and sources that are left alone.
    world.install(CART, CALLS_OUT);
    world.install(DETAILS, &format!("{LETS_IN} --exclude-from 10.77.0.9 --exclude-inbound-ports 9082"));
    world.serve(DETAILS, "10.77.0.3:9082", 9082);
    world.serve(DETAILS, "10.77.0.3:9083", 9083);
    let url = |port: u16| format!("http://10.77.0.3:{port}/details/0");
    assert_eq!(world.curl_as("", CART, &url(9082)).0, "200", "an excluded port");
    assert_eq!(world.curl_as("", CART, &url(9083)).0, "000", "redirected, and without an identity");
    assert_eq!(world.curl(OUTSIDE, &url(9083)).0, "200", "an excluded source");
    assert_eq!(world.refusal(CART, &url(9083)), ("404".into(), "no_such_service".into()));
}

#[test]
fn rules_are_replaced_whole_and_removed_whole() {
    let name = "rules_are_replaced_whole_and_removed_whole";
    let Some(network) = Network::of(&[CART], name) else { return };
    let net = |arguments: &str| {
        let program = run::tidegate(&[&["net"], &arguments.split(' ').collect::<Vec<_>>()[..]].concat());
        let output = network.command(CART, &program).output().unwrap();
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let rules = || network.says(CART, "nft list ruleset");
    network.says(
        CART,
        "nft 'add table ip theirs; add chain ip theirs c { type filter hook input priority 0; }'",
    );
    let before = rules();
    assert_eq!(net("show"), (Some(1), "nothing is redirected\n".to_owned()));
    assert_eq!(net("remove").0, Some(0), "it is no error that nothing is there");

    let install =
        "install --uid 1337 --outbound 15001 --exclude-to 10.9.0.0/16,10.9.1.0/24,fd00::/8 --inbound 15006";
    let (code, said) = net(install);
    assert_eq!(code, Some(0), "{said}");
    let installed = rules();
    assert_ne!(installed, before);
    assert_eq!(net(install).0, Some(0));
    assert_eq!(rules(), installed);
    let shown = "outbound  to port 15001: TCP to ports 1-65535; nothing to 10.9.0.0/16, fd00::/8\n\
        inbound   to port 15006: TCP to ports 1-65535, but 22\n\
        never     what users 1337 send, what stays on this host\n";
    assert_eq!(net("show"), (Some(0), shown.to_owned()));
    let json: Value = serde_json::from_str(&net("show --format json").1).unwrap();
    assert_eq!((&json["installed"], &json["users"]), (&true.into(), &serde_json::json!([1337])));

    network.says(CART, "nft flush chain inet tidegate inbound");
    let (code, said) = net("show");
    assert_eq!(code, Some(2));
    assert!(said.contains("the chain `inbound` redirects nothing"), "{said}");
    assert_eq!(net(install).0, Some(0));
    assert_eq!(rules(), installed);
    assert_eq!(net("remove").0, Some(0));
    assert_eq!(rules(), before);

    let program = run::tidegate(&["net", "show"]);
    let mut user = std::process::Command::new("setpriv");
    user.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"])
        .arg(program.get_program())
        .args(program.get_args());
    let output = network.command(CART, &user).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("CAP_NET_ADMIN"));
}
