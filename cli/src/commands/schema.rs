//! `tidegate schema`

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use policyd::author::yaml_schema::YamlFile;
use serde_json::json;

use super::{Format, Outcome, print};

/// Print the JSON Schemas of a bundle's YAML files, by which editors complete and check them
///
/// Without a name it lists them. The schemas are of draft 2020-12.
#[derive(Debug, Args)]
#[command(
    name = "schema",
    after_help = "\
Examples:
  tidegate schema                 list the schemas
  tidegate schema mesh            print one
  tidegate schema --out schema    write all of them into a folder

An editor with the YAML language server reads the schema that a file's first line names:
  # yaml-language-server: $schema=schema/mesh.json

Exit codes: 0 all well, 2 a file can't be written."
)]
pub(super) struct SchemaCommand {
    /// Which schema to print
    #[arg(value_enum, conflicts_with = "out")]
    name: Option<Name>,
    /// Write all schemas into this folder, which is made if it is not there
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// How to print the list; a schema is JSON in either way
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name(YamlFile);

impl ValueEnum for Name {
    fn value_variants<'a>() -> &'a [Self] {
        static ALL: [Name; YamlFile::ALL.len()] = {
            let [mesh, links, limits, adapters, tests] = YamlFile::ALL;
            [Name(mesh), Name(links), Name(limits), Name(adapters), Name(tests)]
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.0.name()).help(self.0.files()))
    }
}

impl SchemaCommand {
    pub(super) fn run(self) -> Result<Outcome> {
        print(&match (self.name, &self.out) {
            (Some(Name(file)), _) => text(file),
            (None, Some(folder)) => self.listed(&write(folder)?),
            (None, None) => self.listed(&YamlFile::ALL.map(|file| (file, file.name().to_owned()))),
        });
        Ok(Outcome::Clean)
    }

    fn listed(&self, files: &[(YamlFile, String)]) -> String {
        match self.format {
            Format::Text => {
                files.iter().map(|(file, name)| format!("{name:<10} {}\n", file.files())).collect()
            }
            Format::Json => {
                let one =
                    |(file, name): &(YamlFile, String)| json!({ "schema": name, "files": file.files() });
                json!({ "schemas": files.iter().map(one).collect::<Vec<_>>() }).to_string()
            }
        }
    }
}

/// Writes all schemas; the files, by what they are for.
fn write(folder: &Path) -> Result<Vec<(YamlFile, String)>> {
    std::fs::create_dir_all(folder).with_context(|| format!("`{}` can't be made", folder.display()))?;
    let mut written = Vec::new();
    for file in YamlFile::ALL {
        let path = folder.join(format!("{file}.json"));
        std::fs::write(&path, text(file))
            .with_context(|| format!("`{}` can't be written", path.display()))?;
        written.push((file, path.display().to_string()));
    }
    Ok(written)
}

fn text(file: YamlFile) -> String {
    format!("{:#}\n", file.schema().as_value())
}
