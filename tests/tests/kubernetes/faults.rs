//! What the agent does about each thing that can go wrong between it and the API server.
//!
//! Each case: a fault begins; a Service changes; the tables must hold the old view or the new one, as the case says,
//! and nothing else; the log says it so often and no more; processor time and requests are bounded; the fault ends; the
//! tables are right and follow again, by the same process.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use balancer_tests::{
    apiserver::{
        ApiServer as _, FakeServer,
        fake::{Fault, Rule, Verb, WatchFault, Wire},
    },
    topology::Topology,
};

use crate::lab::{Lab, PATIENCE};

/// How long a fault lasts.
const HOLD: Duration = Duration::from_secs(4);

/// Most processor time that the agent may take during a fault. Unoptimised, a start alone takes 0.1 s.
const CPU: Duration = Duration::from_millis(800);

/// Most requests in that time: three resources, two at each attempt.
const REQUESTS: u64 = 40;

type FakeLab<'t> = Lab<'t, FakeServer<'t>>;

/// What becomes of a change during the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// It waits for the end of the fault.
    Waits,
    /// It arrives all the same.
    Arrives,
}

struct Case {
    begin: fn(&mut FakeLab<'_>) -> Result<()>,
    change: Change,
    /// What the log says, once for each thing that it is true of; nothing at all if empty.
    said: &'static str,
}

use Change::{Arrives, Waits};

/// Breaks all connections, so that the rule meets whatever comes next.
fn rule(lab: &mut FakeLab<'_>, rule: Rule) -> Result<()> {
    lab.server.fail(rule);
    lab.server.serve_as(Wire::Https)
}

/// The same where everything has to be listed anew.
fn list_rule(lab: &mut FakeLab<'_>, fault: Fault) -> Result<()> {
    lab.server.refuse();
    lab.touch()?;
    lab.server.compact();
    lab.server.fail(Rule::new(fault).on(Verb::List));
    lab.server.listen()
}

fn watch(lab: &mut FakeLab<'_>, fault: WatchFault) -> Result<()> {
    rule(lab, Rule::new(Fault::Watch(fault)))
}

macro_rules! faults {
    ($($name:ident: $change:ident, $said:expr, $begin:expr;)*) => {
        $(#[test] fn $name() -> Result<()> {
            run(stringify!($name), &Case { begin: $begin, change: $change, said: $said })
        })*
    };
}

faults! {
    refused: Waits, "refused", |lab| lab.server.stop();
    accepted_and_closed: Waits, "cannot reach the API server", |lab| lab.server.serve_as(Wire::Close);
    hangs_before_headers: Waits, "no answer within 2 s", |lab| rule(lab, Rule::new(Fault::Hang));
    hangs_within_a_list: Waits, "no answer within 2 s", |lab| list_rule(lab, Fault::HangHalfway);
    too_slow_a_list: Waits, "no answer within 2 s", |lab| list_rule(lab, Fault::Trickle(Duration::from_millis(300)));
    a_slow_list: Arrives, "", |lab| list_rule(lab, Fault::Trickle(Duration::from_millis(5)));
    http_401: Waits, "/kubeconfig says we are is not known", |lab| rule(lab, Rule::new(Fault::Status(401)));
    http_403: Waits, "HTTP 403", |lab| rule(lab, Rule::new(Fault::Status(403)));
    http_429: Waits, "HTTP 429", |lab| rule(lab, Rule::new(Fault::Status(429)));
    http_429_with_retry_after: Waits, "HTTP 429", |lab| rule(lab, Rule::new(Fault::RetryAfter(429, 1)));
    http_500: Waits, "HTTP 500", |lab| rule(lab, Rule::new(Fault::Status(500)));
    http_503: Waits, "HTTP 503", |lab| rule(lab, Rule::new(Fault::Status(503)));
    http_504: Waits, "HTTP 504", |lab| rule(lab, Rule::new(Fault::Status(504)));
    watch_answered_with_410: Arrives, "", |lab| rule(lab, Rule::new(Fault::Status(410)).on(Verb::Watch));
    watch_that_says_410: Arrives, "", |lab| watch(lab, WatchFault::Expired);
    watch_that_says_500: Arrives, "HTTP 500", |lab| watch(lab, WatchFault::InternalError);
    watch_closed_at_once: Arrives, "ended it at once", |lab| watch(lab, WatchFault::CloseAtOnce);
    watch_that_is_silent: Arrives, "", |lab| watch(lab, WatchFault::Silent);
    lines_in_pieces: Arrives, "", |lab| watch(lab, WatchFault::Split);
    several_events_in_a_chunk: Arrives, "", |lab| watch(lab, WatchFault::Batch);
    every_event_twice: Arrives, "", |lab| watch(lab, WatchFault::Twice);
    truncated_list: Waits, "peer closed connection", |lab| list_rule(lab, Fault::Truncate);
    truncated_watch: Arrives, "", |lab| watch(lab, WatchFault::Truncate);
    garbage_in_a_watch: Arrives, "", |lab| watch(lab, WatchFault::Garbage);
    a_page_of_html: Waits, "cannot read the answer", |lab| list_rule(lab, Fault::Garbage);
    json_of_something_else: Waits, "cannot read the answer", |lab| list_rule(lab, Fault::OtherJson);
    no_tls: Waits, "does not speak TLS", |lab| lab.server.serve_as(Wire::Plain);
    not_tls: Waits, "does not speak TLS", |lab| lab.server.serve_as(Wire::NotTls);
    not_http: Waits, "does not speak HTTP", |lab| lab.server.serve_as(Wire::NotHttp);
    http_1_0_of_something_else: Waits, "cannot read the answer", |lab| lab.server.serve_as(Wire::Http10);
    wrong_authority: Waits, "/kubeconfig: certificate-authority there must", |lab| lab.server.serve_as(Wire::WrongAuthority);
    expired_certificate: Waits, "renew the API server's certificate", |lab| lab.server.serve_as(Wire::Expired);
}

