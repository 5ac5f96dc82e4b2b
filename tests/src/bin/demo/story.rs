//! What happens, chapter by chapter, and what it shows.

use std::{collections::BTreeMap, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use balancer_tests::peer::protocol::{Ask, Close, LoopPlan, LoopReport, Until};

use crate::{
    screen::Screen,
    stage::{Stage, pause, vip},
    verdicts::Verdicts,
};

/// Long-lived connections at first, on three backends.
const FIRST: u64 = 30;

/// Long-lived connections from the second chapter on.
const ALL: u64 = 50;

/// The whole of it.
pub fn tell(stage: &mut Stage<'_>, screen: &mut Screen, verdicts: &mut Verdicts) -> Result<()> {
    three(stage, screen, verdicts)?;
    five(stage, screen, verdicts)?;
    kill(stage, screen, verdicts)?;
    two(stage, screen, verdicts)?;
    agent_dies(stage, screen, verdicts)?;
    close(stage, screen, verdicts)
}

fn three(stage: &mut Stage<'_>, screen: &mut Screen, verdicts: &mut Verdicts) -> Result<()> {
    screen.title(&format!("3 backends: the client opens {FIRST} long-lived connections to {}", vip()));
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "5", &format!("http://{}/", vip())]);
    let page = stage.in_client(curl).context("curl")?;
    screen.say(&format!("curl http://{}/ says {}\n", vip(), page.trim()));

    let report = stage.hold(FIRST, screen)?;
    verdicts.equal("curl got an answer through the Service address", page.contains("\"pod\":\"web-"), true);
    verdicts.equal(
        format!("{FIRST} long-lived connections opened without a failure"),
        report.failures,
        BTreeMap::new(),
    );
    spread(stage, verdicts, &["web-1", "web-2", "web-3"])?;

    let socket = stage.long.connect(vip())?;
    let dialled = socket.peer()?;
    socket.close(Close::Graceful)?;
    verdicts.equal("an application that asks for its peer sees the Service address", dialled, vip());
    Ok(())
}

fn five(stage: &mut Stage<'_>, screen: &mut Screen, verdicts: &mut Verdicts) -> Result<()> {
    screen.title(&format!("3 -> 5 backends: {} more connections, short ones all the while", ALL - FIRST));
    let short = stage.short.clone();
    let running = short.start(Stage::short_plan())?;
    stage.serve(3)?;
    stage.serve(4)?;
    let took = stage.publish(&[0, 1, 2, 3, 4])?;
    screen.say(&format!("the new backends were in use {} ms after the manifest changed\n", took.as_millis()));
    stage.hold(ALL - FIRST, screen)?;
    let report = running.stop()?;
    no_failure(verdicts, "scaling from 3 to 5", &report);
    spread(stage, verdicts, &["web-1", "web-2", "web-3", "web-4", "web-5"])
}

fn kill(stage: &mut Stage<'_>, screen: &mut Screen, verdicts: &mut Verdicts) -> Result<()> {
    screen.title("One backend is killed (SIGKILL), and for 300 ms nobody takes it out of the slice");
    let refused_before = refused(stage)?;
    let short = stage.short.clone();
    let running = short.start(Stage::short_plan())?;
    pause(Duration::from_millis(300))?;
    stage.kill(4)?;
    pause(Duration::from_millis(300))?;
    let report = running.stop()?;
    let by_client = report.failures.get("connect ECONNREFUSED").copied().unwrap_or(0);
    let by_balancer = refused(stage)? - refused_before;
    screen.live(&stage.view(screen)?);
    verdicts.equal(
        format!("of the killed backend, balancer counted every connect that was refused: {by_client} of {by_client}"),
        by_balancer,
        by_client,
    );

    screen.say("\nIts pod is not ready any more: the slice goes from 5 to 4; the client connects again.\n");
    stage.publish(&[0, 1, 2, 3])?;
    let running = short.start(Stage::short_plan())?;
    let broken = stage.drop_broken(ALL / 5)?;
    verdicts.equal("the connections of the killed backend, and no others, broke", broken, ALL / 5);
    stage.hold(broken, screen)?;
    let report = running.stop()?;
    no_failure(verdicts, "the killed backend was out of the slice", &report);
    spread(stage, verdicts, &["web-1", "web-2", "web-3", "web-4"])
}

