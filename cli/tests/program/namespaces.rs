//! A network of small hosts, each a network namespace of this machine: for what changes the kernel's rules.
//!
//! All hosts are on one link, `10.77.0.N` and `fd77::N`.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Uid;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space, set_thread_uid};

use crate::run::Running;

/// The hosts, gone when dropped.
pub(crate) struct Network {
    name: String,
    hosts: Vec<u8>,
}

impl Network {
    /// A network of `hosts`; nothing, after saying why, where there can be none.
    pub(crate) fn of(hosts: &[u8], test: &str) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let network = Self { name: format!("tg{}-{count}", std::process::id()), hosts: hosts.to_vec() };
        match network.build() {
            Ok(()) => Some(network),
            Err(why) => {
                // Written past the test harness, which shows what a test prints only when it fails.
                let line = format!("SKIPPED {test}: {}\n", why.trim());
                let _told = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
                None
            }
        }
    }

    fn build(&self) -> Result<(), String> {
        for program in ["ip", "nft", "setpriv", "curl"] {
            shell(&format!("command -v {program}"))
                .map_err(|_error| format!("`{program}` is not installed"))?;
        }
        let hub = format!("{}-hub", self.name);
        shell(&format!(
            "ip netns add {hub} && ip -n {hub} link add br0 type bridge && ip -n {hub} link set br0 up"
        ))?;
        for host in &self.hosts {
            let space = self.space(*host);
            shell(&format!(
                "ip netns add {space}
                ip link add eth0 netns {space} type veth peer name to{host} netns {hub}
                ip -n {hub} link set to{host} master br0 up
                ip -n {space} link set lo up
                ip -n {space} addr add 10.77.0.{host}/24 dev eth0
                ip -n {space} addr add fd77::{host}/64 dev eth0 nodad
                ip -n {space} link set eth0 up"
            ))?;
        }
        let redirects = "add table inet t; add chain inet t c { type nat hook output priority -100; }; \
            add rule inet t c fib daddr type != local tcp dport 1 redirect to :2; delete table inet t";
        shell(&format!("ip netns exec {hub} nft '{redirects}'"))
            .map_err(|error| format!("this kernel can't redirect: {error}"))?;
        Ok(())
    }

    fn space(&self, host: u8) -> String {
        format!("{}-{host}", self.name)
    }

    /// A program with its arguments, on a host.
    pub(crate) fn command(&self, host: u8, program: &Command) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.space(host)])
            .arg(program.get_program())
            .args(program.get_args());
        command.env_remove("TIDEGATE_LOG").env("NO_COLOR", "1").stdin(Stdio::null());
        if let Some(folder) = program.get_current_dir() {
            command.current_dir(folder);
        }
        command
    }

    /// Does something on a host as a user of it: a socket that is made so stays there.
    pub(crate) fn within<T: Send>(&self, host: u8, user: u32, work: impl FnOnce() -> T + Send) -> T {
        let space = File::open(format!("/run/netns/{}", self.space(host))).unwrap();
        let enter = || {
            // It is this thread alone that goes there.
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            set_thread_uid(Uid::from_raw(user)).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }

    /// Runs a line of shell on a host, as root.
    pub(crate) fn shell(&self, host: u8, line: &str) -> Output {
        let mut program = Command::new("sh");
        program.args(["-c", line]);
        self.command(host, &program).output().unwrap()
    }

    /// What a line of shell prints on a host.
    pub(crate) fn says(&self, host: u8, line: &str) -> String {
        let output = self.shell(host, line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a server on a host, and waits until it listens at `port`.
    pub(crate) fn serve(&self, host: u8, program: &Command, port: u16) -> Running {
        let running = Running::spawn(self.command(host, program));
        while self.says(host, &format!("ss --no-header --listening --tcp 'sport = :{port}'")).is_empty() {
            std::thread::yield_now();
        }
        running
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in self.hosts.iter().map(ToString::to_string).chain(["hub".to_owned()]) {
            drop(shell(&format!("ip netns del {}-{host}", self.name)));
        }
    }
}

fn shell(line: &str) -> Result<(), String> {
    let output = Command::new("sh").args(["-ec", line]).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
