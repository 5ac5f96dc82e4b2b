//! What goes wrong between the agent and the API server.

use std::time::Duration;

use anyhow::Result;

use super::world::World;
use crate::apiserver::{
    ApiServer as _,
    fake::{Fault, Rule, Verb, WatchFault, Wire},
};

/// A fault: its name, and how it begins. All end alike ([`heal`]).
pub type ApiFault = (&'static str, fn(&mut World<'_>) -> Result<()>);

/// Breaks all connections, so that the rule meets whatever comes next.
fn rule(world: &mut World<'_>, rule: Rule) -> Result<()> {
    world.api.fail(rule);
    world.api.serve_as(Wire::Https)
}

/// The same where everything has to be listed anew.
fn list_rule(world: &mut World<'_>, fault: Fault) -> Result<()> {
    world.api.refuse();
    world.api.compact();
    world.api.fail(Rule::new(fault).on(Verb::List));
    world.api.listen()
}

fn watch(world: &mut World<'_>, fault: WatchFault) -> Result<()> {
    rule(world, Rule::new(Fault::Watch(fault)))
}

/// All of them.
pub const FAULTS: [ApiFault; 24] = [
    ("API refuses", |it| it.api.stop()),
    ("API closes connections", |it| it.api.serve_as(Wire::Close)),
    ("API stands still", |it| it.api.pause()),
    ("API hangs", |it| rule(it, Rule::new(Fault::Hang))),
    ("API hangs within a list", |it| list_rule(it, Fault::HangHalfway)),
    ("API is slow", |it| list_rule(it, Fault::Trickle(Duration::from_millis(5)))),
    ("API is too slow", |it| list_rule(it, Fault::Trickle(Duration::from_millis(300)))),
    ("API says 401", |it| rule(it, Rule::new(Fault::Status(401)))),
    ("API says 410", |it| rule(it, Rule::new(Fault::Status(410)).on(Verb::Watch))),
    ("API says 429", |it| rule(it, Rule::new(Fault::RetryAfter(429, 1)))),
    ("API says 500", |it| rule(it, Rule::new(Fault::Status(500)))),
    ("API says 503", |it| rule(it, Rule::new(Fault::Status(503)))),
    ("watches expire", |it| watch(it, WatchFault::Expired)),
    ("watches say 500", |it| watch(it, WatchFault::InternalError)),
    ("watches are cut at once", |it| watch(it, WatchFault::CloseAtOnce)),
    ("watches are silent", |it| watch(it, WatchFault::Silent)),
    ("watches are cut in a line", |it| watch(it, WatchFault::Truncate)),
    ("watches say every event twice", |it| watch(it, WatchFault::Twice)),
    ("lists are cut", |it| list_rule(it, Fault::Truncate)),
    ("lists are garbage", |it| list_rule(it, Fault::Garbage)),
    ("history is forgotten", |it| {
        it.api.refuse();
        it.api.compact();
        it.api.listen()
    }),
    ("API is not TLS", |it| it.api.serve_as(Wire::NotTls)),
    ("API's certificate expired", |it| it.api.serve_as(Wire::Expired)),
    ("rights are lost", |it| {
        it.api.admin().delete(&World::binding()?)?;
        it.api.serve_as(Wire::Https)
    }),
];

/// All is well again; what was cut off begins anew.
pub fn heal(world: &mut World<'_>) -> Result<()> {
    world.api.heal();
    world.api.thaw();
    world.api.admin().apply(&World::binding()?)?;
    world.api.serve_as(Wire::Https)
}
