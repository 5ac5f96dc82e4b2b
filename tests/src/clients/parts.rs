//! What has to be installed, and where it is. `cargo xtask clients` installs it.

use std::{
    collections::BTreeMap,
    env, fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// Something that a library or a server needs. xtask knows them by the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A virtual environment with what `tests/clients/python/requirements.txt` names.
    Python,
    /// Node.js.
    Node,
    /// What `tests/clients/node/package.json` names.
    Undici,
    /// A Java runtime and the compiled client.
    Java,
    /// The client that Go has compiled.
    Go,
    /// The client with reqwest.
    Reqwest,
    /// redis-server and redis-cli.
    Redis,
    /// A PostgreSQL server.
    Postgres,
}

impl Part {
    const ALL: [Self; 8] = [
        Self::Python,
        Self::Node,
        Self::Undici,
        Self::Java,
        Self::Go,
        Self::Reqwest,
        Self::Redis,
        Self::Postgres,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Undici => "undici",
            Self::Java => "java",
            Self::Go => "go",
            Self::Reqwest => "reqwest",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|part| part.name() == name);
        found.ok_or_else(|| format!("there is no part {name:?}"))
    }
}

/// A part that could not be installed, and why: `PART=REASON`.
#[derive(Clone, Debug)]
pub struct Missing {
    part: Part,
    reason: String,
}

impl FromStr for Missing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (part, reason) = text.split_once('=').ok_or("expected PART=REASON")?;
        Ok(Self { part: part.parse()?, reason: reason.to_owned() })
    }
}

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Places {
    /// `tests/clients`.
    pub(super) sources: PathBuf,
    /// `.tools/clients`.
    pub(super) tools: PathBuf,
}

impl Places {
    /// Of the workspace that this was built in.
    pub fn of_workspace() -> Self {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = tests.parent().unwrap_or(tests);
        Self { sources: tests.join("clients"), tools: root.join(".tools/clients") }
    }

    /// The newest PostgreSQL's programs. Debian keeps them off `PATH`.
    pub(super) fn postgres(&self) -> Option<PathBuf> {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let newest = versions
            .map(|entry| entry.path().join("bin"))
            .filter(|bin| bin.join("initdb").is_file())
            .max_by_key(|bin| version(bin));
        newest.or_else(|| on_path("initdb")?.parent().map(Path::to_owned))
    }

    fn is_there(&self, part: Part) -> bool {
        match part {
            Part::Python => self.tools.join("venv/bin/python").is_file(),
            Part::Node => on_path("node").is_some(),
            Part::Undici => self.tools.join("node/node_modules/undici").is_dir(),
            Part::Java => on_path("java").is_some() && self.tools.join("java/Client.class").is_file(),
            Part::Go => self.tools.join("go-client").is_file(),
            Part::Reqwest => self.tools.join("reqwest/debug/balancer-client-reqwest").is_file(),
            Part::Redis => on_path("redis-server").is_some() && on_path("redis-cli").is_some(),
            Part::Postgres => self.postgres().is_some() && on_path("psql").is_some(),
        }
    }
}

/// `15` of `/usr/lib/postgresql/15/bin`.
fn version(bin: &Path) -> u32 {
    let name = bin.parent().and_then(Path::file_name).unwrap_or_default();
    name.to_string_lossy().parse().unwrap_or(0)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Why parts cannot be used.
#[derive(Debug, Default)]
pub struct Lacking(BTreeMap<Part, String>);

impl Lacking {
    /// Of these parts: what xtask could not bring, and what is not there all the same.
    pub fn find(places: &Places, parts: impl Iterator<Item = Part>, missing: &[Missing]) -> Self {
        let mut lacking: BTreeMap<Part, String> = parts
            .filter(|part| !places.is_there(*part))
            .map(|part| (part, format!("{part} is not installed; `cargo xtask clients` does that")))
            .collect();
        lacking.extend(missing.iter().map(|missing| (missing.part, missing.reason.clone())));
        Self(lacking)
    }

    /// Why one of these parts cannot be used.
    pub fn any_of(&self, parts: impl Iterator<Item = Part>) -> Option<String> {
        parts.filter_map(|part| self.0.get(&part)).next().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_as_they_are_written() {
        for part in Part::ALL {
            assert_eq!(part.to_string().parse(), Ok(part));
        }
        assert!("ruby".parse::<Part>().is_err());
    }

    #[test]
    fn what_was_not_installed_tells_why() {
        let missing: Missing = "go=no apt-get=here".parse().unwrap();
        let lacking = Lacking::find(&Places::of_workspace(), [].into_iter(), &[missing]);
        assert_eq!(lacking.any_of([Part::Node, Part::Go].into_iter()).as_deref(), Some("no apt-get=here"));
        assert_eq!(lacking.any_of([Part::Node].into_iter()), None);
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(
            version(Path::new("/usr/lib/postgresql/15/bin"))
                > version(Path::new("/usr/lib/postgresql/9/bin"))
        );
    }
}
