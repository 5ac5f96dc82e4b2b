//! What guests run.

use std::path::Path;

use anyhow::Result;

use crate::{cmd::quoted, toolchain, workspace};

/// A program of this machine, to be run in a guest.
#[derive(Clone, Debug)]
pub struct Command {
    /// The program and its arguments.
    pub line: Vec<String>,
    /// Variables that it is given.
    pub variables: Vec<(String, String)>,
}

/// Lets the verifier read objects: lines that begin with `guest: ` say which, and how it ended.
pub fn verify(verifier: &Path, objects: &[impl AsRef<Path>]) -> String {
    let mut text = String::new();
    for object in objects.iter().map(AsRef::as_ref) {
        let name = object.file_name().unwrap_or_default().to_string_lossy();
        text.push_str(&format!(
            "echo 'guest: verify {name}'\n{} {} 2>&1\necho \"guest: verified $?\"\n",
            quoted(verifier.as_os_str()),
            quoted(object.as_os_str())
        ));
    }
    text
}

/// Where the programs are that tests start.
pub fn variables(balancer: &Path) -> Vec<(String, String)> {
    let object = workspace::object();
    [
        ("BALANCER_BIN", balancer.to_owned()),
        ("BALANCER_MINIMAL_OBJECT", object.with_file_name("minimal.o")),
        ("BALANCER_EBPF_OBJECT", object),
    ]
    .map(|(name, path)| (name.to_owned(), path.display().to_string()))
    .into()
}

/// Sets variables, and goes to the root of the workspace.
pub fn enter(variables: &[(String, String)]) -> String {
    let mut text = String::new();
    for (name, value) in variables {
        text.push_str(&format!("export {name}={}\n", quoted(value.as_ref())));
    }
    text + &format!("cd {} || exit\n", quoted(workspace::root().as_os_str()))
}

/// Makes a guest that sees this machine's files like this machine, but for `/tmp`, which is empty unless `program` lies there.
///
/// # Errors
/// When rustup is not installed.
pub fn host(program: &Path) -> Result<String> {
    // Files below a directory that is covered would be gone.
    let needed = [workspace::root(), program].iter().any(|path| path.starts_with("/tmp"));
    let cover = if needed { "" } else { "mount -t tmpfs tmp /tmp\n" };
    let search = quoted(&toolchain::path()?);
    Ok(format!("export HOME=/root TERM=dumb PATH={search}:/usr/sbin:/sbin\n{cover}"))
}

/// Runs a program, and says how it ended.
pub fn run(command: &Command) -> String {
    let words: Vec<_> = command.line.iter().map(|word| quoted(word.as_ref())).collect();
    format!("{} 2>&1\necho \"guest: exit $?\"\n", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::Cmd;

    /// What a shell makes of a script.
    fn shell(script: &str) -> String {
        Cmd::new("sh").args(["-c", script]).output().unwrap()
    }

    #[test]
    fn words_reach_a_program_as_they_are_and_its_exit_code_comes_back() {
        let line = ["sh", "-c", "printf '%s|' \"$@\"; exit 7", "sh", "two words", "it's", "$HOME"];
        let command = Command { line: line.map(str::to_owned).into(), variables: Vec::new() };
        assert_eq!(shell(&run(&command)), "two words|it's|$HOME|guest: exit 7\n");
    }

    #[test]
    fn a_verifier_that_fails_or_is_missing_is_told() {
        let objects = ["/x/a.o", "/x/b.o"];
        let text = shell(&verify(Path::new("false"), &objects));
        assert_eq!(text, "guest: verify a.o\nguest: verified 1\nguest: verify b.o\nguest: verified 1\n");
        assert!(shell(&verify(Path::new("/nonexistent"), &objects[..1])).ends_with("guest: verified 127\n"));
    }

    #[test]
    fn a_program_below_tmp_is_not_covered() {
        assert!(host(Path::new("/tmp/x/program")).unwrap().ends_with(":/sbin\n"));
        let covered = host(Path::new("/usr/bin/true")).unwrap().contains("mount -t tmpfs tmp /tmp\n");
        assert_eq!(covered, !workspace::root().starts_with("/tmp"));
    }

    #[test]
    fn variables_are_set_and_the_place_is_the_root() {
        let variables = [("A".to_owned(), "x 'y'".to_owned())];
        let script = enter(&variables) + "echo \"$A\"; pwd";
        assert_eq!(shell(&script), format!("x 'y'\n{}\n", workspace::root().display()));
    }
}
