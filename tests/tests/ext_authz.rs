//! Envoy with the example in `policies/envoy/`: it asks policyd about each request, by gRPC or by plain HTTP.
#![cfg(test)]

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use model::SpiffeId;
use policyd::config::Door;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate_tests::envoy::{self, Running};
use tidegate_tests::repository::root;
use tidegate_tests::{World, echo, program};
use tokio::process::Command;

/// The world of one test.
struct Shop {
    world: World,
    envoy: Running,
    curl: PathBuf,
    folder: TempDir,
}

/// What curl got.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://shop.example/ns/shop/sa/{account}").parse().unwrap()
}

/// Where Envoys ask: a socket in the test's folder.
fn door() -> policyd::config::Envoy {
    policyd::config::Envoy {
        listen: None,
        socket: None,
        gateways: Vec::new(),
        service_by_host: false,
        path_prefix: Some("/ext_authz".to_owned()),
    }
}

impl Shop {
    /// Starts all of it with the Envoy of `file`, whose text `edit` changes; none without the programs.
    async fn open(test: &str, file: &str, edit: impl Fn(String) -> String) -> Result<Option<Self>> {
        Self::with_bundle(test, file, |_| (), edit).await
    }

    async fn with_bundle(
        test: &str,
        file: &str,
        bundle: impl FnOnce(&Path),
        edit: impl Fn(String) -> String,
    ) -> Result<Option<Self>> {
        Self::start(test, file, (door(), bundle), edit).await
    }

    async fn start(
        test: &str,
        file: &str,
        (door, bundle): (policyd::config::Envoy, impl FnOnce(&Path)),
        edit: impl Fn(String) -> String,
    ) -> Result<Option<Self>> {
        let (Some(binary), Some(curl)) = (program::find("envoy", test), program::find("curl", test)) else {
            return Ok(None);
        };
        let world = World::behind_envoy(bundle).await?;
        let folder = TempDir::new()?;
        // No port that others could take while policyd starts again.
        let socket = folder.path().join("policyd.sock");
        let door = policyd::config::Envoy { socket: Some(socket.clone()), ..door };
        let doors = ::envoy::bind(door).await?;
        let policyd = match doors.address() {
            Some(address) => {
                json!({"socket_address": {"address": "127.0.0.1", "port_value": address.port()}})
            }
            None => json!({"pipe": {"path": socket}}),
        };
        doors.open(&world.mesh.policyd, world.clock.clone());
        let application = echo::start().await?;
        envoy::attest(&world, &id("edge"), &folder.path().join("certs")).await?;
        let text = edit(std::fs::read_to_string(root().join("policies/envoy/envoy").join(file))?);
        let port = |text: String, port: u16, with: u16| {
            text.replace(&format!("port_value: {port}"), &format!("port_value: {with}"))
        };
        let text = [9901, 8080, 8443].into_iter().fold(text, |text, fixed| port(text, fixed, 0));
        let text = port(text, 9080, application.port());
        let text = text
            .replace("{socket_address: {address: 127.0.0.1, port_value: 9001}}", &policyd.to_string())
            .replace("/etc/envoy/certs", &folder.path().join("certs").display().to_string())
            .replace("/dev/stdout", &folder.path().join("access.log").display().to_string());
        let envoy = Running::start(&binary, &text, folder.path()).await?;
        Ok(Some(Self { world, envoy, curl, folder }))
    }

    /// Starts policyd again, as its supervisor would.
    async fn restart_policyd(&mut self) -> Result<()> {
        self.world.restart_policyd().await?;
        let socket = Some(self.folder.path().join("policyd.sock"));
        let doors = ::envoy::bind(policyd::config::Envoy { socket, ..door() }).await?;
        doors.open(&self.world.mesh.policyd, self.world.clock.clone());
        Ok(())
    }

