//! What must hold with any API server: each of these runs against ours and against a real one.

use std::time::Instant;

use anyhow::{Result, ensure};
use balancer_tests::{
    apiserver::{AGENT_ACCOUNT, AGENT_NAMESPACE, ApiServer, FakeServer, RealServer, kubeconfig, objects},
    topology::{Topology, service_v4},
};
use rustix::process::Signal;
use serde_json::json;

use crate::lab::{Lab, PATIENCE, TIMEOUT};

/// Each function becomes a test below `fake` and one below `real`.
macro_rules! conformance {
    ($($name:ident $(($($argument:expr),*))?,)*) => {
        mod fake {
            use super::*;
            $(#[test] fn $name() -> Result<()> {
                let topology = Topology::new()?;
                super::$name(Lab::start(&topology, FakeServer::start(&topology)?, &[$($($argument),*)?])?)
            })*
        }
        mod real {
            use super::*;
            $(#[test] fn $name() -> Result<()> {
                let topology = Topology::new()?;
                super::$name(Lab::start(&topology, RealServer::start(&topology)?, &[$($($argument),*)?])?)
            })*
        }
    };
}

conformance! {
    changes_arrive,
    a_server_that_stands_still,
    a_server_that_dies_and_comes_back,
    a_version_that_is_gone,
    a_backup_that_was_restored,
    a_backup_and_a_periodic_list("--relist", "10s"),
    a_missing_permission,
    a_token_that_rotates,
    more_than_a_page,
}

fn changes_arrive<S: ApiServer>(mut lab: Lab<'_, S>) -> Result<()> {
    ensure!(lab.agent.log().contains("in step"), "{}", lab.agent.log());
    ensure!(!lab.agent.log().contains("WARN  source"), "{}", lab.agent.log());
    for pods in [&[3][..], &[3, 4, 5], &[]] {
        lab.set("web", pods)?;
        lab.expect(PATIENCE)?;
    }
    lab.remove("web")?;
    lab.expect(PATIENCE)?;
    // Recreated at another address.
    lab.admin().create(&objects::service("web", service_v4(310).into(), 80))?;
    lab.set("web", &[7])?;
    lab.expect(PATIENCE)?;
    let address =
        lab.agent.stats()?.into_iter().find(|service| service.name == "web").map(|service| service.address);
    ensure!(address == Some(service_v4(310).into()), "{address:?}");
    // One that leaves the selector is as good as gone.
    let db = objects::service("db", service_v4(301).into(), 80);
    lab.admin().patch(
        &db,
        &json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "other"}}}),
    )?;
    let kept = lab.wanted.remove("db");
    lab.expect(PATIENCE)?;
    lab.admin()
        .patch(&db, &json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": null}}}))?;
    lab.wanted.insert("db".to_owned(), kept.unwrap_or_default());
    lab.expect(PATIENCE)?;
    Ok(())
}

fn a_server_that_stands_still<S: ApiServer>(mut lab: Lab<'_, S>) -> Result<()> {
    let pid = lab.agent.process()?.id();
    lab.server.pause()?;
    let before = lab.usage()?;
    // Longer than a watch may be silent.
    lab.stays(&lab.wanted, TIMEOUT * 8)?;
    let after = lab.usage()?;
    lab.server.resume()?;
    ensure!(after.cpu - before.cpu < TIMEOUT, "{before:?} {after:?}");
    let said = lab.lines("no answer within");
    ensure!((1..=6).contains(&said.len()), "{said:?}");
    lab.set("web", &[5])?;
    lab.expect(PATIENCE)?;
    lab.runs(pid)
}

fn a_server_that_dies_and_comes_back<S: ApiServer>(mut lab: Lab<'_, S>) -> Result<()> {
    let pid = lab.agent.process()?.id();
    lab.set("web", &[4])?;
    lab.expect(PATIENCE)?;
    lab.server.stop()?;
    lab.stays(&lab.wanted, TIMEOUT * 2)?;
    let said = lab.lines("cannot reach the API server");
    ensure!((1..=2).contains(&said.len()), "{said:?}");
    ensure!(lab.metric("balancer_source_errors_total")? >= 1.0);
    lab.server.start()?;
    lab.remove("db")?;
    lab.set("web", &[5])?;
    lab.expect(PATIENCE)?;
    lab.runs(pid)
}