fn run(name: &str, case: &Case) -> Result<()> {
    let topology = Topology::new()?;
    let mut lab = Lab::start(&topology, FakeServer::start(&topology)?, &[])?;
    lab.server.bookmark_every(Duration::from_secs(1));
    let pid = lab.agent.process()?.id();
    let (errors, requests, before) =
        (lab.metric("balancer_source_errors_total")?, lab.server.asked_in_all(), lab.usage()?);
    let old = lab.wanted.clone();

    (case.begin)(&mut lab)?;
    let begun = Instant::now();
    lab.set("web", &[3, 4])?;
    match case.change {
        Waits => lab.stays(&old, HOLD).context("during the fault")?,
        Arrives => {
            lab.expect(PATIENCE).context("during the fault")?;
            // A watch has had its first event by now.
            lab.set("web", &[3])?;
            lab.expect(PATIENCE).context("during the fault, a second time")?;
        }
    }
    let lasted = begun.elapsed();
    let (after, asked) = (lab.usage()?, lab.server.asked_in_all() - requests);
    let cpu = after.cpu.saturating_sub(before.cpu);
    let times = 1 + u32::try_from(lasted.as_secs() / HOLD.as_secs())?;
    ensure!(cpu < CPU * times, "{cpu:?} of processor time in {lasted:?}");
    ensure!(asked <= REQUESTS * u64::from(times), "{asked} requests in {lasted:?}");
    if case.change == Waits {
        ensure!(lab.metric("balancer_source_errors_total")? > errors, "no error is counted");
        let age = lab.metric("balancer_source_contact_age_seconds")?;
        ensure!(age > 2.0, "last contact {age} s ago");
        let (_, detail) = lab.check("sync")?;
        ensure!(
            ["last word 2 s", "last word 3 s", "last word 4 s", "last word 5 s", "last word 6 s"]
                .iter()
                .any(|word| detail.contains(word)),
            "check says {detail}"
        );
    }
    let warnings: Vec<_> = lab.lines("source").into_iter().filter(|line| line.contains("WARN")).collect();
    if case.said.is_empty() {
        ensure!(warnings.len() <= 4, "{}", warnings.join("\n"));
    } else {
        let said = warnings.iter().filter(|line| line.contains(case.said)).count();
        // Once for each of the four resources, where what is wrong is said of one.
        ensure!((1..=4).contains(&said), "{said} times {:?} in\n{}", case.said, lab.agent.log());
        ensure!(warnings.len() <= 6, "{}", warnings.join("\n"));
    }

    lab.server.heal();
    lab.server.serve_as(Wire::Https)?;
    let recovered = lab.expect(PATIENCE).context("after the fault")?;
    lab.set("db", &[9])?;
    lab.expect(PATIENCE).context("afterwards")?;
    lab.runs(pid)?;
    println!(
        "{name}: {:.0} ms of processor time and {asked} requests in {:.1} s, right again after {:.1} s; {}",
        cpu.as_secs_f64() * 1e3,
        lasted.as_secs_f64(),
        recovered.as_secs_f64(),
        warnings.first().map_or("nothing said", |line| line.as_str()),
    );
    Ok(())
}

/// etcd restored beneath a running API server: open watches hear nothing and no connection breaks.
#[test]
fn restored_beneath_open_watches() -> Result<()> {
    let topology = Topology::new()?;
    let mut lab = Lab::start(&topology, FakeServer::start(&topology)?, &["--relist", "10s"])?;
    let (backup, old) = (lab.server.backup(), lab.wanted.clone());
    for n in 10..30 {
        lab.set("web", &[n])?;
    }
    lab.expect(PATIENCE)?;
    lab.server.restore(&backup);
    lab.wanted = old;
    lab.expect(PATIENCE)?;
    lab.set("web", &[5])?;
    lab.expect(PATIENCE)?;
    Ok(())
}

/// The same objects as a real API server is given: a difference between the two shows here.
#[test]
fn objects_on_the_border() -> Result<()> {
    let topology = Topology::new()?;
    crate::real::on_the_border(&mut Lab::start(&topology, FakeServer::start(&topology)?, &[])?)
}
