//! Which package a kernel's name stands for. Only apt is asked, and only for what its sources have.

use anyhow::{Result, bail};

use crate::cmd::Cmd;

/// What is booted unless kernels are named: the floor, Debian's own, and the newest.
pub const DEFAULT: [&str; 4] = ["5.15", "6.1", "6.12", "backports"];

/// The newest kernel of Debian's backports.
const BACKPORTS: &str = "backports";
/// What names of packages begin with.
const PREFIX: &str = "linux-image-";
/// The metapackage of ordinary kernels.
const META: &str = "linux-image-amd64";

/// A package that holds a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What apt says, by a chain that ends at Debian's signature, that its file hashes to.
    pub sha256: String,
}

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
enum Asked<'a> {
    Version(&'a str),
    Backports,
    Package(&'a str),
}

/// Whether this is the name of a kernel, be there one or not.
///
/// # Errors
/// When it is not.
pub fn check(asked: &str) -> Result<()> {
    read(asked).map(drop)
}

/// The package, or why there is none.
///
/// # Errors
/// When this is no name of a kernel, or apt cannot be asked.
pub fn find(asked: &str) -> Result<Result<Package, String>> {
    match read(asked)? {
        Asked::Version(version) => {
            let names = Cmd::new("apt-cache").args(["pkgnames", PREFIX]).output()?;
            for name in of_version(&names, version) {
                if let Some(package) = show(name) {
                    return Ok(Ok(package));
                }
            }
            Ok(Err(format!("apt's sources have no kernel {version} ({PREFIX}{version}…-amd64)")))
        }
        Asked::Backports => {
            let lines = Cmd::new("apt-cache").args(["madison", META]).output()?;
            let Some(version) = of_backports(&lines) else {
                return Ok(Err("apt's sources have no backports".into()));
            };
            Ok(real(&format!("{META}={version}")))
        }
        Asked::Package(name) => Ok(real(name)),
    }
}

/// Tells the forms of a name apart.
fn read(asked: &str) -> Result<Asked<'_>> {
    if asked == BACKPORTS {
        return Ok(Asked::Backports);
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-.+~".contains(c);
    if asked.starts_with(PREFIX) && asked.chars().all(plain) {
        return Ok(Asked::Package(asked));
    }
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if asked.contains('.') && asked.split('.').all(number) {
        return Ok(Asked::Version(asked));
    }
    bail!(
        "there is no kernel {asked:?}: name a version such as 6.1, `{BACKPORTS}` for the newest there, or a Debian package \
         such as {META}"
    )
}

/// What a metapackage depends on, or the package itself.
fn real(name: &str) -> Result<Package, String> {
    let missing = || format!("apt knows no package {name}");
    let shown =
        Cmd::new("apt-cache").args(["show", "--no-all-versions", name]).output().map_err(|_| missing())?;
    let depends = field(&shown, "Depends").unwrap_or_default();
    match depends.split([',', '|']).find_map(|word| word.trim().strip_prefix(PREFIX)) {
        Some(rest) => {
            let real = format!("{PREFIX}{}", rest.split_whitespace().next().unwrap_or_default());
            show(&real).ok_or_else(|| format!("apt knows no package {real}, which {name} names"))
        }
        None => package(&shown).ok_or_else(missing),
    }
}

fn show(name: &str) -> Option<Package> {
    package(&Cmd::new("apt-cache").args(["show", "--no-all-versions", name]).output().ok()?)
}

/// Reads apt's record of a package.
fn package(record: &str) -> Option<Package> {
    Some(Package {
        name: field(record, "Package")?.to_owned(),
        version: field(record, "Version")?.to_owned(),
        sha256: field(record, "SHA256")?.to_owned(),
    })
}

fn field<'a>(record: &'a str, name: &str) -> Option<&'a str> {
    record.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The ordinary kernels of a version among packages, newest first: `linux-image-6.1.0-56-amd64` for 6.1.
