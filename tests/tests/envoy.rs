//! Envoy at either end of a hop, with a certificate that Tidegate's CA has given it.

#![cfg(test)]

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};
use http::StatusCode;
use model::SpiffeId;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate_tests::envoy::{self, Running};
use tidegate_tests::{World, program};
use tokio::process::Command;

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// TLS as sidecars speak it, with the certificate in `folder` and a peer that is `peer`.
fn context(folder: &Path, peer: &str, protocol: &str) -> Value {
    let file = |name: &str| json!({"filename": folder.join(name)});
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": [protocol],
        "tls_certificates": [{"certificate_chain": file("chain.pem"), "private_key": file("key.pem")}],
        "validation_context": {
            "trusted_ca": file("roots.pem"),
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": id(peer)}}],
        },
    })
}

fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// An Envoy that passes what comes to `listen` on to `upstream`, over TLS where a context is given.
struct Envoy {
    folder: TempDir,
    listen: SocketAddr,
    upstream: SocketAddr,
    server: Option<Value>,
    client: Option<Value>,
    http2: bool,
}

impl Envoy {
    fn config(&self) -> Value {
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in",
            "forward_client_cert_details": "SANITIZE_SET",
            "set_current_client_cert_details": {"uri": true},
            "route_config": {"virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}],
                // So that the caller sees whom Envoy takes it for.
                "response_headers_to_add": [
                    {"header": {"key": "x-peer", "value": "%DOWNSTREAM_PEER_URI_SAN%"}},
                    {"header": {"key": "x-protocol", "value": "%PROTOCOL%"}},
                ],
            }]},
            "http_filters": [{"name": "router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
            }}],
        });
        let mut chain = json!({"filters": [{"name": "in", "typed_config": manager}]});
        if let Some(context) = &self.server {
            chain["transport_socket"] = json!({"name": "tls", "typed_config": {
                "@type": format!("{TLS}.DownstreamTlsContext"),
                "common_tls_context": context,
                "require_client_certificate": true,
            }});
        }
        let mut cluster = json!({
            "name": "upstream",
            "type": "STATIC",
            "load_assignment": {"cluster_name": "upstream", "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": address(self.upstream)}}]},
            ]},
        });
        if let Some(context) = &self.client {
            cluster["transport_socket"] = json!({"name": "tls", "typed_config": {
                "@type": format!("{TLS}.UpstreamTlsContext"),
                "common_tls_context": context,
            }});
        }
        if self.http2 {
            let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
            cluster["typed_extension_protocol_options"] = json!({options: {
                "@type": format!("type.googleapis.com/{options}"),
                "explicit_http_config": {"http2_protocol_options": {}},
            }});
        }
        json!({
            "admin": {"address": address(([127, 0, 0, 1], 0).into())},
            "static_resources": {
                "listeners": [{"name": "in", "address": address(self.listen), "filter_chains": [chain]}],
                "clusters": [cluster],
            },
        })
    }

    /// Starts it, and says where it listens.
    async fn start(&self, binary: &Path) -> Result<(Running, SocketAddr)> {
        let running = Running::start(binary, &self.config().to_string(), self.folder.path()).await?;
        let at = running.listener("in").context("no listener")?;
        Ok((running, at))
    }
}

fn id(account: &str) -> SpiffeId {
    format!("spiffe://bookinfo.example/ns/bookinfo/sa/{account}").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_calls_a_sidecar_as_who_its_certificate_says() -> Result<()> {
    let Some(binary) = program::find("envoy", "envoy_calls_a_sidecar_as_who_its_certificate_says") else {
        return Ok(());
    };
    let world = World::bookinfo(|_| ()).await?;
    let upstream = world.mesh.sidecar("ratings-v1").context("no ratings")?.proxy.addresses.inbound;
    for (account, status) in [("reviews", StatusCode::OK), ("details", StatusCode::FORBIDDEN)] {
        for (protocol, http2) in [("http/1.1", false), ("h2", true)] {
            let folder = TempDir::new()?;
            envoy::attest(&world, &id(account), folder.path()).await?;
            let client = Some(context(folder.path(), "ratings", protocol));
            let listen = ([127, 0, 0, 1], 0).into();
            let envoy = Envoy { folder, listen, upstream, server: None, client, http2 };
            let (_running, at) = envoy.start(&binary).await?;
            let answer = world.client.get(at, "ratings", "/ratings/0").await?;
            assert_eq!(answer.status, status, "{account} by {protocol}: {}", answer.body);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_calls_an_envoy_that_asks_who_it_is() -> Result<()> {
    const TEST: &str = "a_sidecar_calls_an_envoy_that_asks_who_it_is";
    let (Some(binary), Some(curl)) = (program::find("envoy", TEST), program::find("curl", TEST)) else {
        return Ok(());
    };
    let world = World::bookinfo(|_| ()).await?;
    let details = world.mesh.sidecar("details-v1").context("no details")?;
    let (listen, upstream) = (details.proxy.addresses.inbound, details.application);
    let outbound = |name: &str| world.mesh.sidecar(name).map(|sidecar| sidecar.proxy.addresses.outbound);
    assert!(details.proxy.drain().await, "Envoy takes the place of its sidecar");
    for (protocol, version, shown) in
        [("http/1.1", "--http1.1", "HTTP/1.1"), ("h2", "--http2-prior-knowledge", "HTTP/2")]
    {
        let folder = TempDir::new()?;
        envoy::attest(&world, &id("details"), folder.path()).await?;
        let server = Some(context(folder.path(), "productpage", protocol));
        let envoy = Envoy { folder, listen, upstream, server, client: None, http2: false };
        let (mut running, at) = envoy.start(&binary).await?;
        assert_eq!(at, listen);
        let page = outbound("productpage-v1").context("no page")?;
        let url = format!("http://{page}/details/0");
        let arguments = ["--silent", "--include", "--header", "host: details", version, &url];
        let curl = Command::new(&curl).args(arguments).output().await?;
        let answer = String::from_utf8_lossy(&curl.stdout).to_ascii_lowercase();
        for part in [" 200", &format!("x-peer: {}", id("productpage")), &format!("x-protocol: {shown}")] {
            assert!(answer.contains(&part.to_ascii_lowercase()), "by {protocol}, no {part}: {answer}");
        }
        // Envoy demands the page's identity, and the other one has none but its own.
        let reviews = outbound("reviews-v1").context("no reviews")?;
        let refused = world.client.get(reviews, "details", "/details/0").await?;
        assert_eq!(refused.status, StatusCode::BAD_GATEWAY, "by {protocol}: {}", refused.body);
        running.kill().await?;
    }
    Ok(())
}
