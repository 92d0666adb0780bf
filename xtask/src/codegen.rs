//! Regenerates the protobuf code that is committed under api/src/gen, without protoc.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Generates into api/src/gen, or, with `check`, fails if that would change a file.
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    let committed = root.join("api/src/gen");
    let out = if check { root.join("target/codegen") } else { committed.clone() };
    std::fs::create_dir_all(&out)?;
    generate(&root.join("api/proto"), &out)?;
    if check && !same(&out, &committed)? {
        bail!("api/src/gen is not what api/proto generates: run `cargo xtask codegen`");
    }
    Ok(())
}

fn generate(protos: &Path, out: &Path) -> Result<()> {
    let files = ["tidegate/policy.proto", "tidegate/ca.proto"].map(|file| protos.join(file));
    let descriptors = protox::compile(&files, [protos]).context("the .proto files compile")?;
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .bytes(".")
        .btree_map(".")
        .out_dir(out)
        .compile_fds(descriptors)
        .context("code is generated")
}

fn same(one: &Path, other: &Path) -> Result<bool> {
    let names = |folder: &Path| -> Result<Vec<PathBuf>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            names.push(PathBuf::from(entry?.file_name()));
        }
        names.sort();
        Ok(names)
    };
    let (files, others) = (names(one)?, names(other)?);
    for file in &files {
        if !other.join(file).exists() || std::fs::read(one.join(file))? != std::fs::read(other.join(file))? {
            return Ok(false);
        }
    }
    Ok(files == others)
}