    /// Runs curl on `path` of the listener called `listener`.
    async fn curl(&self, listener: &str, path: &str, arguments: &[&str]) -> Result<Answer> {
        let address = self.envoy.listener(listener).with_context(|| format!("no listener `{listener}`"))?;
        let scheme = if listener == "mesh" { "https" } else { "http" };
        let output = Command::new(&self.curl)
            .args(["--silent", "--show-error", "--include", "--insecure", "--path-as-is", "--max-time", "20"])
            .args(arguments)
            // Of two curl sends the first.
            .args(["--header", "host: shop.example"])
            .arg(format!("{scheme}://{address}{path}"))
            .output()
            .await?;
        ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout)?;
        let (head, body) = text.split_once("\r\n\r\n").context("no head")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
    }

    /// The same with the certificate of `account`.
    async fn curl_as(&self, account: &str, path: &str, arguments: &[&str]) -> Result<Answer> {
        let folder = self.folder.path().join(account);
        if !folder.exists() {
            envoy::attest(&self.world, &id(account), &folder).await?;
        }
        let file = |name: &str| folder.join(name).display().to_string();
        let (chain, key) = (file("chain.pem"), file("key.pem"));
        let all: Vec<&str> =
            ["--cert", &chain, "--key", &key].into_iter().chain(arguments.iter().copied()).collect();
        self.curl("mesh", path, &all).await
    }

    /// The line of the access log about the request to `path`.
    async fn logged(&mut self, path: &str) -> Result<Value> {
        // Envoy writes its log out at the latest when it ends.
        self.envoy.quit(&self.world.client).await?;
        let text = std::fs::read_to_string(self.folder.path().join("access.log"))?;
        let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let line = lines.into_iter().rfind(|line| line["path"] == path);
        line.with_context(|| format!("no line about {path}: {text}"))
    }
}

