//! A stand-in policyd, which says what a test wants.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::config::{self, Enforced, Mesh, Policies};
use api::policy as wire;
use api::policy::policy_service_server::{PolicyService, PolicyServiceServer};
use daemon::Lifecycle;
use identity::Source;
use identity::tls::ClientAuth;
use model::{Attributes, Decision, Revision, Verdict};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};

use super::pki::*;

type Decide = Box<dyn Fn(&Attributes, Revision) -> Decision + Send + Sync>;

/// What proxies are told, all of them the same.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) revision: Revision,
    pub(super) services: Vec<config::Service>,
    /// Of the present revision, whatever they say.
    pub(super) enforced: Vec<Enforced>,
    pub(super) limits: Vec<model::Limit>,
    pub(super) handlers: Vec<config::ReportHandler>,
    pub(super) rules: Vec<config::ReportRule>,
    pub(super) stale_after: Duration,
}

impl Told {
    fn config(&self) -> wire::Config {
        let enforced = self.enforced.iter().cloned();
        let services = enforced.map(|enforced| Enforced { revision: self.revision, ..enforced }).collect();
        let policies = Policies {
            services,
            limits: self.limits.clone(),
            handlers: self.handlers.clone(),
            rules: self.rules.clone(),
            stale_after: self.stale_after,
        };
        let mesh = Mesh { services: self.services.clone() };
        let (mesh, policies) = (Arc::new(mesh), Arc::new(policies));
        (&config::Config { revision: self.revision, mesh, policies }).into()
    }

    fn heartbeat(&self, number: u64) -> wire::Heartbeat {
        let floor = |enforced: &Enforced| wire::Floor {
            service: enforced.service.clone(),
            revision: Some(self.revision.into()),
        };
        let floors = self.enforced.iter().map(floor).collect();
        wire::Heartbeat { number, revision: Some(self.revision.into()), floors }
    }
}

/// A policyd that says what a test wants.
pub(super) struct FakePolicyd {
    pub(super) address: SocketAddr,
    config: watch::Sender<Told>,
    /// The numbers of the Pings that came.
    pub(super) pings: watch::Sender<u64>,
    /// Whether Pings are answered.
    pub(super) answers_pings: Arc<AtomicBool>,
    beats: Mutex<Option<mpsc::UnboundedSender<wire::Heartbeat>>>,
    /// The Hellos that came.
    pub(super) hellos: Mutex<Vec<wire::Hello>>,
    decide: Mutex<Decide>,
    take: Mutex<VecDeque<wire::TakeResponse>>,
    pub(super) checks: Mutex<Vec<Attributes>>,
    pub(super) takes: Mutex<Vec<wire::TakeRequest>>,
    acks: mpsc::UnboundedSender<wire::Ack>,
    acked: tokio::sync::Mutex<mpsc::UnboundedReceiver<wire::Ack>>,
    pub(super) lifecycle: Lifecycle,
}

pub(super) fn allow(revision: Revision) -> Decision {
    Decision {
        verdict: Verdict::Allow,
        reasons: vec!["acl.cedar#0".into()],
        message: String::new(),
        limits: vec![],
        rules: vec![],
        valid_for: Duration::from_secs(60),
        revision,
        degraded: false,
        shadows: Vec::new(),
    }
}

pub(super) fn deny(revision: Revision) -> Decision {
    Decision { verdict: Verdict::Deny, reasons: vec!["acl.cedar#2".into()], ..allow(revision) }
}

impl FakePolicyd {
    pub(super) async fn start(pki: &Pki, config: Told) -> Arc<Self> {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (acks, acked) = mpsc::unbounded_channel();
        let policyd = Arc::new(Self {
            address: socket.local_addr().unwrap(),
            config: watch::Sender::new(config),
            pings: watch::Sender::default(),
            answers_pings: Arc::new(true.into()),
            beats: Mutex::default(),
            hellos: Mutex::default(),
            decide: Mutex::new(Box::new(|_, revision| allow(revision))),
            take: Mutex::default(),
            checks: Mutex::default(),
            takes: Mutex::default(),
            acks,
            acked: tokio::sync::Mutex::new(acked),
            lifecycle: Lifecycle::new(),
        });
        policyd.serve(socket, pki);
        policyd
    }

