//! Regenerates the protobuf code that is committed under api/src/gen, without protoc.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// What code is generated from; what these import comes with them.
const FILES: [&str; 3] =
    ["tidegate/policy.proto", "tidegate/ca.proto", "envoy/service/auth/v3/external_auth.proto"];

/// Generates into api/src/gen, or, with `check`, fails if that would change a file.
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    let protos = root.join("api/proto");
    let committed = root.join("api/src/gen");
    if !check {
        return generate(&protos, &committed);
    }
    let generated = tempfile::tempdir()?;
    generate(&protos, generated.path())?;
    if files(generated.path())? != files(&committed)? {
        bail!("api/src/gen is not what api/proto generates: run `cargo xtask codegen`");
    }
    Ok(())
}

fn generate(protos: &Path, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out)?;
    let files = FILES.map(|file| protos.join(file));
    let descriptors = protox::compile(&files, [protos]).context("the .proto files don't compile")?;
    tonic_prost_build::configure()
        .emit_rerun_if_changed(false)
        .bytes(".")
        .btree_map(".")
        .out_dir(out)
        .compile_fds(descriptors)
        .context("no code could be generated")
}

/// The files in `folder`, by name.
fn files(folder: &Path) -> Result<BTreeMap<OsString, Vec<u8>>> {
    let entries = std::fs::read_dir(folder)?;
    entries
        .map(|entry| entry.and_then(|e| Ok((e.file_name(), std::fs::read(e.path())?))).map_err(Into::into))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_code_is_what_the_protos_generate() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        run(root, true).unwrap();
    }

    #[test]
    fn a_difference_is_told_with_its_fix() {
        let root = tempfile::tempdir().unwrap();
        for (number, file) in FILES.iter().enumerate() {
            let path = root.path().join("api/proto").join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let text = format!("syntax = \"proto3\"; package p{number}; message M {{}}");
            std::fs::write(path, text).unwrap();
        }
        run(root.path(), false).unwrap();
        run(root.path(), true).unwrap();
        std::fs::write(root.path().join("api/src/gen/old.rs"), "").unwrap();
        assert!(run(root.path(), true).unwrap_err().to_string().contains("cargo xtask codegen"));
    }
}