fn a_version_that_is_gone<S: ApiServer>(mut lab: Lab<'_, S>) -> Result<()> {
    lab.agent.process()?.signal(Signal::STOP)?;
    lab.server.stop()?;
    lab.server.start()?;
    for n in 0..20 {
        lab.set("web", &[n])?;
    }
    lab.remove("db")?;
    lab.server.stop()?;
    lab.server.start()?;
    lab.agent.process()?.signal(Signal::CONT)?;
    lab.expect(PATIENCE)?;
    lab.set("web", &[5])?;
    lab.expect(PATIENCE)?;
    Ok(())
}

/// Writes more, so that the versions that the agent saw are ahead of those that follow.
fn restore<S: ApiServer>(lab: &mut Lab<'_, S>) -> Result<()> {
    lab.server.save()?;
    let saved = lab.wanted.clone();
    for n in 10..30 {
        lab.set("web", &[n])?;
    }
    lab.expect(PATIENCE)?;
    lab.server.go_back()?;
    lab.wanted = saved;
    Ok(())
}

fn a_backup_that_was_restored<S: ApiServer>(mut lab: Lab<'_, S>) -> Result<()> {
    let pid = lab.agent.process()?.id();
    restore(&mut lab)?;
    lab.expect(PATIENCE)?;
    ensure!(!lab.lines("restored backup").is_empty(), "{}", lab.agent.log());
    lab.set("web", &[5])?;
    lab.expect(PATIENCE)?;
    lab.runs(pid)
}

fn a_backup_and_a_periodic_list<S: ApiServer>(mut lab: Lab<'_, S>) -> Result<()> {
    restore(&mut lab)?;
    lab.expect(PATIENCE)?;
    lab.set("web", &[5])?;
    lab.expect(PATIENCE)?;
    Ok(())
}

fn a_missing_permission<S: ApiServer>(mut lab: Lab<'_, S>) -> Result<()> {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "balancer"},
    });
    let rules =
        lab.admin().request("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/balancer", None)?;
    let fewer: Vec<_> = rules["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|rule| !rule["resources"].to_string().contains("endpointslices"))
        .collect();
    lab.admin().patch(&role, &json!({"rules": fewer}))?;
    // What is open stays open; the next request is refused.
    lab.server.stop()?;
    lab.server.start()?;
    let begun = Instant::now();
    while lab.lines(" endpointslices: HTTP 403").is_empty() && begun.elapsed() < PATIENCE {
        lab.stays(&lab.wanted, TIMEOUT / 4)?;
    }
    // Nothing more is said of it.
    lab.stays(&lab.wanted, TIMEOUT)?;
    let said = lab.lines(" endpointslices: HTTP 403");
    ensure!(said.len() == 1, "{}", lab.agent.log());
    ensure!(said[0].contains("system:serviceaccount:balancer-system:balancer"), "{said:?}");
    lab.admin().patch(&role, &json!({"rules": rules["rules"]}))?;
    lab.set("web", &[6])?;
    lab.expect(PATIENCE)?;
    Ok(())
}

fn a_token_that_rotates<S: ApiServer>(mut lab: Lab<'_, S>) -> Result<()> {
    // The tokens of an account end with it.
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": AGENT_ACCOUNT, "namespace": AGENT_NAMESPACE},
    });
    lab.admin().delete(&account)?;
    lab.admin().create(&account)?;
    lab.server.stop()?;
    lab.server.start()?;
    lab.stays(&lab.wanted, TIMEOUT * 2)?;
    let said = lab.lines("401");
    ensure!(said.len() == 1, "{}", lab.agent.log());
    // Clients read the file again once a minute; the agent does after each 401.
    kubeconfig::replace(lab.token(), &lab.admin().token(AGENT_NAMESPACE, AGENT_ACCOUNT)?)?;
    lab.set("web", &[6])?;
    lab.expect(PATIENCE)?;
    Ok(())
}

fn more_than_a_page<S: ApiServer>(mut lab: Lab<'_, S>) -> Result<()> {
    let mut services = Vec::new();
    for n in 0..1_200u16 {
        services.push(objects::service(&format!("s{n}"), service_v4(1_000 + n).into(), 80));
    }
    lab.admin().create_all(services)?;
    for n in 0..1_200u16 {
        lab.wanted.insert(format!("s{n}"), Default::default());
    }
    lab.expect(PATIENCE)?;
    lab.agent.restart()?;
    lab.expect(PATIENCE)?;
    Ok(())
}
