//! Chores of Tidegate's developers: `cargo xtask codegen [--check]`.

use std::path::Path;

use anyhow::{Result, bail};

mod codegen;

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["codegen"] => codegen::run(root, false),
        ["codegen", "--check"] => codegen::run(root, true),
        _ => bail!("usage: cargo xtask codegen [--check]"),
    }
}
