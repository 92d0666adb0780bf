//! The setting of the tests: one authority, one policyd, and proxies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::config::{self, Endpoint, Enforced, Enforcement, Exposure, Mtls, Protocol};
use daemon::Clock;
use identity::Source;
use model::{AtomSet, FailMode, Revision};

use crate::app::{self, Bound};
use crate::config::{AccessLogDestination, Address, Config, Forwarding};

pub(super) use super::application::*;
pub(super) use super::pki::*;
pub(super) use super::policyd::*;
pub(super) use super::wire::*;

/// Proxies under one policyd and one authority. The default mesh is one service, `shop`.
pub(super) struct Setting {
    pub(super) clock: Clock,
    pub(super) pki: Pki,
    pub(super) policyd: Arc<FakePolicyd>,
}

pub(super) const REVISION: Revision = Revision { epoch: 7, number: 1 };

pub(super) fn service(name: &str, endpoints: &[(&str, SocketAddr)]) -> config::Service {
    let endpoint = |&(instance, address): &(&str, SocketAddr)| Endpoint {
        instance: instance.to_owned(),
        version: String::new(),
        address,
    };
    config::Service {
        name: name.to_owned(),
        spiffe_ids: vec![id(name)],
        endpoints: endpoints.iter().map(endpoint).collect(),
        timeout: Duration::from_secs(5),
        protocol: Protocol::Http1,
        mtls: Mtls::Strict,
        idle_timeout: config::IDLE_TIMEOUT,
        external: None,
    }
}

pub(super) fn enforced(service: &str) -> Enforced {
    Enforced {
        service: service.to_owned(),
        revision: REVISION,
        fail_mode: FailMode::Closed,
        denial_exposure: Exposure::Mesh,
        enforcement: Enforcement::Enforce,
        atoms: AtomSet::new(vec![], true),
        decision_log: None,
        routes: Vec::new(),
        issuers: Vec::new(),
        merge_slashes: false,
    }
}

impl Setting {
    pub(super) async fn new() -> Self {
        let clock = Clock::system();
        let pki = Pki::new(&clock);
        let config = Told {
            revision: REVISION,
            services: vec![service("shop", &[])],
            enforced: vec![enforced("shop")],
            limits: vec![],
            handlers: vec![],
            rules: vec![],
            stale_after: config::STALE_AFTER,
        };
        let policyd = FakePolicyd::start(&pki, config).await;
        Self { clock, pki, policyd }
    }

    /// A proxy of `service` before the application at `application`, ready.
    pub(super) async fn proxy(&self, service: &str, application: SocketAddr) -> Bound {
        let source = Source::fixed(self.pki.identity(&id(service), HOUR));
        let bound = self.proxy_with(service, application, source, |_| {}).await;
        bound.readiness.until_ready().await;
        bound
    }

    pub(super) async fn proxy_with(
        &self,
        service: &str,
        application: SocketAddr,
        source: Source,
        change: impl FnOnce(&mut Config),
    ) -> Bound {
        let any = "127.0.0.1:0".parse().unwrap();
        let mut config = Config {
            instance: format!("{service}-v1"),
            service: service.to_owned(),
            inbound: any,
            outbound: any,
            tcp: Vec::new(),
            ingress: Some(any),
            proxy_protocol: None,
            forwarding: Forwarding::default(),
            greets_application: None,
            admin: any,
            application: application.to_string(),
            intercept: None,
            policyd: Address { address: self.policyd.address.into(), id: id("policyd") },
            ca: Address { address: any, id: id("ca") },
            trust_bundle: self.pki.bundle(),
            join_token: "unused".to_owned(),
            access_log: AccessLogDestination::Off,
            decision_log: None,
            workers: 0,
            max_requests: 4096,
            max_connections: 1000,
            probes: None,
            hand_over: None,
            base_dir: std::path::PathBuf::new(),
        };
        change(&mut config);
        let listeners = app::bind(&config).await.unwrap();
        app::build_with(config, listeners, self.clock.clone(), source).await.unwrap()
    }

    /// A proxy of `shop`, and its application.
    pub(super) async fn shop(&self) -> (Bound, Application) {
        let application = Application::start("shop").await;
        let proxy = self.proxy("shop", application.address).await;
        (proxy, application)
    }
}
