//! A proxy that is replaced by another process while it is called.

use std::io::Write;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;

use crate::alone::{Caller, Mesh};
use crate::frames::{self, PING};
use crate::run::{self, Running};

const HAND_OVER: &str = "workers: 2\nhand_over: run/proxy.sock\n";

/// Callers, and how it went.
#[derive(Default)]
struct Load {
    served: AtomicUsize,
    moved: AtomicUsize,
    is_over: AtomicBool,
    failed: Mutex<Vec<String>>,
}

/// Ends it, also when the test fails.
struct Over<'a>(&'a Load);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

impl Load {
    /// Calls until it is over, on a connection of its own each time or on one for as long as it may.
    fn call(&self, mesh: &Mesh, keeps_alive: bool) {
        let mut caller: Option<Caller> = None;
        while !self.is_over.load(Ordering::Relaxed) {
            let mut connected = match caller.take() {
                Some(kept) => kept,
                None => match std::net::TcpStream::connect(mesh.ingress) {
                    Ok(stream) => Caller::over(stream),
                    Err(error) => return self.fail(format!("refused: {error}")),
                },
            };
            match connected.ask("/x") {
                Ok(response) if response.status == 200 && response.body == "/x" => {
                    self.served.fetch_add(1, Ordering::Relaxed);
                    if response.is_last {
                        self.moved.fetch_add(1, Ordering::Relaxed);
                    } else if keeps_alive {
                        caller = Some(connected);
                    }
                }
                Ok(response) => return self.fail(format!("{} {}", response.status, response.body)),
                Err(error) => return self.fail(format!("{error}, kept: {keeps_alive}")),
            }
        }
    }

    fn fail(&self, why: String) {
        self.failed.lock().unwrap().push(why);
    }

    /// Until so many more were served, or one was not.
    fn go_on(&self, more: usize) {
        let enough = self.served.load(Ordering::Relaxed) + more;
        while self.served.load(Ordering::Relaxed) < enough && self.failed.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
    }
}

