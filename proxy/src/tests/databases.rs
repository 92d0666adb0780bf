//! Databases that nobody here wrote, and their own clients, over raw connections between two sidecars: PostgreSQL and Redis.

use std::ffi::OsStr;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use model::Principal;
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::clients::{output, skip};
use super::setting::*;
use super::tcp::{calls, connect, pair, until_counted};
use crate::app::Bound;

/// A server that runs, in a folder of its own.
struct Server {
    child: Child,
    address: SocketAddr,
    /// Keeps its port.
    _bound: Socket,
    _folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It ends at once, and cleans up after itself.
        if let Some(id) = self.child.id().and_then(|id| Pid::from_raw(id.try_into().unwrap())) {
            let _is_gone = kill_process(id, Signal::INT);
        }
    }
}

impl Server {
    /// Starts what `command` makes of a folder and of an address, and waits until it says `ready`.
    async fn start(folder: TempDir, ready: &str, command: impl FnOnce(&Path, SocketAddr) -> Command) -> Self {
        // Bound and not listened on: nobody else gets this port, and the server may.
        let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        bound.set_reuse_address(true).unwrap();
        bound.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = bound.local_addr().unwrap().as_socket().unwrap();
        let mut command = command(folder.path(), address);
        command.current_dir(folder.path()).env("LC_ALL", "C").stdin(Stdio::null());
        // One of them logs to standard output, the other to standard error.
        let (said, says) = std::io::pipe().unwrap();
        command.stdout(says.try_clone().unwrap()).stderr(says);
        let child = command.spawn().unwrap();
        drop(command);
        let said = tokio::net::unix::pipe::Receiver::from_owned_fd(said.into()).unwrap();
        let mut lines = BufReader::new(said).lines();
        let mut log = Vec::new();
        loop {
            let Some(line) = lines.next_line().await.unwrap() else { panic!("it has ended: {log:#?}") };
            if line.contains(ready) {
                break;
            }
            log.push(line);
        }
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, address, _bound: bound, _folder: folder }
    }
}

/// Where PostgreSQL's programs are: Debian has them in a folder that is not searched.
fn postgresql() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders = std::env::split_paths(&path).chain(versions.map(|version| version.path().join("bin")));
    folders.find(|folder| ["initdb", "postgres"].iter().all(|program| folder.join(program).is_file()))
}

