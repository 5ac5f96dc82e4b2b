//! The libraries, each with the program that uses it and the server that it talks to.

use std::{ffi::OsString, path::Path, process::Command};

use super::parts::{Part, Places};

/// A client library, as the suite runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Library {
    /// How it is asked for: `--only NAME`.
    pub name: &'static str,
    /// What it talks to.
    pub server: ServerKind,
    /// Requests between two silences. One where the library spreads them over its pool by itself.
    pub burst: u32,
    /// Whether `--short` has it: quick to install, and each different from the others.
    pub short: bool,
    program: Program,
}

/// What answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// Node.js, HTTP/1.1.
    Http,
    /// Node.js, HTTP/1.1 over TLS 1.3.
    Https,
    /// grpcio.
    Grpc,
    /// Redis.
    Redis,
    /// PostgreSQL.
    Postgres,
}

/// The program in `tests/clients`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Python(&'static str),
    Node(&'static str),
    Undici,
    Java,
    Go,
    Reqwest,
}

/// All of them, in the order of the table.
pub const LIBRARIES: &[Library] = &[
    Library::new("requests", Program::Python("use_requests.py"), ServerKind::Http).short(),
    Library::new("requests-https", Program::Python("use_requests.py"), ServerKind::Https),
    Library::new("urllib3", Program::Python("use_urllib3.py"), ServerKind::Http),
    Library::new("httpx", Program::Python("use_httpx.py"), ServerKind::Http),
    Library::new("httpx-async", Program::Python("use_httpx_async.py"), ServerKind::Http),
    Library::new("aiohttp", Program::Python("use_aiohttp.py"), ServerKind::Http).short(),
    Library::new("aiohttp-https", Program::Python("use_aiohttp.py"), ServerKind::Https),
    Library::new("node-http", Program::Node("use_http.js"), ServerKind::Http).short(),
    Library::new("undici", Program::Undici, ServerKind::Http),
    Library::new("undici-https", Program::Undici, ServerKind::Https),
    Library::new("java-http", Program::Java, ServerKind::Http),
    Library::new("go-http", Program::Go, ServerKind::Http),
    Library::new("reqwest", Program::Reqwest, ServerKind::Http),
    Library::new("grpcio", Program::Python("use_grpc.py"), ServerKind::Grpc),
    Library::new("redis-py", Program::Python("use_redis.py"), ServerKind::Redis).short(),
    Library::new("psycopg-pool", Program::Python("use_psycopg.py"), ServerKind::Postgres).one_at_a_time(),
];

impl Library {
    const fn new(name: &'static str, program: Program, server: ServerKind) -> Self {
        Self { name, server, burst: 3, short: false, program }
    }

    const fn short(self) -> Self {
        Self { short: true, ..self }
    }

    const fn one_at_a_time(self) -> Self {
        Self { burst: 1, ..self }
    }

    /// What has to be installed for it, and for its server.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        let program: &[Part] = match self.program {
            Program::Python(_) => &[Part::Python],
            Program::Node(_) => &[Part::Node],
            Program::Undici => &[Part::Node, Part::Undici],
            Program::Java => &[Part::Java],
            Program::Go => &[Part::Go],
            Program::Reqwest => &[Part::Reqwest],
        };
        let server = match self.server {
            ServerKind::Http | ServerKind::Https => Part::Node,
            ServerKind::Grpc => Part::Python,
            ServerKind::Redis => Part::Redis,
            ServerKind::Postgres => Part::Postgres,
        };
        program.iter().copied().chain([server])
    }

    /// The command that starts its client, with nothing said yet of where to connect.
    pub fn command(&self, places: &Places) -> Command {
        match self.program {
            Program::Python(file) => places.python(file),
            Program::Node(file) => places.node(file),
            Program::Undici => places.node("use_undici.js"),
            Program::Java => {
                let mut command = Command::new("java");
                // One collector thread and two compiler threads are enough, and the machine may be small.
                command.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]);
                command.arg(places.tools.join("java")).arg("Client");
                command
            }
            Program::Go => Command::new(places.tools.join("go-client")),
            Program::Reqwest => Command::new(places.tools.join("reqwest/debug/balancer-client-reqwest")),
        }
    }
}

impl Places {
    /// A Python program, with the libraries of `requirements.txt`.
    pub(super) fn python(&self, file: &str) -> Command {
        let mut command = Command::new(self.tools.join("venv/bin/python"));
        // Nothing is written beside the sources.
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.arg(self.source(&["python", file]));
        command
    }

    /// A Node.js program, with the libraries of `package.json`.
    pub(super) fn node(&self, file: &str) -> Command {
        let mut command = Command::new("node");
        // Where libraries are looked for that are not beside the program.
        command.env("NODE_PATH", self.tools.join("node/node_modules"));
        command.arg(self.source(&["node", file]));
        command
    }

    fn source(&self, below: &[&str]) -> OsString {
        below.iter().fold(self.sources.clone(), |path, part| path.join(Path::new(part))).into_os_string()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_their_programs_exist() {
        let names: BTreeSet<_> = LIBRARIES.iter().map(|library| library.name).collect();
        assert_eq!(names.len(), LIBRARIES.len());
        let places = Places::of_workspace();
        for library in LIBRARIES {
            let (Program::Python(file) | Program::Node(file)) = library.program else { continue };
            let dir = if matches!(library.program, Program::Python(_)) { "python" } else { "node" };
            assert!(Path::new(&places.source(&[dir, file])).is_file(), "{}", library.name);
        }
    }
}
