//! A proxy that lacks what it needs, and one that is told to stop.

use std::net::TcpStream;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use tokio::time::Instant;

use crate::alone::{Caller, Mesh};
use crate::run::{self, Running};

/// A counter of the proxy, by its admin port.
fn counted(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find(|line| line.starts_with(name));
    line.map_or(0, |line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
}

#[test]
fn a_proxy_with_few_descriptors_serves_as_many_as_it_can_and_its_operator() {
    let mesh = Mesh::start("workers: 1\n");
    let mut command = std::process::Command::new("sh");
    let program = run::tidegate(&mesh.arguments());
    command.args(["-c", "ulimit -n 128; exec \"$0\" \"$@\""]).arg(program.get_program());
    command.args(program.get_args()).current_dir(program.get_current_dir().unwrap());
    let proxy = Running::until(command, "configuration applied");
    // Half of 128 is kept, and half of the rest is for callers.
    let mut callers: Vec<Caller> = (0..32).map(|_| Caller::connect(mesh.ingress)).collect();
    for caller in &mut callers {
        assert_eq!(caller.ask("/x").unwrap().status, 200);
    }
    let mut late: Vec<Caller> = (0..100).map(|_| Caller::connect(mesh.ingress)).collect();
    late.iter_mut().for_each(|caller| caller.send("/late"));
    let full = "tidegate_connections_full_total{direction=\"ingress\"}";
    while counted(&mesh.admin("/metrics"), full) == 0 {}
    for caller in &mut callers {
        assert_eq!(caller.ask("/x").unwrap().status, 200);
    }
    assert_eq!(mesh.admin("/healthz"), "ok\n");
    drop(callers);
    // Each of them leaves, so that the next one has room.
    for mut caller in late {
        assert_eq!(caller.response().unwrap().body, "/late");
    }
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn a_proxy_that_can_accept_nobody_waits_and_does_not_spin() {
    let mesh = Mesh::start("workers: 1\n");
    let proxy = mesh.proxy();
    let (mut operator, mut caller) = (Caller::connect(mesh.admin), Caller::connect(mesh.ingress));
    assert_eq!(caller.ask("/x").unwrap().status, 200);
    let mut metrics = || operator.ask("/metrics").unwrap().body;
    assert_eq!(counted(&metrics(), "tidegate_accept_failures_total"), 0);
    // Somebody else has taken all descriptors, so to say.
    let id = Pid::from_raw(i32::try_from(proxy.id()).unwrap());
    let limit = |current| prlimit(id, Resource::Nofile, Rlimit { current, maximum: Some(1024) }).unwrap();
    limit(Some(1024));
    let start = Instant::now();
    limit(Some(3));
    let mut late = Caller::connect(mesh.ingress);
    late.send("/late");
    let failures = loop {
        let failures = counted(&metrics(), "tidegate_accept_failures_total");
        if failures >= 3 {
            break failures;
        }
    };
    let most = start.elapsed().as_millis() / 100 + 1;
    assert!(u128::from(failures) <= most, "{failures} tries, of at most {most}");
    assert_eq!(caller.ask("/x").unwrap().status, 200);
    limit(Some(1024));
    assert_eq!(late.response().unwrap().body, "/late");
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn a_proxy_that_is_told_to_stop_finishes_what_it_has() {
    let mesh = Mesh::start("");
    let proxy = mesh.proxy();
    let (mut slow, mut idle) = (Caller::connect(mesh.ingress), Caller::connect(mesh.ingress));
    assert!(!idle.ask("/x").unwrap().is_last);
    slow.send("/slow");
    mesh.application.wait_for(1);
    proxy.signal(Signal::TERM);
    assert!(idle.response().is_err(), "nobody waits for its next request");
    while TcpStream::connect(mesh.ingress).is_ok() {}
    mesh.application.answer();
    let finished = slow.response().unwrap();
    assert_eq!((finished.body.as_str(), finished.is_last), ("/slow", true));
    assert_eq!(proxy.wait().code(), Some(0));
}

#[test]
fn what_takes_too_long_does_not_keep_a_proxy_from_stopping() {
    let mesh = Mesh::start("");
    let proxy = mesh.proxy();
    let mut slow = Caller::connect(mesh.ingress);
    slow.send("/slow");
    mesh.application.wait_for(1);
    let start = Instant::now();
    proxy.signal(Signal::TERM);
    assert_eq!(proxy.wait().code(), Some(2));
    assert!(start.elapsed() >= Duration::from_secs(10), "it had time");
    assert!(slow.response().is_err(), "it is cut, and does not look whole");
}