#[test]
fn no_call_fails_while_one_process_takes_the_place_of_another() {
    let mesh = Mesh::start(HAND_OVER);
    let mut proxy = mesh.proxy();
    let load = Load::default();
    let proxy = std::thread::scope(|scope| {
        let _over = Over(&load);
        for keeps_alive in [true, true, false, false] {
            let (load, mesh) = (&load, &mesh);
            scope.spawn(move || load.call(mesh, keeps_alive));
        }
        load.go_on(200);
        for _ in 0..3 {
            // The join token was used by the first of them.
            let next = Running::until(run::tidegate(&mesh.arguments()), "proxy started");
            load.go_on(200);
            assert_eq!(proxy.wait().code(), Some(0));
            assert!(mesh.admin("/readyz").starts_with("ready"));
            load.go_on(200);
            proxy = next;
        }
        proxy
    });
    assert_eq!(*load.failed.lock().unwrap(), [""; 0]);
    assert!(load.moved.load(Ordering::Relaxed) >= 6, "the connections that were kept were told to go");
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn a_request_under_way_is_finished_by_the_process_that_has_it() {
    let mesh = Mesh::start(HAND_OVER);
    let proxy = mesh.proxy();
    let (mut slow, mut idle) = (Caller::connect(mesh.ingress), Caller::connect(mesh.ingress));
    assert!(!idle.ask("/x").unwrap().is_last);
    slow.send("/slow");
    mesh.application.wait_for(1);
    let next = Running::until(run::tidegate(&mesh.arguments()), "proxy started");
    assert_eq!(Caller::connect(mesh.ingress).ask("/x").unwrap().status, 200);
    // It was idle, and a request may just be on its way.
    let told = idle.ask("/x").unwrap();
    assert_eq!((told.status, told.is_last), (200, true));
    mesh.application.answer();
    let finished = slow.response().unwrap();
    assert_eq!((finished.body.as_str(), finished.is_last), ("/slow", true));
    assert_eq!(proxy.wait().code(), Some(0));
    next.signal(Signal::TERM);
    assert_eq!(next.wait().code(), Some(0));
}

#[test]
fn streams_under_way_are_finished_and_so_are_those_that_cross_the_goodbye() {
    let mesh = Mesh::start(HAND_OVER);
    let proxy = mesh.proxy();
    let mut kept = frames::Caller::connect(mesh.ingress);
    kept.send(1, "/slow");
    mesh.application.wait_for(1);
    let next = Running::until(run::tidegate(&mesh.arguments()), "proxy started");

    // The first goodbye refuses nothing yet. Until its caller has said that it has read it, streams may be on their way.
    assert_eq!(kept.goaway(), i32::MAX.unsigned_abs());
    let ping = kept.next().unwrap();
    assert_eq!(ping.kind, PING);
    kept.send(3, "/crossed");
    assert_eq!(kept.response(3), "/crossed");
    let mut moved = frames::Caller::connect(mesh.ingress);
    moved.send(1, "/x");
    assert_eq!(moved.response(1), "/x");
    kept.pong(&ping);
    assert_eq!(kept.goaway(), 3);

    mesh.application.answer();
    assert_eq!(kept.response(1), "/slow");
    assert_eq!(kept.next(), None);
    assert_eq!(proxy.wait().code(), Some(0));
    // It was the next process that had taken this one.
    moved.send(3, "/y");
    assert_eq!(moved.response(3), "/y");
    drop(moved);
    next.signal(Signal::TERM);
    assert_eq!(next.wait().code(), Some(0));
}

#[test]
fn a_process_that_takes_no_place_costs_nothing() {
    let mesh = Mesh::start(HAND_OVER);
    let proxy = mesh.proxy();
    let socket = mesh.folder().join("run/proxy.sock");
    // Neither of those who say nothing sensible, nor of those who go away.
    for said in ["", "\u{0}\u{0}\u{0}\u{2}{}", "\u{7f}\u{7f}\u{7f}\u{7f}"] {
        drop(UnixStream::connect(&socket).unwrap().write_all(said.as_bytes()));
    }
    let config = std::fs::read_to_string(mesh.folder().join("proxy.yaml")).unwrap();
    let other = mesh.folder().join("other.yaml");
    std::fs::write(&other, config.replace("instance: shop-v1", "instance: shop-v2")).unwrap();
    let refused = run::run(&["proxy", "--config", other.to_str().unwrap()]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(told.contains("run/proxy.sock") && told.contains("this is `shop-v1`"), "{told}");
    // Nor does a folder that others may enter.
    std::fs::create_dir(mesh.folder().join("open")).unwrap();
    std::fs::write(&other, config.replace("run/proxy.sock", "open/proxy.sock")).unwrap();
    let refused = run::run(&["proxy", "--config", other.to_str().unwrap()]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("`chmod 700` it"), "{told}");
    assert_eq!(Caller::connect(mesh.ingress).ask("/x").unwrap().status, 200);
    let next = Running::until(run::tidegate(&mesh.arguments()), "proxy started");
    assert_eq!(proxy.wait().code(), Some(0));
    drop(next);
}

#[test]
fn a_signal_has_a_proxy_start_its_successor_and_the_supervisor_is_told() {
    let mesh = Mesh::start(HAND_OVER);
    let supervisor = mesh.folder().join("notify");
    let told = UnixDatagram::bind(&supervisor).unwrap();
    let told = || {
        let mut said = [0; 64];
        let length = told.recv(&mut said).unwrap();
        String::from_utf8(said[..length].to_vec()).unwrap()
    };
    let mut command = run::tidegate(&mesh.arguments());
    command.env("NOTIFY_SOCKET", supervisor);
    let proxy = Running::until(command, "proxy started");
    assert_eq!(told(), "READY=1\n");
    proxy.signal(Signal::USR2);
    // It may say first that it has started.
    let next = std::iter::repeat_with(told).find(|said| !said.starts_with("READY=1")).unwrap();
    let next = next.strip_prefix("MAINPID=").unwrap_or_else(|| panic!("{next}")).trim_end();
    let next = rustix::process::Pid::from_raw(next.parse().unwrap()).unwrap();
    assert_eq!(proxy.wait().code(), Some(0));
    assert_eq!(Caller::connect(mesh.ingress).ask("/x").unwrap().status, 200);
    rustix::process::kill_process(next, Signal::TERM).unwrap();
}
