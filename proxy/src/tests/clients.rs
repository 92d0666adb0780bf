//! Programs that nobody here wrote, as callers and as applications.

use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::http1::ingress;
use super::http2_upstream::shop;
use super::setting::*;

/// Debian's Python, which has gRPC if `python3-grpcio` is installed.
pub(super) const PYTHON: &str = "/usr/bin/python3";

/// Greets as often as it is asked to, and tells at which port.
const SERVER: &str = r#"
import grpc, sys, threading
from concurrent import futures

def once(request, context):
    context.set_trailing_metadata((("x-caller", dict(context.invocation_metadata()).get("user-agent", "")[:11]),))
    if request == b"late":
        threading.Event().wait(20)
    if request == b"wrong":
        context.abort(grpc.StatusCode.NOT_FOUND, "no such greeting")
    return b"hello " + request

def many(requests, context):
    for request in requests:
        yield b"hello " + request

handlers = {
    "Once": grpc.unary_unary_rpc_method_handler(once),
    "Many": grpc.stream_stream_rpc_method_handler(many),
}
server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("greet.Greeter", handlers),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
"#;

/// Calls it, and says what came of it.
const CLIENT: &str = r#"
import grpc, sys

channel = grpc.insecure_channel(sys.argv[1], (("grpc.default_authority", "shop"),))
once = channel.unary_unary("/greet.Greeter/Once")
many = channel.stream_stream("/greet.Greeter/Many")

response, call = once.with_call(b"you", timeout=20)
print(response.decode(), call.code().name, dict(call.trailing_metadata())["x-caller"])

def requests():
    for number in range(3):
        yield str(number).encode()
print([response.decode() for response in many(requests(), timeout=20)])

large = bytes(1000000)
print(len(once(large, timeout=20)))

for request, timeout in ((b"wrong", 20), (b"late", 0.2)):
    try:
        print(once(request, timeout=timeout))
    except grpc.RpcError as error:
        print(error.code().name)
"#;

/// Says that a test is skipped, past the harness, which shows what a test prints only when it fails.
pub(super) fn skip(test: &str, program: &str) {
    let line = format!("SKIPPED {test}: `{program}` is not installed; `cargo xtask test` installs it\n");
    let _told = std::io::stderr().write_all(line.as_bytes());
}

/// What a program prints; nothing if there is none.
pub(super) async fn output(test: &str, program: &str, arguments: &[&str]) -> Option<String> {
    let ran = Command::new(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output().await;
    match ran {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            skip(test, program);
            None
        }
        ran => {
            let ran = ran.unwrap();
            let told = String::from_utf8_lossy(&ran.stderr);
            assert!(ran.status.success(), "{program} failed: {told}");
            Some(String::from_utf8(ran.stdout).unwrap())
        }
    }
}

async fn has_grpc(test: &str) -> bool {
    let ran = Command::new(PYTHON).args(["-c", "import grpc"]).stderr(Stdio::null()).status().await;
    let has = ran.is_ok_and(|status| status.success());
    if !has {
        skip(test, "python3-grpcio");
    }
    has
}

#[tokio::test]
async fn curl_and_nghttp_ask_by_http2() {
    const TEST: &str = "curl_and_nghttp_ask_by_http2";
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let url = format!("http://{}/a?b", ingress(&proxy));
    let shown = "%{http_version} %{http_code}";
    let arguments = ["--silent", "--http2-prior-knowledge", "--header", "host: shop", "--data", "body"];
    let arguments = [arguments.as_slice(), &["--write-out", shown, &url]].concat();
    if let Some(text) = output(TEST, "curl", &arguments).await {
        assert_eq!(text, "shop2 200");
        let seen = application.last();
        assert_eq!((seen.line.as_str(), &seen.body[..]), ("POST /a?b", b"body".as_slice()));
    }
    if let Some(text) = output(TEST, "nghttp", &["--header=:authority: shop", "--no-dep", &url]).await {
        assert_eq!(text, "shop");
        assert_eq!(application.last().line, "GET /a?b");
    }
}

#[tokio::test]
async fn h2load_gets_as_many_answers_as_it_asks_for() {
    const TEST: &str = "h2load_gets_as_many_answers_as_it_asks_for";
    let setting = Setting::new().await;
    let (proxy, application) = setting.shop().await;
    let url = format!("http://{}/", ingress(&proxy));
    let arguments = ["-n2000", "-c4", "-m50", "--header=:authority: shop", &url];
    let Some(text) = output(TEST, "h2load", &arguments).await else { return };
    assert!(text.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
    assert!(text.contains("status codes: 2000 2xx"), "{text}");
    assert_eq!(application.count(), 2000);
}

#[tokio::test]
async fn grpc_calls_pass_between_a_client_and_a_server() {
    if !has_grpc("grpc_calls_pass_between_a_client_and_a_server").await {
        return;
    }
    let mut server = Command::new(PYTHON)
        .args(["-c", SERVER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let port: u16 = lines.next_line().await.unwrap().unwrap().parse().unwrap();
    let setting = Setting::new().await;
    let proxy = shop(&setting, SocketAddr::from(([127, 0, 0, 1], port))).await;
    let address = ingress(&proxy).to_string();
    let told = output("", PYTHON, &["-c", CLIENT, &address]).await.unwrap();
    let told: Vec<_> = told.lines().collect();
    assert_eq!(
        told,
        [
            "hello you OK grpc-python",
            "['hello 0', 'hello 1', 'hello 2']",
            "1000006",
            "NOT_FOUND",
            "DEADLINE_EXCEEDED"
        ]
    );
    // What policies deny never gets there.
    setting.policyd.decide(|_, revision| deny(revision));
    setting.policyd.change(|config| config.enforced[0].revision = config.revision).await;
    let told = output("", PYTHON, &["-c", DENIED, &address]).await.unwrap();
    assert_eq!(told, "UNAUTHENTICATED the request is not allowed\n");
}

/// Calls once, to be refused.
const DENIED: &str = r#"
import grpc, sys

channel = grpc.insecure_channel(sys.argv[1], (("grpc.default_authority", "shop"),))
try:
    print(channel.unary_unary("/greet.Greeter/Once")(b"you", timeout=20))
except grpc.RpcError as error:
    print(error.code().name, error.details())
"#;
