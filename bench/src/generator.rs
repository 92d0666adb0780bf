//! Loads a proxy from one thread, and measures what comes back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::ClientConfig;
use tokio::time::Instant;

use crate::client::{self, Answer, Client};
use crate::grpc;
use crate::load::{Exchange, Load, Outcome, tenths};
use crate::poll::Poll;
use crate::upstream::SIZE;
use crate::window::Window;

/// How long answers to the last requests are waited for.
const LAST_ANSWERS: Duration = Duration::from_secs(5);
/// The digits of the number in a path.
const DIGITS: usize = 12;

/// Does what `load` says.
///
/// # Errors
/// When there is nothing to be measured. What goes wrong with requests is in the outcome.
pub(crate) fn run(load: &Load) -> Result<Outcome> {
    if let Exchange::Grpc { streams } = load.exchange {
        return grpc::generate(load, streams);
    }
    let tls = load.tls.as_ref().map(client::tls_config).transpose()?;
    let mut generator = Generator::new(load, tls)?;
    generator.connect_all()?;
    let start = Instant::now();
    generator.until(start, start + Duration::from_secs_f64(load.warm_up_seconds))?;
    generator.begin_to_count();
    let window = Window::open(load)?;
    let from = Instant::now();
    generator.until(from, from + Duration::from_secs_f64(load.seconds))?;
    window.close(load, &mut generator.outcome)?;
    generator.end()
}

struct Generator<'a> {
    load: &'a Load,
    tls: Option<Arc<ClientConfig>>,
    poll: Poll,
    request: Request,
    /// Each with when its request was sent, or was due; none if it carries none.
    connections: Vec<(Client, Option<Instant>)>,
    /// Those without a request, the longest without first.
    idle: VecDeque<usize>,
    /// How many requests were sent at a fixed rate.
    sent: u32,
    latencies: Vec<u32>,
    outcome: Outcome,
}

impl<'a> Generator<'a> {
    fn new(load: &'a Load, tls: Option<Arc<ClientConfig>>) -> Result<Self> {
        Ok(Self {
            load,
            tls,
            poll: Poll::new()?,
            request: Request::new(&load.exchange),
            connections: Vec::new(),
            idle: VecDeque::new(),
            sent: 0,
            latencies: Vec::with_capacity(1 << 20),
            outcome: Outcome::default(),
        })
    }

    fn connect_all(&mut self) -> Result<()> {
        for token in 0..self.load.connections {
            let client = self.connect(token)?;
            self.connections.push((client, None));
            self.idle.push_back(token);
        }
        Ok(())
    }

    fn connect(&self, token: usize) -> Result<Client> {
        let client = Client::connect(self.load.target, self.tls.as_ref())?;
        self.poll.add(&client.socket, token)?;
        Ok(client)
    }

    /// What was before does not count, nor do errors vanish that it had.
    fn begin_to_count(&mut self) {
        self.latencies.clear();
        self.sent = 0;
    }

    /// Sends and receives until `end`.
    fn until(&mut self, start: Instant, end: Instant) -> Result<()> {
        let mut now = start;
        while now < end {
            let next = self.send_due(start, now)?;
            let wake = next.unwrap_or(end).min(end);
            self.receive_ready(Some(wake.saturating_duration_since(now)))?;
            now = Instant::now();
        }
        Ok(())
    }

    /// Sends all that is due at `now`, as far as there are connections. Answers when the next one is due, if a
    /// connection waits for it.
    fn send_due(&mut self, start: Instant, now: Instant) -> Result<Option<Instant>> {
        while let Some(token) = self.idle.front().copied() {
            let due = match self.load.rate {
                None => now,
                Some(rate) => start + Duration::from_secs(1) * self.sent / rate,
            };
            if due > now {
                return Ok(Some(due));
            }
            self.idle.pop_front();
            self.sent = self.sent.saturating_add(1);
            self.send(token, due)?;
        }
        Ok(None)
    }

    fn send(&mut self, token: usize, due: Instant) -> Result<()> {
        let connection = self.connections.get_mut(token).context("no such connection")?;
        connection.1 = Some(due);
        if let Err(error) = connection.0.send(self.request.next()) {
            self.failed(token, &error.to_string())?;
        }
        Ok(())
    }

