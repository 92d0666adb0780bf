//! policyd as a whole, with a stand-in for the CA.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod pki;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use api::certificate::certificate_service_server::{CertificateService, CertificateServiceServer};
use api::certificate::{AttestRequest, CertificateResponse, RenewRequest};
use daemon::finding::Findings;
use daemon::{Clock, Lifecycle};
use identity::tls::{self, ClientAuth};
use model::TrustDomain;
use pki::Pki;
use rcgen::CertificateSigningRequestParams;
use tidegate_policyd::app;
use tidegate_policyd::config::Config;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::{Request, Response, Status};

const MESH: &str = "\
trust_domain: shop.example
services:
  orders: {namespace: shop, instances: [{version: v1, endpoint: '127.0.0.1:80'}]}
";

/// Signs whatever it is sent for policyd.
struct Ca(Arc<Pki>);

#[tonic::async_trait]
impl CertificateService for Ca {
    async fn attest(&self, request: Request<AttestRequest>) -> Result<Response<CertificateResponse>, Status> {
        let csr = request.into_inner().csr.to_vec();
        let mut csr = CertificateSigningRequestParams::from_der(&csr.into()).unwrap();
        csr.params = pki::leaf_params(identity::policyd_id(&domain()).unwrap().as_str());
        let leaf = csr.signed_by(&self.0.root).unwrap();
        let der = |der: &[u8]| der.to_vec().into();
        let (chain, roots) = (vec![der(leaf.der())], vec![der(self.0.root.der())]);
        Ok(Response::new(CertificateResponse { chain, roots }))
    }

    async fn renew(&self, _request: Request<RenewRequest>) -> Result<Response<CertificateResponse>, Status> {
        Err(Status::unimplemented("no test lives so long"))
    }
}

fn domain() -> TrustDomain {
    "shop.example".parse().unwrap()
}

async fn ca(pki: &Arc<Pki>, lifecycle: &Lifecycle) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let source = pki.source(&identity::ca_id(&domain()).unwrap());
    let config = tls::server_config(&source, Clock::system(), ClientAuth::Optional, tls::H2);
    let incoming = identity::grpc::incoming(listener.try_into().unwrap(), config, lifecycle);
    let service = CertificateServiceServer::new(Ca(pki.clone()));
    lifecycle.spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    address
}

fn config(pki: &Pki, ca_address: SocketAddr, bundle: &Path) -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let identity = identity::client::Config {
        ca_address,
        ca_id: identity::ca_id(&domain()).unwrap(),
        bundle: pki.bundle(),
        join_token: "token".into(),
    };
    let delivery = tidegate_policyd::delivery::Config::folder(bundle.to_owned());
    Config {
        delivery,
        listen: any,
        socket: None,
        admin: any,
        identity,
        addresses: [].into(),
        candidates: Vec::new(),
        envoy: None,
    }
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn it_is_ready_with_a_bundle_and_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mesh.yaml"), MESH).unwrap();
    let (pki, lifecycle) = (Arc::new(Pki::new()), Lifecycle::new());
    let ca = ca(&pki, &lifecycle).await;
    let policyd = app::build(config(&pki, ca, folder.path()), Clock::system()).await.unwrap();
    let ready = get(policyd.admin, "/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 200"), "{ready}");
    let metrics = get(policyd.admin, "/metrics").await;
    let expiry = policyd.identity.current().svid.not_after.as_second();
    for line in [
        format!("tidegate_policyd_certificate_expiry_timestamp_seconds {expiry}"),
        "tidegate_policyd_certificate_renewals_total{outcome=\"ok\"} 1".to_owned(),
        "tidegate_policyd_bundle_valid 1".to_owned(),
        "tidegate_policyd_revision 1".to_owned(),
    ] {
        assert!(metrics.contains(&line), "no `{line}` in {metrics}");
    }
    assert!(policyd.drain().await);
    lifecycle.stop();
}

#[tokio::test]
async fn it_does_not_start_with_a_bundle_that_is_broken_or_anothers() {
    let folder = tempfile::tempdir().unwrap();
    let (pki, nowhere) = (Pki::new(), SocketAddr::from(([127, 0, 0, 1], 1)));
    let start = || app::build(config(&pki, nowhere, folder.path()), Clock::system());
    assert!(start().await.unwrap_err().downcast_ref::<Findings>().is_some());
    std::fs::write(folder.path().join("mesh.yaml"), MESH.replace("shop.example", "other.example")).unwrap();
    let error = start().await.unwrap_err().to_string();
    assert_eq!(error, "policyd's trust domain is `shop.example`, but that of the bundle is `other.example`");
}
