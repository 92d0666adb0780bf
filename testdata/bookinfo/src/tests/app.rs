//! The whole application in one test: every service on a port of its own, around a router that stands for the
//! outbound listeners.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::header::HOST;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::{Config, Service, Version, bind};

pub(super) type HttpClient = Client<HttpConnector, Body>;

/// What a request to a service comes to.
#[derive(Clone, Debug)]
pub(super) enum Route {
    To(SocketAddr),
    Answer(StatusCode, &'static str),
}

/// Stands for the outbound listener of every sidecar: looks at `Host`, passes the request on, and notes it.
#[derive(Clone, Debug)]
pub(super) struct Mesh {
    routes: Arc<Mutex<BTreeMap<Service, Route>>>,
    seen: Arc<Mutex<Vec<(Service, HeaderMap)>>>,
    client: HttpClient,
}

/// The running application.
#[derive(Debug)]
pub(super) struct App {
    page: SocketAddr,
    pub(super) mesh: Mesh,
    client: HttpClient,
    stop: watch::Sender<bool>,
    servers: JoinSet<anyhow::Result<()>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl App {
    /// All services, with this version of `reviews`.
    pub(super) async fn start(version: Version) -> Self {
        let mesh = Mesh {
            routes: Arc::default(),
            seen: Arc::default(),
            client: Client::builder(TokioExecutor::new()).build_http(),
        };
        let listener = TcpListener::bind(LOOPBACK).await.unwrap();
        let outbound = listener.local_addr().unwrap();
        let router = Router::new().fallback(pass_on).with_state(mesh.clone());
        let (stop, stopped) = watch::channel(false);
        let mut servers = JoinSet::new();
        let mut until_stop = stopped.clone();
        servers.spawn(async move {
            let stop = async move { drop(until_stop.wait_for(|stop| *stop).await) };
            Ok(axum::serve(listener, router).with_graceful_shutdown(stop).await?)
        });
        let mut page = outbound;
        for service in Service::ALL {
            let version = if service == Service::Reviews { version } else { Version::V1 };
            let config =
                Config { service, version, listen: LOOPBACK.parse().unwrap(), outbound: Some(outbound) };
            let bound = bind(config).await.unwrap();
            mesh.set(service, Route::To(bound.address()));
            if service == Service::Productpage {
                page = bound.address();
            }
            let mut until_stop = stopped.clone();
            servers.spawn(bound.serve(async move { drop(until_stop.wait_for(|stop| *stop).await) }));
        }
        Self { page, mesh, client: Client::builder(TokioExecutor::new()).build_http(), stop, servers }
    }

    pub(super) async fn send(&self, request: Request) -> Answer {
        read(self.client.request(request).await.unwrap()).await
    }

    /// A request to the page's service.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.page));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[], "").await
    }

    /// A request to any service, through the mesh.
    pub(super) async fn ask_service(
        &self,
        service: Service,
        method: Method,
        path: &str,
        body: &str,
    ) -> Answer {
        let Route::To(address) = self.mesh.route(service) else { panic!("{service} is not running") };
        let request = Request::builder().method(method).uri(format!("http://{address}{path}"));
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    pub(super) async fn stop(mut self) {
        self.stop.send_replace(true);
        while let Some(server) = self.servers.join_next().await {
            server.unwrap().unwrap();
        }
    }
}

impl Mesh {
    pub(super) fn set(&self, service: Service, route: Route) {
        self.routes.lock().unwrap().insert(service, route);
    }

    pub(super) fn route(&self, service: Service) -> Route {
        self.routes.lock().unwrap()[&service].clone()
    }

    /// The headers that the last request to `service` came with.
    pub(super) fn last_headers(&self, service: Service) -> HeaderMap {
        let seen = self.seen.lock().unwrap();
        seen.iter().rfind(|(called, _)| *called == service).unwrap().1.clone()
    }
}

async fn pass_on(State(mesh): State<Mesh>, mut request: Request) -> Response {
    let service: Service = request.headers()[HOST].to_str().unwrap().parse().unwrap();
    mesh.seen.lock().unwrap().push((service, request.headers().clone()));
    match mesh.route(service) {
        Route::Answer(status, body) => (status, body).into_response(),
        Route::To(address) => {
            *request.uri_mut() = format!("http://{address}{}", request.uri().path()).parse().unwrap();
            mesh.client.request(request).await.unwrap().into_response()
        }
    }
}

pub(super) async fn read(response: http::Response<impl BodyExt<Error: std::fmt::Debug>>) -> Answer {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    Answer { status: head.status, headers: head.headers, body: String::from_utf8(body).unwrap() }
}

pub(super) const LOOPBACK: &str = "127.0.0.1:0";