const GRPC: [&str; 10] = [
    "--http2-prior-knowledge",
    "--request",
    "POST",
    "--header",
    "content-type: application/grpc",
    "--header",
    "te: trailers",
    "--header",
    "host: stock.example",
    "--data-binary",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_pass_or_are_denied_as_by_a_sidecar() -> Result<()> {
    let test = "requests_pass_or_are_denied_as_by_a_sidecar";
    let Some(mut shop) = Shop::open(test, "grpc.yaml", |text| text).await? else { return Ok(()) };
    let forged =
        ["--header", "x-tidegate-policy: mine", "--header", "X-Tidegate-Any: 1", "--header", "x-mine: 1"];
    let passed = shop.curl("outside", "/catalogue/7?a=b", &forged).await?;
    assert_eq!(passed.status, 200, "{passed:?}");
    let got = passed.json();
    assert_eq!(got["target"], "/catalogue/7?a=b");
    assert_eq!(got["headers"]["x-mine"], json!(["1"]));
    for own in ["x-tidegate-policy", "x-tidegate-any"] {
        assert_eq!(got["headers"][own], Value::Null, "a stranger speaks for us: {got}");
    }

    let denied = shop.curl("outside", "/catalogue/internal/prices", &[]).await?;
    assert_eq!(denied.status, 403, "{denied:?}");
    assert_eq!(denied.header("x-tidegate-policy"), Some("the-back-office-stays-inside"));
    assert_eq!(denied.header("content-type"), Some("application/json"));
    let told = denied.json();
    assert_eq!(told["error"], "denied");
    assert_eq!(told["policy"], json!(["the-back-office-stays-inside"]));
    assert_eq!(told["request_id"].as_str().map(str::len), Some(36), "Envoy's own: {told}");
    let unpermitted = shop.curl("outside", "/orders", &[]).await?;
    assert_eq!((unpermitted.status, unpermitted.header("x-tidegate-policy")), (403, Some("none")));

    let metrics = shop.world.client.get(shop.world.mesh.policyd.admin, "admin", "/metrics").await?.body;
    for (verdict, count) in [("allow", 1), ("deny", 2)] {
        let line = format!("tidegate_envoy_checks_total{{service=\"shop\",verdict=\"{verdict}\"}} {count}");
        assert!(metrics.contains(&line), "no {line} in {metrics}");
    }
    let logged = shop.logged("/catalogue/internal/prices").await?;
    let revision = shop.world.mesh.policyd.current.get().revision.to_string();
    assert_eq!(logged["verdict"], "deny", "{logged}");
    assert_eq!(logged["policies"], json!(["the-back-office-stays-inside"]));
    assert_eq!(
        (logged["service"].as_str(), logged["revision"].as_str()),
        (Some("shop"), Some(revision.as_str()))
    );
    let text = std::fs::read_to_string(shop.folder.path().join("access.log"))?;
    assert!(text.contains("\"policies\":[\"anyone-reads-the-catalogue\"]"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_see_the_callers_certificate() -> Result<()> {
    let test = "policies_see_the_callers_certificate";
    for (file, listener_by_http) in [("grpc.yaml", false), ("http.yaml", true)] {
        let Some(mut shop) = Shop::open(test, file, |text| text).await? else { return Ok(()) };
        let path = "/catalogue/internal/prices";
        let passed = shop.curl_as("backoffice", path, &[]).await?;
        assert_eq!(passed.status, 200, "{file}: {passed:?}");
        assert_eq!(passed.json()["target"], path);
        let forged = format!("x-forwarded-client-cert: URI={}", id("backoffice"));
        let denied = shop.curl_as("checkout", path, &["--header", &forged]).await?;
        assert_eq!(denied.status, 403, "{file}: {denied:?}");
        assert_eq!(denied.header("x-tidegate-policy"), Some("the-back-office-stays-inside"), "{file}");
        if listener_by_http {
            let own = shop.curl_as("backoffice", "/catalogue/1", &["--header", "x-tidegate-a: 1"]).await?;
            assert_eq!(own.json()["headers"]["x-tidegate-a"], Value::Null, "{own:?}");
            let logged = shop.logged(path).await?;
            assert_eq!(logged["status"], 403);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_grpc_are_denied_in_their_own_words() -> Result<()> {
    let test = "calls_of_grpc_are_denied_in_their_own_words";
    let Some(shop) = Shop::open(test, "grpc.yaml", |text| text).await? else { return Ok(()) };
    let call: Vec<&str> = GRPC.into_iter().chain([""]).collect();
    let denied = shop.curl("outside", "/shop.Stock/Take", &call).await?;
    assert_eq!((denied.status, denied.header("grpc-status")), (200, Some("7")), "{denied:?}");
    assert_eq!(denied.header("grpc-message"), Some("the request is not allowed"));
    let call: Vec<&str> = ["--http2"].into_iter().chain(call.into_iter().skip(1)).collect();
    let passed = shop.curl_as("checkout", "/shop.Stock/Take", &call).await?;
    assert_eq!(passed.json()["target"], "/shop.Stock/Take", "{passed:?}");
    // As an HTTP request it is not permitted, whatever its path.
    let plain = shop.curl_as("checkout", "/shop.Stock/Take", &["--header", "host: stock.example"]).await?;
    assert_eq!(plain.status, 403, "{plain:?}");
    Ok(())
}

/// Ways to write paths, and what comes of each: the target that the service gets, or a refusal.
const TRICKS: [(&str, Result<&str, u16>); 12] = [
    ("/catalogue/a//b", Ok("/catalogue/a/b")),
    ("/orders/../catalogue/7", Ok("/catalogue/7")),
    ("/catalogue/./7", Ok("/catalogue/7")),
    ("/catalogue/caf%C3%A9", Ok("/catalogue/caf%C3%A9")),
    ("/catalogue/caf%c3%a9", Ok("/catalogue/caf%c3%a9")),
    ("/catalogue/../orders", Err(403)),
    ("/catalogue/x/..//internal/prices", Err(403)),
    ("/catalogue//internal/prices", Err(403)),
    ("/catalogue/%2e%2e/orders", Err(403)),
    ("/catalogue%2Finternal/prices", Err(400)),
    ("/catalogue/%69nternal/prices", Err(403)),
    ("/catalogue/\\internal/x", Err(403)),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_decided_on_is_what_goes_on() -> Result<()> {
    let test = "what_is_decided_on_is_what_goes_on";
    let Some(shop) = Shop::open(test, "grpc.yaml", |text| text).await? else { return Ok(()) };
    for (path, expected) in TRICKS {
        let answer = shop.curl("outside", path, &[]).await?;
        match expected {
            Ok(target) => assert_eq!(answer.json()["target"], target, "{path}: {answer:?}"),
            Err(status) => assert_eq!(answer.status, status, "{path}: {answer:?}"),
        }
    }
    // Where Envoy passes paths on as they came, nothing that could be read in two ways passes.
    let careless = |text: String| {
        text.replace("normalize_path: true", "normalize_path: false")
            .replace("merge_slashes: true", "merge_slashes: false")
            .replace(
                "path_with_escaped_slashes_action: REJECT_REQUEST",
                "path_with_escaped_slashes_action: KEEP_UNCHANGED",
            )
    };
    let Some(shop) = Shop::open(test, "grpc.yaml", careless).await? else { return Ok(()) };
    for (path, expected) in TRICKS {
        let answer = shop.curl("outside", path, &[]).await?;
        match expected {
            Ok(target) if target == path => assert_eq!(answer.json()["target"], target, "{path}: {answer:?}"),
            _ => assert_eq!(answer.status, 400, "{path}: {answer:?}"),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_passes_while_policyd_is_away_and_all_is_well_once_it_is_back() -> Result<()> {
    let test = "nothing_passes_while_policyd_is_away_and_all_is_well_once_it_is_back";
    let Some(mut shop) = Shop::open(test, "grpc.yaml", |text| text).await? else { return Ok(()) };
    assert_eq!(shop.curl("outside", "/catalogue/1", &[]).await?.status, 200);
    shop.world.mesh.policyd.drain().await;
    let refused = shop.curl("outside", "/catalogue/1", &[]).await?;
    assert_eq!(refused.status, 503, "what `status_on_error` says: {refused:?}");
    assert_eq!(shop.curl("outside", "/orders", &[]).await?.status, 503);
    shop.restart_policyd().await?;
    // Envoy connects for each question while it is not connected.
    assert_eq!(shop.curl("outside", "/catalogue/1", &[]).await?.status, 200);
    assert_eq!(shop.curl("outside", "/orders", &[]).await?.status, 403);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_policyd_starts_again_under_traffic_nothing_passes_that_may_not() -> Result<()> {
    let test = "while_policyd_starts_again_under_traffic_nothing_passes_that_may_not";
    let Some(mut shop) = Shop::open(test, "grpc.yaml", |text| text).await? else { return Ok(()) };
    let edge = shop.envoy.listener("outside").context("no listener")?;
    let client = shop.world.client.clone();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let callers: Vec<_> = ["/catalogue/1", "/catalogue/internal/1"]
        .map(|path| {
            let (client, stopped) = (client.clone(), stopped.clone());
            tokio::spawn(async move {
                let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
                while !*stopped.borrow() {
                    let answer = client.get(edge, "shop.example", path).await?;
                    *statuses.entry(answer.status.as_u16()).or_default() += 1;
                }
                anyhow::Ok(statuses)
            })
        })
        .into();
    for _ in 0..3 {
        shop.restart_policyd().await?;
        assert_eq!(shop.curl("outside", "/catalogue/1", &[]).await?.status, 200);
    }
    stop.send_replace(true);
    let mut all = Vec::new();
    for caller in callers {
        all.push(caller.await??);
    }
    let [may, may_not] = all.as_slice() else { panic!("{all:?}") };
    assert!(may.contains_key(&200) && may.keys().all(|status| [200, 503].contains(status)), "{may:?}");
    assert!(
        may_not.contains_key(&403) && may_not.keys().all(|status| [403, 503].contains(status)),
        "{may_not:?}"
    );
    Ok(())
}

/// A bundle that only observes its services.
fn observing(folder: &Path) {
    let file = folder.join("mesh.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        file,
        text.replace("    namespace: shop\n", "    namespace: shop\n    enforcement: observe\n"),
    )
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_only_observed_passes_and_is_told() -> Result<()> {
    let test = "what_is_only_observed_passes_and_is_told";
    let Some(mut shop) = Shop::with_bundle(test, "grpc.yaml", observing, |text| text).await? else {
        return Ok(());
    };
    let passed = shop.curl("outside", "/catalogue/internal/1", &["--header", "x-tidegate-a: 1"]).await?;
    assert_eq!((passed.status, passed.header("x-tidegate-policy")), (200, None), "{passed:?}");
    assert_eq!(passed.json()["headers"]["x-tidegate-a"], Value::Null);
    let logged = shop.logged("/catalogue/internal/1").await?;
    assert_eq!(
        (logged["verdict"].as_str(), logged["status"].as_u64()),
        (Some("deny"), Some(200)),
        "{logged}"
    );
    Ok(())
}

/// The sort of text that Envoy's configuration names a token's keys by.
fn with_jwt(text: &str, jwks: &str) -> String {
    let filter = json!({"name": "envoy.filters.http.jwt_authn", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"accounts": {
            "issuer": "https://accounts.shop.example",
            "audiences": ["shop"],
            "local_jwks": {"inline_string": jwks},
            "forward": true,
            "payload_in_metadata": "accounts",
        }},
        "rules": [{"match": {"prefix": "/"}, "requires": {"requires_any": {"requirements": [
            {"provider_name": "accounts"}, {"allow_missing": {}},
        ]}}}],
    }});
    let first = "                http_filters:\n";
    text.replacen(first, &format!("{first}                  - {filter}\n"), 1).replacen(
        "                      encode_raw_headers: true\n",
        "                      encode_raw_headers: true\n                      metadata_context_namespaces: [envoy.filters.http.jwt_authn]\n",
        1,
    )
}

/// The first block of docs/end-users.md that begins so, without that line.
fn documented(begin: &str) -> String {
    let text = std::fs::read_to_string(root().join("docs/end-users.md")).unwrap();
    let block = text.split("```").skip(1).step_by(2).find_map(|block| block.strip_prefix(begin)).unwrap();
    block.trim().to_owned()
}

/// The example's bundle, with end users who may read their orders.
fn with_users(folder: &Path) {
    let edit = |name: &str, change: &dyn Fn(String) -> String| {
        let file = folder.join(name);
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        std::fs::write(file, change(text)).unwrap();
    };
    edit("mesh.yaml", &|text| {
        let jwt = "jwt:\n  accounts:\n    issuer: https://accounts.shop.example\n    audiences: [shop]\n    jwks: {file: accounts.jwks.json}\n\nservices:\n";
        text.replace("services:\n", jwt).replacen(
            "    namespace: shop\n",
            "    namespace: shop\n    jwt: [accounts]\n",
            1,
        )
    });
    edit("accounts.jwks.json", &|_| documented("json title=accounts.jwks.json\n"));
    edit("acl.cedar", &|text| {
        let policy = "@id(\"staff-reads-orders\") permit (principal, action == Action::\"http\", resource == Service::\"shop\")\n\
             when { context.path like \"/orders/*\" && context.claims has groups && context.claims.groups == \"staff\" };\n";
        format!("{text}\n{policy}")
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn end_users_are_those_whose_tokens_envoy_has_verified() -> Result<()> {
    let test = "end_users_are_those_whose_tokens_envoy_has_verified";
    let tokens = documented("sh\n");
    let token = |name: &str| {
        let line = tokens.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap();
        format!("authorization: Bearer {line}")
    };
    let (ann, bob) = (token("ann"), token("bob"));
    let jwks = documented("json title=accounts.jwks.json\n");
    let verifying = |text: String| with_jwt(&text, &jwks);
    let Some(shop) = Shop::with_bundle(test, "grpc.yaml", with_users, verifying).await? else {
        return Ok(());
    };
    let passed = shop.curl("outside", "/orders/1", &["--header", &ann]).await?;
    assert_eq!(passed.status, 200, "{passed:?}");
    for (name, headers) in [("bob", vec!["--header", bob.as_str()]), ("nobody", vec![])] {
        assert_eq!(shop.curl("outside", "/orders/1", &headers).await?.status, 403, "{name}");
    }
    // Where Envoy does not verify tokens, one is no proof, and its request does not pass as nobody's either.
    let Some(shop) = Shop::with_bundle(test, "grpc.yaml", with_users, |text| text).await? else {
        return Ok(());
    };
    let refused = shop.curl("outside", "/catalogue/1", &["--header", &ann]).await?;
    assert_eq!(refused.status, 401, "{refused:?}");
    assert_eq!(refused.json()["error"], "invalid_token");
    assert!(
        refused.header("www-authenticate").is_some_and(|told| told.contains("was not verified")),
        "{refused:?}"
    );
    assert_eq!(shop.curl("outside", "/catalogue/1", &[]).await?.status, 200);
    Ok(())
}

/// Envoy's side of mutual TLS with policyd.
fn to_policyd_by_tls(text: &str) -> String {
    let file = |name: &str| json!({"filename": format!("/etc/envoy/certs/{name}")});
    let socket = json!({"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "alpn_protocols": ["h2"],
            "tls_certificates": [{"certificate_chain": file("chain.pem"), "private_key": file("key.pem")}],
            "validation_context": {
                "trusted_ca": file("roots.pem"),
                "match_typed_subject_alt_names": [{
                    "san_type": "URI",
                    "matcher": {"exact": "spiffe://shop.example/ns/tidegate/sa/policyd"},
                }],
            },
        },
    }});
    let cluster = "    - name: policyd\n";
    text.replacen(cluster, &format!("{cluster}      transport_socket: {socket}\n"), 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_asks_by_mutual_tls() -> Result<()> {
    let test = "envoy_asks_by_mutual_tls";
    for (gateways, status) in [(vec![id("edge")], 200), (Vec::new(), 503)] {
        let listen = Some((([127, 0, 0, 1], 0).into(), Door::Mutual));
        let door = policyd::config::Envoy { listen, gateways, ..door() };
        let edit = |text: String| to_policyd_by_tls(&text);
        let Some(shop) = Shop::start(test, "grpc.yaml", (door, |_: &Path| ()), edit).await? else {
            return Ok(());
        };
        let answer = shop.curl("outside", "/catalogue/1", &[]).await?;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_of_the_bundle_decides_the_next_request() -> Result<()> {
    let test = "an_edit_of_the_bundle_decides_the_next_request";
    let Some(shop) = Shop::open(test, "grpc.yaml", |text| text).await? else { return Ok(()) };
    assert_eq!(shop.curl("outside", "/catalogue/1", &[]).await?.status, 200);
    let acl = shop.world.read("acl.cedar")?;
    shop.world.write("acl.cedar", &acl.replace("/catalogue/*", "/books/*")).await?;
    assert_eq!(shop.curl("outside", "/catalogue/1", &[]).await?.status, 403);
    assert_eq!(shop.curl("outside", "/books/1", &[]).await?.status, 200);
    Ok(())
}