fn two(stage: &mut Stage<'_>, screen: &mut Screen, verdicts: &mut Verdicts) -> Result<()> {
    screen.title("4 -> 2 backends: the slice first, then the pods end; the client connects again");
    let leaving: u64 =
        stage.stats()?.backends.iter().filter(|b| leaves(b.pod.as_deref())).map(|b| b.active).sum();
    let short = stage.short.clone();
    let running = short.start(Stage::short_plan())?;
    stage.publish(&[0, 1])?;
    // What was about to be asked there is answered before they end.
    pause(Duration::from_millis(200))?;
    stage.stop(2)?;
    stage.stop(3)?;
    let broken = stage.drop_broken(leaving)?;
    stage.hold(broken, screen)?;
    let report = running.stop()?;
    no_failure(verdicts, "scaling down to 2", &report);
    spread(stage, verdicts, &["web-1", "web-2"])
}

fn leaves(pod: Option<&str>) -> bool {
    matches!(pod, Some("web-3" | "web-4"))
}

fn agent_dies(stage: &mut Stage<'_>, screen: &mut Screen, verdicts: &mut Verdicts) -> Result<()> {
    screen.title("The agent is killed (SIGKILL) and started again, under short connections");
    let before = stage.stats()?.active;
    let short = stage.short.clone();
    let plan = LoopPlan::tcp(vip(), Until::Count(500)).ask(Ask::Identity);
    stage.agent.kill()?;
    let without = short.run(plan)?;
    screen.live(&stage.view(screen)?);
    let running = short.start(Stage::short_plan())?;
    stage.agent.spawn()?;
    stage.agent.wait_ready()?;
    let meanwhile = running.stop()?;
    no_failure(verdicts, "no agent ran", &without);
    no_failure(verdicts, "the agent started again", &meanwhile);
    let after = stage.agent.wait_for(vip(), Duration::from_secs(5), |stats| stats.active == before);
    let after = after.or_else(|_| stage.stats())?.active;
    verdicts.equal(format!("after the restart the same {before} connections are counted"), after, before);
    Ok(())
}

fn close(stage: &mut Stage<'_>, screen: &mut Screen, verdicts: &mut Verdicts) -> Result<()> {
    screen.title("The client closes everything, half of it by RST");
    let half = ALL / 2;
    stage.long.release(half, Close::Reset)?;
    let left = stage.long.release(ALL - half, Close::Graceful)?.held;
    // The kernel tells of the end of the last ones a moment later.
    let settled = stage.agent.wait_for(vip(), Duration::from_secs(5), |stats| stats.active == 0);
    let stats = settled.or_else(|_| stage.stats())?;
    screen.live(&stage.view(screen)?);
    verdicts.equal("the client holds nothing any more", left, 0);
    verdicts.equal("every active count is 0", stats.total(|backend| backend.active), 0);
    let opened = stats.total(|backend| backend.opened);
    let closed = stats.total(|backend| backend.closed);
    verdicts.equal(
        format!("all of the {opened} connections opened to these backends are counted as closed"),
        closed,
        opened,
    );
    Ok(())
}

/// Connects that were refused by any backend, as balancer counts them.
fn refused(stage: &Stage<'_>) -> Result<u64> {
    Ok(stage.stats()?.total(|backend| backend.failed.refused))
}

/// Claims that held connections are as even over these pods as whole numbers allow, and that client, servers and balancer agree on it.
fn spread(stage: &mut Stage<'_>, verdicts: &mut Verdicts, pods: &[&str]) -> Result<()> {
    let asked = stage.long.ask_held()?;
    let pods: Vec<String> = pods.iter().map(|&pod| pod.to_owned()).collect();
    let (total, count) = (asked.held, pods.len() as u64);
    let seen: Vec<u64> = pods.iter().map(|pod| asked.pods.get(pod).copied().unwrap_or(0)).collect();
    let mut sorted = seen.clone();
    sorted.sort_unstable();
    let best: Vec<u64> =
        (0..count).map(|at| total / count + u64::from(at >= count - total % count)).collect();
    let list = seen.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    verdicts.equal(
        format!(
            "{total} long-lived connections on {count} backends are {list}: as even as whole numbers allow"
        ),
        sorted,
        best,
    );

    let by_client: BTreeMap<String, u64> = pods.iter().cloned().zip(seen).collect();
    let at_servers = stage.open_at_servers()?;
    let stats = stage.stats()?;
    let counted = stats.backends.iter().filter(|backend| backend.active > 0);
    let counted: BTreeMap<String, u64> =
        counted.map(|backend| (backend.pod.clone().unwrap_or_default(), backend.active)).collect();
    verdicts.equal(
        "  client, servers and balancer count the same connections per backend",
        (&at_servers, &counted),
        (&by_client, &by_client),
    );
    Ok(())
}

/// Claims that a loop had no failure.
fn no_failure(verdicts: &mut Verdicts, when: &str, report: &LoopReport) {
    let claim = format!("{} short connections while {when}: none failed", report.attempts);
    verdicts.equal(claim, (&report.failures, report.attempts > 0), (&BTreeMap::new(), true));
}