    fn serve(self: &Arc<Self>, socket: TcpListener, pki: &Pki) {
        let source = Source::fixed(pki.identity(&id("policyd"), 24 * HOUR));
        let tls =
            identity::tls::server_config(&source, pki.clock.clone(), ClientAuth::Required, identity::tls::H2);
        let incoming = identity::grpc::incoming(socket.try_into().unwrap(), tls, &self.lifecycle);
        let service = PolicyServiceServer::from_arc(Arc::clone(self));
        let lifecycle = self.lifecycle.clone();
        drop(self.lifecycle.spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming_shutdown(incoming, lifecycle.stopping()).await.unwrap();
        }));
    }

    /// What policyd says of a request at its revision of that time.
    pub(super) fn decide(&self, decide: impl Fn(&Attributes, Revision) -> Decision + Send + Sync + 'static) {
        *self.decide.lock().unwrap() = Box::new(decide);
    }

    pub(super) fn will_take(&self, response: wire::TakeResponse) {
        self.take.lock().unwrap().push_back(response);
    }

    /// Answers the Ping that came last.
    pub(super) fn answer_last_ping(&self) {
        let heartbeat = self.config.borrow().heartbeat(*self.pings.borrow());
        self.beats.lock().unwrap().as_ref().unwrap().send(heartbeat).unwrap();
    }

    /// Changes the configuration and waits until a proxy says what it made of it.
    pub(super) async fn change(&self, change: impl FnOnce(&mut Told)) -> wire::Ack {
        self.config.send_modify(|config| {
            config.revision = config.revision.next();
            change(config);
        });
        let revision: wire::Revision = self.config.borrow().revision.into();
        let mut acked = self.acked.lock().await;
        loop {
            let ack = acked.recv().await.unwrap();
            if ack.revision == Some(revision) {
                return ack;
            }
        }
    }
}

#[tonic::async_trait]
impl PolicyService for FakePolicyd {
    async fn check(
        &self,
        request: tonic::Request<wire::CheckRequest>,
    ) -> Result<tonic::Response<wire::CheckResponse>, Status> {
        let attributes: Attributes = request.into_inner().attributes.unwrap().try_into().unwrap();
        let revision = self.config.borrow().revision;
        let decision = (self.decide.lock().unwrap())(&attributes, revision);
        self.checks.lock().unwrap().push(attributes);
        Ok(tonic::Response::new(wire::CheckResponse { decision: Some(decision.into()) }))
    }

    async fn take(
        &self,
        request: tonic::Request<wire::TakeRequest>,
    ) -> Result<tonic::Response<wire::TakeResponse>, Status> {
        self.takes.lock().unwrap().push(request.into_inner());
        let response = self.take.lock().unwrap().pop_front();
        response.map(tonic::Response::new).ok_or_else(|| Status::unavailable("nothing to take"))
    }

    async fn lend(
        &self,
        _request: tonic::Request<wire::LendRequest>,
    ) -> Result<tonic::Response<wire::LendResponse>, Status> {
        Err(Status::unavailable("nothing to lend"))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: tonic::Request<Streaming<wire::WatchRequest>>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let mut messages = request.into_inner();
        let (acks, pings) = (self.acks.clone(), self.pings.clone());
        let Some(wire::watch_request::Message::Hello(hello)) =
            messages.message().await?.and_then(|first| first.message)
        else {
            return Err(Status::invalid_argument("no Hello"));
        };
        self.hellos.lock().unwrap().push(hello);
        let (beats, heartbeats) = mpsc::unbounded_channel();
        beats.send(self.config.borrow().heartbeat(0)).unwrap();
        *self.beats.lock().unwrap() = Some(beats.clone());
        let answers = self.answers_pings.clone();
        let config = self.config.subscribe();
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                match message.message {
                    Some(wire::watch_request::Message::Ack(ack)) => acks.send(ack).unwrap(),
                    Some(wire::watch_request::Message::Ping(ping)) => {
                        pings.send_replace(ping.number);
                        if answers.load(SeqCst) {
                            drop(beats.send(config.borrow().heartbeat(ping.number)));
                        }
                    }
                    _ => {}
                }
            }
        });
        let configs = tokio_stream::wrappers::WatchStream::new(self.config.subscribe());
        let configs = configs.map(|told| wire::watch_response::Message::Config(told.config()));
        let heartbeats = tokio_stream::wrappers::UnboundedReceiverStream::new(heartbeats);
        let heartbeats = heartbeats.map(wire::watch_response::Message::Heartbeat);
        let responses =
            configs.merge(heartbeats).map(|message| Ok(wire::WatchResponse { message: Some(message) }));
        let lifecycle = self.lifecycle.clone();
        // A graceful shutdown waits for open streams.
        let stopping = async move { lifecycle.stopping().await };
        Ok(tonic::Response::new(Box::pin(futures_util::StreamExt::take_until(responses, Box::pin(stopping)))))
    }
}