    fn receive_ready(&mut self, timeout: Option<Duration>) -> Result<()> {
        for token in self.poll.wait(timeout)?.to_vec() {
            let Some((client, since)) = self.connections.get_mut(token) else { continue };
            match client.receive(&self.load.exchange) {
                Ok(Answer::Pending) => {}
                Ok(Answer::Whole { status }) => {
                    let since = since.take();
                    self.answered(token, status, since)?;
                }
                Err(error) => self.failed(token, &error.to_string())?,
            }
        }
        Ok(())
    }

    fn answered(&mut self, token: usize, status: u16, since: Option<Instant>) -> Result<()> {
        let Some(since) = since else { return self.failed(token, "an answer that was not asked for") };
        self.latencies.push(tenths(since.elapsed()));
        if status != 200 {
            self.outcome.not_ok += 1;
            self.outcome.first_error.get_or_insert_with(|| format!("status {status}"));
        }
        if self.outcome.tls.is_none() {
            self.outcome.tls = self.connections.get(token).and_then(|(client, _)| client.agreed());
        }
        if self.load.reconnect {
            return self.renew(token);
        }
        self.idle.push_back(token);
        Ok(())
    }

    fn failed(&mut self, token: usize, why: &str) -> Result<()> {
        self.outcome.errors += 1;
        self.outcome.first_error.get_or_insert_with(|| why.to_owned());
        self.renew(token)
    }

    fn renew(&mut self, token: usize) -> Result<()> {
        let client = self.connect(token)?;
        *self.connections.get_mut(token).context("no such connection")? = (client, None);
        self.idle.push_back(token);
        Ok(())
    }

    /// Waits for what is still on its way: an answer that never comes is an error too.
    fn end(mut self) -> Result<Outcome> {
        self.outcome.count(&mut self.latencies);
        let last = Instant::now() + LAST_ANSWERS;
        while self.idle.len() < self.connections.len() {
            let left = last.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.outcome.errors += (self.connections.len() - self.idle.len()) as u64;
                self.outcome.first_error.get_or_insert_with(|| "an answer never came".to_owned());
                break;
            }
            self.receive_ready(Some(left))?;
        }
        Ok(self.outcome)
    }
}

/// The bytes of the next request.
struct Request {
    bytes: Vec<u8>,
    /// Where the number in the path ends.
    number_end: Option<usize>,
}

impl Request {
    fn new(exchange: &Exchange) -> Self {
        match exchange {
            Exchange::Tcp | Exchange::Grpc { .. } => Self { bytes: vec![b'x'; SIZE], number_end: None },
            Exchange::Http { prefix } => {
                let target = format!("GET {prefix}{}", "0".repeat(DIGITS));
                let bytes = format!("{target} HTTP/1.1\r\n{HEADERS}\r\n").into_bytes();
                Self { bytes, number_end: Some(target.len()) }
            }
        }
    }

    /// With the next number: paths of one service differ, and so must those of the bench.
    fn next(&mut self) -> &[u8] {
        let number = self.number_end.and_then(|end| self.bytes.get_mut(end - DIGITS..end));
        for digit in number.into_iter().flatten().rev() {
            if *digit < b'9' {
                *digit += 1;
                break;
            }
            *digit = b'0';
        }
        &self.bytes
    }
}

/// Eight headers, as a call between services has them.
const HEADERS: &str = "\
host: shop\r\n\
user-agent: bench/1.0\r\n\
accept: application/json\r\n\
accept-encoding: gzip, br\r\n\
accept-language: en-GB,en;q=0.9\r\n\
x-tenant: blue\r\n\
cache-control: no-cache\r\n\
authorization: Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6MTc2NDAwMDAwMH0.c2lnbmF0dXJlLW9mLXNpeHR5LWZvdXItYnl0\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_a_path_of_its_own() {
        let mut request = Request::new(&Exchange::Http { prefix: "/orders/".to_owned() });
        let first = request.next().to_vec();
        assert!(first.starts_with(b"GET /orders/000000000001 HTTP/1.1\r\nhost: shop\r\n"));
        assert!(first.ends_with(b"\r\n\r\n"));
        for _ in 0..8 {
            request.next();
        }
        assert!(request.next().starts_with(b"GET /orders/000000000010 "));
    }

    #[test]
    fn a_head_has_the_length_that_is_told() {
        let mut request = Request::new(&Exchange::Http { prefix: "/api/v0019/orders/".to_owned() });
        assert_eq!(request.next().len(), 334);
    }
}