/// How root, whom PostgreSQL refuses, runs it, and whose its data are: as another user; and, where what that user needs
/// is in a folder that is closed to others, as root by another number.
const BY_ROOT: [(&[&str], u32); 2] = [
    (&["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], 65534),
    (&["unshare", "--user", "--map-user=65534", "--map-group=65534"], 0),
];

/// What to put before one of `programs` for it to run, and to reach `folder`; nothing if there is no way.
async fn way(programs: &Path, folder: &Path) -> Option<&'static [&'static str]> {
    if !rustix::process::geteuid().is_root() {
        return Some(&[]);
    }
    for (way, owner) in BY_ROOT {
        std::os::unix::fs::chown(folder, Some(owner), Some(owner)).unwrap();
        let mut tried = Command::new(way[0]);
        tried.args(&way[1..]).args(["sh", "-c", "cd \"$0\" && \"$1\" --version"]).arg(folder);
        let tried = tried.arg(programs.join("initdb")).stdin(Stdio::null()).output().await;
        if tried.is_ok_and(|tried| tried.status.success()) {
            return Some(way);
        }
    }
    None
}

async fn postgres(test: &str) -> Option<Server> {
    let Some(programs) = postgresql() else {
        skip(test, "initdb");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    let Some(way) = way(&programs, folder.path()).await else {
        let why = "root can't run PostgreSQL as another user who reaches its programs and data";
        let _told = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
        return None;
    };
    let run = |program: &str| {
        let program = programs.join(program);
        let mut words = way.iter().map(OsStr::new).chain([program.as_os_str()]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).kill_on_drop(false);
        command
    };
    let mut initdb = run("initdb");
    initdb.args(["--auth=trust", "--username=tidegate", "--no-sync", "--locale=C", "--pgdata=data"]);
    let made = initdb.current_dir(folder.path()).stdin(Stdio::null()).output().await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let command = |_: &Path, address: SocketAddr| {
        let mut command = run("postgres");
        command.args(["-D", "data", "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
        command.args(["-c", "unix_socket_directories=", "-p", &address.port().to_string()]);
        command
    };
    Some(Server::start(folder, "database system is ready to accept connections", command).await)
}

/// psql, by way of the sidecar of `cart`.
fn psql(cart: &Bound) -> Command {
    let mut command = Command::new("psql");
    let port = cart.tcp[0].1.port();
    command.arg(format!("host=127.0.0.1 port={port} user=tidegate dbname=postgres sslmode=disable"));
    command.args(["--no-psqlrc", "--no-align", "--tuples-only", "--quiet"]).env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// What psql prints for some SQL, and what it complains of.
async fn ask(cart: &Bound, sql: &str) -> (String, String) {
    let mut psql = psql(cart).spawn().unwrap();
    let mut words = psql.stdin.take().unwrap();
    let asked = async {
        words.write_all(sql.as_bytes()).await.unwrap();
        drop(words);
    };
    let (said, ()) = tokio::join!(psql.wait_with_output(), asked);
    let said = said.unwrap();
    (String::from_utf8(said.stdout).unwrap(), String::from_utf8(said.stderr).unwrap())
}

/// A psql that is still asked.
struct Session {
    psql: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Session {
    fn open(cart: &Bound) -> Self {
        let mut psql = psql(cart).spawn().unwrap();
        let lines = BufReader::new(psql.stdout.take().unwrap()).lines();
        Self { psql, lines }
    }

    async fn say(&mut self, sql: &str) {
        self.psql.stdin.as_mut().unwrap().write_all(sql.as_bytes()).await.unwrap();
    }

    async fn line(&mut self) -> Option<String> {
        self.lines.next_line().await.unwrap()
    }

    /// What it complains of until it ends.
    async fn complaint(&mut self) -> String {
        let mut told = String::new();
        self.psql.stderr.take().unwrap().read_to_string(&mut told).await.unwrap();
        told
    }
}

/// Lets `cart` in, and nobody else.
fn let_cart_in(setting: &Setting) {
    let cart = Principal::Workload(id("cart"));
    setting.policyd.decide(
        move |attributes, revision| {
            if attributes.principal == cart { allow(revision) } else { deny(revision) }
        },
    );
}

#[tokio::test]
async fn psql_speaks_with_postgres() {
    const TEST: &str = "psql_speaks_with_postgres";
    if output(TEST, "psql", &["--version"]).await.is_none() {
        return;
    }
    let Some(server) = postgres(TEST).await else { return };
    let setting = Setting::new().await;
    let (shop, cart) = pair(&setting, server.address, &[]).await;
    let_cart_in(&setting);
    assert_eq!(ask(&cart, "select 6 * 7;").await, ("42\n".to_owned(), String::new()));
    // Much each way.
    let row = format!("{}\n", "x".repeat(999)).repeat(4000);
    let copied = format!(
        "create table t (x text); copy t from stdin;\n{row}\\.\nselect count(*), sum(length(x)) from t;"
    );
    assert_eq!(ask(&cart, &copied).await.0, "4000|3996000\n");
    assert_eq!(ask(&cart, "select x from t;").await.0, row);

    // A query that waits for another one: neither side says anything meanwhile.
    let mut first = Session::open(&cart);
    first.say("select pg_advisory_lock(1);\nselect 'locked';\n").await;
    while first.line().await.unwrap() != "locked" {}
    let (mut second, mut third) = (Session::open(&cart), Session::open(&cart));
    for session in [&mut second, &mut third] {
        session.say("select pg_advisory_lock(1);\nselect 'locked, too';\n").await;
    }
    let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted;";
    while ask(&cart, waiting).await.0 != "2\n" {}
    // Ctrl-C: psql asks the server on a connection of its own to give it up.
    let id = Pid::from_raw(third.psql.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(id, Signal::INT).unwrap();
    drop(third.psql.stdin.take());
    assert!(third.complaint().await.contains("canceling statement due to user request"));
    drop(first.psql.stdin.take());
    assert!(first.psql.wait().await.unwrap().success());
    while second.line().await.unwrap() != "locked, too" {}

    let thief = calls(&setting, "thief").await;
    let (said, told) = ask(&thief, "select 6 * 7;").await;
    assert!(said.is_empty() && !told.is_empty(), "{said} {told}");
    until_counted(&shop, r#"direction="inbound",service="shop",outcome="denied"} 1"#).await;
    // Who is not let in any more loses what is open.
    setting.policyd.decide(|_, revision| deny(revision));
    super::standing::push(&setting, &shop, |_| {}).await;
    until_counted(&shop, r#"direction="inbound",service="shop",outcome="revoked"} 1"#).await;
    second.say("select 1;\n").await;
    let told = second.complaint().await;
    assert!(told.contains("server closed the connection") || told.contains("reset by peer"), "{told}");
}

async fn redis(test: &str) -> Option<Server> {
    output(test, "redis-server", &["--version"]).await?;
    let command = |folder: &Path, address: SocketAddr| {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"]).arg(folder);
        command.args(["--port", &address.port().to_string()]);
        command
    };
    Some(Server::start(tempfile::tempdir().unwrap(), "Ready to accept connections", command).await)
}

#[tokio::test]
async fn redis_cli_speaks_with_redis() {
    const TEST: &str = "redis_cli_speaks_with_redis";
    if output(TEST, "redis-cli", &["--version"]).await.is_none() {
        return;
    }
    let Some(server) = redis(TEST).await else { return };
    let setting = Setting::new().await;
    let (shop, cart) = pair(&setting, server.address, &[]).await;
    let_cart_in(&setting);
    let port = cart.tcp[0].1.port().to_string();
    let cli =
        async |words: &[&str]| output(TEST, "redis-cli", &[&["-p", &port], words].concat()).await.unwrap();
    assert_eq!(cli(&["set", "k", "v"]).await, "OK\n");
    assert_eq!(cli(&["get", "k"]).await, "v\n");

    // Many commands before the first answer.
    let mut pipe = Command::new("redis-cli");
    let pipe = pipe.args(["-p", &port, "--pipe"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut pipe = pipe.kill_on_drop(true).spawn().unwrap();
    let mut words = pipe.stdin.take().unwrap();
    let sent = async {
        words.write_all("*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n".repeat(50_000).as_bytes()).await.unwrap();
        drop(words);
    };
    let (said, ()) = tokio::join!(pipe.wait_with_output(), sent);
    let said = String::from_utf8(said.unwrap().stdout).unwrap();
    assert!(said.contains("errors: 0, replies: 50000"), "{said}");
    assert_eq!(cli(&["get", "n"]).await, "50000\n");

    // The server speaks when it likes.
    let mut listening = Command::new("redis-cli");
    let listening = listening.args(["-p", &port, "subscribe", "news"]).stdin(Stdio::null());
    let mut listening = listening.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(listening.stdout.take().unwrap()).lines();
    let mut until = async |word: &str| while lines.next_line().await.unwrap().unwrap() != word {};
    until("subscribe").await;
    assert_eq!(cli(&["publish", "news", "hello"]).await, "1\n");
    until("hello").await;

    // Who has said all waits for the answer.
    let mut stream = connect(&cart).await;
    stream.write_all(b"PING\r\nGET k\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "+PONG\r\n$1\r\nv\r\n");

    let thief = calls(&setting, "thief").await;
    let denied = Command::new("redis-cli")
        .args(["-p", &thief.tcp[0].1.port().to_string(), "get", "k"])
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let told = String::from_utf8_lossy(&denied.stderr).into_owned();
    // Which one it says hangs on whether it is cut off before or after its first word.
    let is_cut_off = told.contains("Error: ") || told.contains("Connection reset by peer");
    assert!(denied.stdout.is_empty() && is_cut_off, "{told}");
    // It tries again by itself.
    until_counted(&shop, r#"direction="inbound",service="shop",outcome="denied"} "#).await;
}
