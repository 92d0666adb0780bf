//! Runs the `tidegate` program as a user would.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Output, Stdio};

/// The program, with no colour, no logs but errors and no solver, whatever the environment says.
pub(crate) fn tidegate(arguments: &[&str]) -> Command {
    program(env!("CARGO_BIN_EXE_tidegate"), arguments)
}

/// The program of sidecars, likewise.
pub(crate) fn sidecar(arguments: &[&str]) -> Command {
    program(env!("CARGO_BIN_EXE_tidegate-proxy"), arguments)
}

fn program(path: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(path);
    command.args(arguments).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    command.env_remove("TIDEGATE_LOG").env("NO_COLOR", "1").env("CVC5", NO_SOLVER).stdin(Stdio::null());
    command
}

/// A solver that there is not.
pub(crate) const NO_SOLVER: &str = "no/such/solver";

/// Where cvc5 is installed. If it is not, says that `test` is skipped for want of it.
pub(crate) fn cvc5(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("cvc5")).find(|file| file.is_file());
    if found.is_none() {
        // Written past the test harness, which shows what a test prints only when it fails.
        let line = format!("SKIPPED {test}: `cvc5` is not installed; `cargo xtask test` installs it\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    found
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Output {
    tidegate(arguments).output().unwrap()
}

/// A line of shell, as the README tells to type it.
pub(crate) fn shell(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A program that runs until it is told to stop; killed if the test fails before that.
pub(crate) struct Running {
    child: Child,
}

impl Running {
    /// Starts the program.
    pub(crate) fn spawn(mut command: Command) -> Self {
        Self { child: command.spawn().unwrap() }
    }

    /// Starts the program and waits until its log says `said`.
    pub(crate) fn until(mut command: Command, said: &str) -> Self {
        let mut running = Self::spawn({
            command.stderr(Stdio::piped());
            command
        });
        let mut log = BufReader::new(running.take_stderr()).lines();
        let found = log.by_ref().map(Result::unwrap).any(|line| {
            eprintln!("{line}");
            line.contains(said)
        });
        assert!(found, "it ended without saying `{said}`");
        // Somebody has to read the rest, or the program would wait for it.
        std::thread::spawn(move || log.for_each(drop));
        running
    }

    /// Starts the program and waits for the first line that it prints.
    pub(crate) fn start(mut command: Command) -> (Self, String) {
        let mut running = Self::spawn({
            command.stdout(Stdio::piped());
            command
        });
        let mut line = String::new();
        BufReader::new(running.take_stdout()).read_line(&mut line).unwrap();
        (running, line)
    }

    /// What it prints, if that was piped.
    pub(crate) fn take_stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().unwrap()
    }

    /// What it logs, if that was piped.
    pub(crate) fn take_stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().unwrap()
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
