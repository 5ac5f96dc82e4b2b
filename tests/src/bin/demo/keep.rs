//! `--keep`: everything stays up for the audience to play with.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use anyhow::{Context as _, Result};
use balancer_tests::{
    agent,
    topology::{Scratch, interrupted},
};

use crate::{
    screen::Screen,
    stage::{Stage, vip},
};

/// Restores three backends with connections, says what to try, and waits for Ctrl-C.
pub fn keep(stage: &mut Stage<'_>, screen: &mut Screen) -> Result<()> {
    stage.serve(2)?;
    stage.serve(3)?;
    stage.serve(4)?;
    stage.publish(&[0, 1, 2])?;
    screen.title("Yours to try, until Ctrl-C (5 servers run, 3 are in the slice)");
    stage.hold(12, screen)?;

    // A shell joins the client's cgroup, where the programs are, before its namespace.
    let scratch = Scratch::files()?;
    let client = &stage.set.client;
    let enter = scratch.path().join("in-client");
    let script = format!(
        "#!/bin/sh\n# Runs a command in the client pod: its cgroup and its network namespace.\necho $$ > {}/cgroup.procs && exec ip netns exec {} \"$@\"\n",
        client.cgroup().path().display(),
        client.netns().name(),
    );
    fs::write(&enter, script)
        .and_then(|()| fs::set_permissions(&enter, fs::Permissions::from_mode(0o755)))
        .with_context(|| enter.display().to_string())?;

    let balancer = agent::binary()?;
    let enter = enter.display();
    screen.say(&format!(
        "
  export BALANCER_PINS={pins}
  {balancer} stats -A --watch
  {balancer} connections -A
  {balancer} explain {vip}
  {enter} curl -s http://{vip}/
  {enter} curl -s http://{vip}/ http://{vip}/ http://{vip}/
  $EDITOR {manifests}/shop.web-ipv4.slice.yaml    # add 10.244.0.6 and 10.244.0.7, or change the Service's algorithm
",
        pins = stage.agent.pins().display(),
        balancer = balancer.display(),
        vip = vip(),
        manifests = stage.set.manifests.path().display(),
    ));
    while !interrupted() {
        std::thread::sleep(Duration::from_millis(100));
    }
    screen.say("removing everything");
    Ok(())
}
