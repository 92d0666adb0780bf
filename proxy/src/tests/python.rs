//! Python's HTTP libraries as callers and as applications: httpx, aiohttp and websockets.

use std::net::SocketAddr;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::clients::{PYTHON, output, skip};
use super::http1::ingress;
use super::setting::*;

/// Tells at which port it listens, and what it was sent.
const AIOHTTP_SERVER: &str = r#"
import asyncio, sys
from aiohttp import web

async def echo(request):
    body = await request.read()
    return web.json_response({
        "line": f"{request.method} {request.raw_path}", "length": len(body),
        "cookies": dict(request.cookies), "for": request.headers.get("x-forwarded-for"),
    })

async def stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    async for data in request.content.iter_any():
        await response.write(data)
    return response

async def main():
    app = web.Application(client_max_size=10_000_000)
    app.router.add_post("/stream", stream)
    app.router.add_route("*", "/{rest:.*}", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"#;

const HTTPX: &str = r#"
import sys, httpx

def parts():
    for number in range(4):
        yield bytes([65 + number]) * 50_000

for http2 in (False, True):
    with httpx.Client(base_url=sys.argv[1], headers={"host": "shop"}, http1=not http2, http2=http2, timeout=20) as client:
        got = client.get("/a/../b", params={"x": "ä b"}, cookies={"c": "1"})
        told = got.json()
        print(got.http_version, got.status_code, told["line"], told["cookies"], told["for"])
        print(client.put("/put", content=b"x" * 300_000).json()["length"])
        with client.stream("POST", "/stream", content=parts()) as answer:
            body = b"".join(answer.iter_bytes())
        print(len(body), body == b"".join(parts()))
        print(client.head("/").status_code, client.options("/o").json()["line"])
        print(sum(client.get(f"/{number}").status_code == 200 for number in range(50)))
        print(client.get("/a%2Fb").status_code)
"#;

const AIOHTTP: &str = r#"
import asyncio, sys, aiohttp

async def parts():
    for number in range(4):
        yield bytes([65 + number]) * 50_000
        await asyncio.sleep(0)

async def main():
    async with aiohttp.ClientSession(headers={"host": "shop"}) as session:
        async def length(number):
            async with session.post(f"{sys.argv[1]}/{number}", data=b"x" * number) as answer:
                return (await answer.json())["length"]
        lengths = await asyncio.gather(*(length(number) for number in range(0, 40_000, 1000)))
        print(lengths == list(range(0, 40_000, 1000)))
        async with session.post(f"{sys.argv[1]}/stream", data=parts()) as answer:
            print(answer.status, len(await answer.read()))
        async with session.get(f"{sys.argv[1]}/x", expect100=True, data=b"asked for") as answer:
            print((await answer.json())["length"])

asyncio.run(main())
"#;

const WEBSOCKETS_SERVER: &str = r#"
import asyncio, sys, websockets

async def echo(socket, path=None):
    async for message in socket:
        if message == "close":
            return await socket.close(4001, "as asked")
        else:
            await socket.send(message)

async def main():
    async with websockets.serve(echo, "127.0.0.1", 0, subprotocols=["echo"]) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"#;

const WEBSOCKETS: &str = r#"
import asyncio, sys, websockets

async def main():
    async with websockets.connect(sys.argv[1] + "/chat", subprotocols=["echo"], max_size=None) as socket:
        print(socket.subprotocol)
        for message in ("hello", b"\x00" * 900_000, "ä" * 1000):
            await socket.send(message)
            print(await socket.recv() == message)
        await asyncio.wait_for(await socket.ping(), 20)
        await socket.send("close")
        try:
            await socket.recv()
        except websockets.ConnectionClosed as closed:
            print(closed.code, closed.reason)

asyncio.run(main())
"#;

/// Whether Debian's Python has these modules.
async fn has(test: &str, modules: &[&str]) -> bool {
    for module in modules {
        let import = format!("import {module}");
        let ran = Command::new(PYTHON).args(["-c", &import]).stderr(Stdio::null()).status().await;
        if !ran.is_ok_and(|status| status.success()) {
            skip(test, &format!("python3-{module}"));
            return false;
        }
    }
    true
}

/// Starts a server that tells its port.
async fn serve(script: &str) -> (Child, SocketAddr) {
    let mut command = Command::new(PYTHON);
    command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut server = command.spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let port: u16 = lines.next_line().await.unwrap().expect("a port").parse().unwrap();
    (server, SocketAddr::from(([127, 0, 0, 1], port)))
}

#[tokio::test]
async fn httpx_and_aiohttp_pass_two_sidecars() {
    const TEST: &str = "httpx_and_aiohttp_pass_two_sidecars";
    if !has(TEST, &["httpx", "h2", "aiohttp"]).await {
        return;
    }
    let (_server, application) = serve(AIOHTTP_SERVER).await;
    let setting = Setting::new().await;
    let shop = setting.proxy("shop", application).await;
    let cart = setting.proxy("cart", SocketAddr::from(([127, 0, 0, 1], 1))).await;
    let endpoints = [("shop-v1", shop.addresses.inbound)];
    setting.policyd.change(|config| config.services = vec![service("shop", &endpoints)]).await;
    cart.current().when(|applied| !applied.config.mesh.services[0].endpoints.is_empty()).await;
    for (address, hops) in [(ingress(&shop), "127.0.0.1"), (cart.addresses.outbound, "127.0.0.1")] {
        let url = format!("http://{address}");
        let told = output(TEST, PYTHON, &["-c", HTTPX, &url]).await.unwrap();
        let of = |version: &str| {
            format!(
                "{version} 200 GET /b?x=%C3%A4%20b {{'c': '1'}} {hops}\n300000\n200000 True\n200 OPTIONS /o\n50\n400\n"
            )
        };
        let normal = told.replace("x=%C3%A4+b", "x=%C3%A4%20b");
        assert_eq!(normal, format!("{}{}", of("HTTP/1.1"), of("HTTP/2")), "at {address}");
        let told = output(TEST, PYTHON, &["-c", AIOHTTP, &url]).await.unwrap();
        assert_eq!(told, "True\n200 200000\n9\n", "at {address}");
    }
}

#[tokio::test]
async fn websockets_are_passed_in_both_directions() {
    const TEST: &str = "websockets_are_passed_in_both_directions";
    if !has(TEST, &["websockets"]).await {
        return;
    }
    let (_server, application) = serve(WEBSOCKETS_SERVER).await;
    let setting = Setting::new().await;
    let shop = setting.proxy("shop", application).await;
    let told = output(TEST, PYTHON, &["-c", WEBSOCKETS, &format!("ws://{}", ingress(&shop))]).await.unwrap();
    assert_eq!(told, "echo\nTrue\nTrue\nTrue\n4001 as asked\n");
}
