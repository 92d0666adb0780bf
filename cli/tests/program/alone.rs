//! One proxy with all that it needs, each a process of its own; the application is the test's.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::daemons::{free, start_ca, start_policyd, token, write};
use crate::run::{self, Running};

/// A CA, policyd, and an application.
pub(crate) struct Mesh {
    folder: tempfile::TempDir,
    pub(crate) ingress: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) application: Application,
    config: String,
    _daemons: [Running; 2],
}

/// Answers each request with its path; those to `/slow` not before it may.
#[derive(Clone)]
pub(crate) struct Application(Arc<State>);

#[derive(Default)]
struct State {
    slow: Mutex<Slow>,
    changed: Condvar,
}

#[derive(Default)]
struct Slow {
    waiting: usize,
    may_answer: bool,
}

impl Mesh {
    /// All but the proxy, whose configuration has `more`.
    pub(crate) fn start(more: &str) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        let [ca, ca_admin, policyd, policyd_admin, inbound, outbound, ingress, admin] = free();
        let (application, at) = Application::start();
        std::fs::create_dir(folder.join("bundle")).unwrap();
        let mesh = format!(
            "trust_domain: shop.example\nservices:\n  shop:\n    namespace: shop\n    instances:\n      - {{version: v1, endpoint: '{at}', inbound: '{inbound}'}}\n"
        );
        write(folder, "bundle/mesh.yaml", &mesh);
        write(folder, "bundle/acl.cedar", "permit (principal, action, resource);");
        let (ca_daemon, ca_config) = start_ca(folder, [ca, ca_admin]);
        let (policyd_daemon, _) = start_policyd(folder, (ca, &ca_config), [policyd, policyd_admin]);
        token(folder, &ca_config, "shop/sa/shop", "shop-v1");
        let config = format!(
            "instance: shop-v1\nservice: shop\ninbound: {inbound}\noutbound: {outbound}\ningress: {ingress}\nadmin: {admin}\napplication: {at}\ntrust_domain: shop.example\npolicyd: {policyd}\nca: {ca}\ntrust_bundle: ca/bundle.pem\njoin_token_file: shop-v1.token\naccess_log: 'off'\n{more}"
        );
        let config = write(folder, "proxy.yaml", &config);
        let daemons = [policyd_daemon, ca_daemon];
        Self { folder: temporary, ingress, admin, application, config, _daemons: daemons }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What a proxy of it is started by.
    pub(crate) fn arguments(&self) -> [&str; 3] {
        ["proxy", "--config", &self.config]
    }

    /// A proxy that serves.
    pub(crate) fn proxy(&self) -> Running {
        let started = Running::until(run::tidegate(&self.arguments()), "proxy started");
        while !self.admin("/readyz").starts_with("ready") {
            std::thread::yield_now();
        }
        started
    }

    /// What its admin port says at `path`.
    pub(crate) fn admin(&self, path: &str) -> String {
        let mut caller = Caller::connect(self.admin);
        caller.send(path);
        caller.response().unwrap().body
    }
}

impl Application {
    fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (at, application) = (listener.local_addr().unwrap(), Self(Arc::default()));
        let serving = application.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let application = serving.clone();
                std::thread::spawn(move || application.serve(&stream.unwrap()));
            }
        });
        (application, at)
    }

    /// Until the connection ends.
    fn serve(&self, mut stream: &TcpStream) {
        let mut lines = BufReader::new(stream).lines();
        while let Some(Ok(line)) = lines.next() {
            let path = line.split(' ').nth(1).unwrap().to_owned();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            if path == "/slow" {
                let mut slow = self.0.slow.lock().unwrap();
                slow.waiting += 1;
                self.0.changed.notify_all();
                drop(self.0.changed.wait_while(slow, |slow| !slow.may_answer).unwrap());
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    /// Until so many requests to `/slow` are there.
    pub(crate) fn wait_for(&self, count: usize) {
        let slow = self.0.slow.lock().unwrap();
        drop(self.0.changed.wait_while(slow, |slow| slow.waiting < count).unwrap());
    }

    /// Answers them.
    pub(crate) fn answer(&self) {
        self.0.slow.lock().unwrap().may_answer = true;
        self.0.changed.notify_all();
    }
}

/// A caller by HTTP/1.1.
pub(crate) struct Caller(BufReader<TcpStream>);

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) is_last: bool,
    pub(crate) body: String,
}

impl Caller {
    pub(crate) fn connect(to: SocketAddr) -> Self {
        Self::over(TcpStream::connect(to).unwrap())
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        // Only a test that fails waits so long.
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, path: &str) {
        drop(self.try_send(path));
    }

    fn try_send(&mut self, path: &str) -> std::io::Result<()> {
        self.0.get_mut().write_all(format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n").as_bytes())
    }

    /// The response to what was sent.
    pub(crate) fn response(&mut self) -> std::io::Result<Response> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let (mut length, mut is_last) = (0, false);
        loop {
            line.clear();
            self.0.read_line(&mut line)?;
            match line.trim_end().to_ascii_lowercase().split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(("connection", value)) => is_last = value == "close",
                Some(_) => {}
                None => break,
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(Response { status, is_last, body: String::from_utf8(body).unwrap() })
    }

    pub(crate) fn ask(&mut self, path: &str) -> std::io::Result<Response> {
        self.try_send(path)?;
        self.response()
    }
}
