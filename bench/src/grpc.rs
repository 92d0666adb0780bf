//! gRPC without TLS: a generator of unary calls, and the service that answers them.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, client, server};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use crate::load::{Load, Outcome, tenths};
use crate::upstream::SIZE;
use crate::window::Window;

/// What a call asks, message prefix included.
const QUESTION: usize = 105;
/// How long answers to the last calls are waited for.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// What all calls of a load share.
#[derive(Debug, Default)]
struct Tally {
    over: Cell<bool>,
    latencies: RefCell<Vec<u32>>,
    outcome: RefCell<Outcome>,
}

/// Does what `load` says, with so many calls at once on each connection.
pub(crate) fn generate(load: &Load, streams: usize) -> Result<Outcome> {
    on_this_thread(async {
        let tally = Rc::new(Tally::default());
        let mut callers = JoinSet::new();
        for _ in 0..load.connections {
            let socket = TcpStream::connect(load.target).await?;
            socket.set_nodelay(true)?;
            let (sender, connection) = client::handshake(socket).await?;
            spawn_local(connection);
            for _ in 0..streams {
                callers.spawn_local(call_until_over(sender.clone(), Rc::clone(&tally)));
            }
        }
        sleep(Duration::from_secs_f64(load.warm_up_seconds)).await;
        tally.latencies.borrow_mut().clear();
        let window = Window::open(load)?;
        sleep(Duration::from_secs_f64(load.seconds)).await;
        let mut latencies = tally.latencies.take();
        window.close(load, &mut tally.outcome.borrow_mut())?;
        tally.over.set(true);
        let all = async { while callers.join_next().await.is_some() {} };
        if timeout(LAST_ANSWERS, all).await.is_err() {
            tally.failed("an answer never came");
        }
        let mut outcome = tally.outcome.take();
        outcome.count(&mut latencies);
        Ok(outcome)
    })
}

/// Answers calls at `address` until the process is ended.
pub(crate) fn serve(address: SocketAddr) -> Result<()> {
    on_this_thread(async {
        let listener = TcpListener::bind(address).await?;
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            spawn_local(async move {
                let mut connection = server::handshake(socket).await?;
                while let Some(call) = connection.accept().await {
                    let (request, respond) = call?;
                    spawn_local(answer(request.into_body(), respond));
                }
                anyhow::Ok(())
            });
        }
    })
}

impl Tally {
    fn failed(&self, why: &str) {
        let mut outcome = self.outcome.borrow_mut();
        outcome.errors += 1;
        outcome.first_error.get_or_insert_with(|| why.to_owned());
    }
}

async fn call_until_over(mut sender: client::SendRequest<Bytes>, tally: Rc<Tally>) {
    while !tally.over.get() {
        let since = Instant::now();
        match call(sender.clone()).await {
            Ok(()) => tally.latencies.borrow_mut().push(tenths(since.elapsed())),
            Err(error) => {
                tally.failed(&format!("{error:#}"));
                // A connection that is gone fails at once, for ever.
                if std::future::poll_fn(|context| sender.poll_ready(context)).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn call(sender: client::SendRequest<Bytes>) -> Result<()> {
    let mut sender = sender.ready().await?;
    let request = Request::post("http://shop/bench.Shop/Get")
        .header(header::CONTENT_TYPE, CONTENT_TYPE)
        .header(header::TE, "trailers")
        .body(())?;
    let (response, mut question) = sender.send_request(request, false)?;
    question.send_data(Bytes::from_static(&[0; QUESTION]), true)?;
    let response = response.await?;
    let (status, mut body) = (response.status(), response.into_body());
    let length = drain(&mut body).await?;
    let trailers = body.trailers().await?.context("no trailers")?;
    let grpc = trailers.get("grpc-status").context("no grpc-status")?;
    if status != 200 || length != SIZE || grpc != "0" {
        bail!("status {status}, {length} bytes, grpc-status {grpc:?}");
    }
    Ok(())
}

async fn answer(mut question: RecvStream, mut respond: SendResponse<Bytes>) -> Result<()> {
    drain(&mut question).await?;
    let response = Response::builder().header(header::CONTENT_TYPE, CONTENT_TYPE).body(())?;
    let mut body = respond.send_response(response, false)?;
    body.send_data(Bytes::from_static(&[0; SIZE]), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    Ok(body.send_trailers(trailers)?)
}

/// Reads `body` to its end, and says how long it was.
async fn drain(body: &mut RecvStream) -> Result<usize> {
    let mut length = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        length += chunk.len();
        body.flow_control().release_capacity(chunk.len())?;
    }
    Ok(length)
}

fn on_this_thread<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemons::free_addresses;
    use crate::load::Exchange;

    #[test]
    fn calls_are_answered_and_counted() {
        let [target] = free_addresses().unwrap();
        std::thread::spawn(move || serve(target));
        while std::net::TcpStream::connect(target).is_err() {}
        let load = Load {
            target,
            exchange: Exchange::Grpc { streams: 2 },
            connections: 2,
            rate: None,
            reconnect: false,
            warm_up_seconds: 0.01,
            seconds: 0.05,
            processes: vec![std::process::id()],
            processors: vec![0],
            others: Vec::new(),
            tls: None,
        };
        let outcome = generate(&load, 2).unwrap();
        assert_eq!(outcome.fault(), None);
        assert!(outcome.p50_us > 0.0);
    }
}
