//! What can happen to the directory and to the links in it.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, time::timeout};

use super::{Harness, PATIENCE, run, service};
use crate::source::{SourceHealth, SourceKind, manifests::ManifestsConfig};

#[tokio::test]
async fn a_config_map_is_swapped_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let version = |version: &str, port: u16| {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("a.yaml"), service("a", port)).unwrap();
        fs::write(at(version).join("b.yaml"), service("b", port)).unwrap();
    };
    version("..1", 1);
    symlink("..1", at("..data")).unwrap();
    symlink("..data/a.yaml", at("a.yaml")).unwrap();
    symlink("..data/b.yaml", at("b.yaml")).unwrap();
    version("..2", 2);
    let (mut harness, first) = Harness::start_in(dir, |_| {}).await;
    assert_eq!(first[1], "all services [default/a:1 default/b:1]");
    symlink("..2", harness.path("..data_tmp")).unwrap();
    fs::rename(harness.path("..data_tmp"), harness.path("..data")).unwrap();
    fs::remove_dir_all(harness.path("..1")).unwrap();
    harness.expect(&["service default/a:2", "service default/b:2"]).await;
    // A key taken out of the map.
    fs::create_dir(harness.path("..3")).unwrap();
    fs::write(harness.path("..3/a.yaml"), service("a", 2)).unwrap();
    symlink("..3", harness.path("..data_tmp")).unwrap();
    fs::rename(harness.path("..data_tmp"), harness.path("..data")).unwrap();
    harness.expect(&["service gone default/b"]).await;
    fs::remove_file(harness.path("b.yaml")).unwrap();
    harness.expect_quiet().await;
}

#[tokio::test]
async fn links_put_in_place_are_read() {
    let (mut harness, _) = Harness::start(&[]).await;
    let elsewhere = tempfile::tempdir_in(harness.dir.path()).unwrap();
    let target = elsewhere.path().join("target");
    fs::write(&target, service("a", 1)).unwrap();
    symlink(&target, harness.path("a.yaml")).unwrap();
    harness.expect(&["service default/a:1"]).await;
    fs::write(&target, service("b", 2)).unwrap();
    fs::hard_link(&target, harness.path("b.yaml")).unwrap();
    harness.expect(&["service default/b:2"]).await;
}

#[tokio::test]
async fn a_directory_that_is_moved_away_takes_nothing_along() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("manifests");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("a.yaml"), service("a", 1)).unwrap();
    fs::write(inner.join("b.yaml"), service("b", 2)).unwrap();
    let (mut harness, _) = Harness::start_in(dir, |config| config.dir = inner.clone()).await;
    fs::rename(&inner, harness.path("elsewhere")).unwrap();
    let failing = |health: &SourceHealth| health.snapshot().resources[0].failing.is_some();
    harness.wait_until("missed", failing).await;
    harness.expect_quiet().await;
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("a.yaml"), service("a", 10)).unwrap();
    // Its removal is true, and it may be noticed before the new file is taken for whole.
    let mut events = harness.next(2).await;
    events.sort();
    assert_eq!(events, ["service default/a:10", "service gone default/b"]);
    harness.wait_until("back", |health| !failing(health)).await;
    // The new directory is watched like the old one was.
    fs::write(inner.join("a.yaml"), service("a", 11)).unwrap();
    harness.expect(&["service default/a:11"]).await;
}

#[tokio::test]
async fn files_removed_one_by_one_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("manifests");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("a.yaml"), service("a", 1)).unwrap();
    let (mut harness, _) = Harness::start_in(dir, |config| config.dir = inner.clone()).await;
    fs::remove_file(inner.join("a.yaml")).unwrap();
    harness.expect(&["service gone default/a"]).await;
    fs::remove_dir(&inner).unwrap();
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("a.yaml"), service("a", 2)).unwrap();
    harness.expect(&["service default/a:2"]).await;
}

#[tokio::test]
async fn a_scan_finds_what_inotify_does_not_see() {
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("target");
    fs::write(&target, service("a", 1)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    symlink(&target, dir.path().join("a.yaml")).unwrap();
    let (mut harness, _) =
        Harness::start_in(dir, |config| config.scan_interval = Duration::from_millis(50)).await;
    fs::write(&target, service("a", 2)).unwrap();
    harness.expect(&["service default/a:2"]).await;
    harness.expect_quiet().await;
}

#[tokio::test]
async fn permissions_are_noticed() {
    let (mut harness, _) = Harness::start(&[("a.yaml", &service("a", 1))]).await;
    let path = harness.path("a.yaml");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    // Nothing was written, and root may read it anyway.
    harness.expect_quiet().await;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    harness.expect_quiet().await;
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_an_error() {
    async fn start(dir: &Path) -> String {
        let (sender, _events) = mpsc::channel(1);
        let health = Arc::new(SourceHealth::new(SourceKind::Manifests));
        run(ManifestsConfig::new(dir, "n1"), sender, health).await.unwrap_err().to_string()
    }
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    assert_eq!(
        start(&missing).await,
        format!(
            "manifests directory {} does not exist: create it, or name another with --manifests",
            missing.display()
        )
    );
    fs::write(&missing, "").unwrap();
    assert!(start(&missing).await.contains("is not a directory"));
}

#[tokio::test]
async fn it_ends_when_nobody_listens() {
    let (harness, _) = Harness::start(&[]).await;
    drop(harness.events);
    assert!(timeout(PATIENCE, harness.task).await.unwrap().unwrap().is_ok());
}