fn of_version<'a>(names: &'a str, version: &str) -> Vec<&'a str> {
    let mut found: Vec<&str> = names.lines().filter(|name| is_kernel(name, version)).collect();
    found.sort_by_key(|name| std::cmp::Reverse(numbers(name)));
    found
}

fn is_kernel(name: &str, version: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix(version));
    let Some(middle) = rest.and_then(|rest| rest.strip_suffix("-amd64")) else { return false };
    // 6.12 is no 6.1, and a metapackage has nothing in between.
    let flavour = |part: &str| matches!(part, "cloud" | "rt");
    middle.starts_with(['.', '-', '+']) && !middle.split('-').any(flavour)
}

/// The numbers in a name, by which versions compare.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// The first version, which is the newest, that `apt-cache madison` names as one of backports.
fn of_backports(madison: &str) -> Option<&str> {
    madison.lines().find_map(|line| {
        let mut parts = line.split('|').map(str::trim);
        let (_, version, origin) = (parts.next()?, parts.next()?, parts.next()?);
        origin.split([' ', '/']).any(|word| word.ends_with("-backports")).then_some(version)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &str = "linux-image-amd64\nlinux-image-6.12-amd64\nlinux-image-6.1.0-9-amd64\n\
        linux-image-6.1.0-56-amd64\nlinux-image-6.1.0-56-cloud-amd64\nlinux-image-6.1.0-57-rt-amd64\n\
        linux-image-6.1.0-58-amd64-dbg\nlinux-image-6.1.0-58-amd64-unsigned\n\
        linux-image-6.12.117+deb12-amd64\nlinux-image-6.12.99+deb12-amd64\n";

    #[test]
    fn the_newest_ordinary_kernel_of_a_version_comes_first() {
        assert_eq!(of_version(NAMES, "6.1"), ["linux-image-6.1.0-56-amd64", "linux-image-6.1.0-9-amd64"]);
        assert_eq!(
            of_version(NAMES, "6.12"),
            ["linux-image-6.12.117+deb12-amd64", "linux-image-6.12.99+deb12-amd64"]
        );
        assert_eq!(of_version(NAMES, "6.12.99"), ["linux-image-6.12.99+deb12-amd64"]);
        assert_eq!(of_version(NAMES, "5.15"), [""; 0]);
    }

    #[test]
    fn a_name_that_is_none_is_an_error_and_no_kernel_that_did_not_run() {
        assert_eq!(read("6.1").unwrap(), Asked::Version("6.1"));
        assert_eq!(read("backports").unwrap(), Asked::Backports);
        assert_eq!(read("linux-image-cloud-amd64").unwrap(), Asked::Package("linux-image-cloud-amd64"));
        for bad in ["", "6", "6.", ".1", "6.1 ", "bookworm", "linux-image-$(x)", "--help", "../6.1"] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")) && error.contains("such as 6.1"), "{error}");
        }
    }

    #[test]
    fn backports_are_told_from_other_suites() {
        let line =
            |version: &str, suite: &str| format!("{META} | {version} | mirror {suite}/main amd64 Packages\n");
        let lines = line("6.12.1-1~bpo12+1", "bookworm-backports") + &line("6.1.9-1", "bookworm");
        assert_eq!(of_backports(&lines), Some("6.12.1-1~bpo12+1"));
        assert_eq!(of_backports(&line("6.1.9-1", "bookworm-security")), None);
        assert_eq!(of_backports(""), None);
    }

    #[test]
    fn reads_a_record() {
        let record = "Package: linux-image-6.1.0-56-amd64\nVersion: 6.1.192-2\nDepends: kmod\nSHA256: a8\n";
        let package = package(record).unwrap();
        assert_eq!((package.version.as_str(), package.sha256.as_str()), ("6.1.192-2", "a8"));
        assert_eq!(super::package("Package: x\nVersion: 1\n"), None, "what cannot be checked is not used");
    }
}
