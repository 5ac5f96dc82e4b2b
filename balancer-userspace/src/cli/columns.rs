//! Columns of backends, for `stats` and `backends`.

use balancer_common::abi::BackendState;

use super::{
    output::backend::state_name,
    table::{Align, Cell},
    term::Ink,
    text,
};
use crate::{
    handshake::{Quantile, quantile},
    view::{BackendView, Condition, ServiceView},
};

/// A title, a side and how to fill a cell.
pub type Column = (&'static str, Align, fn(&BackendView) -> Cell);

pub const BACKEND: Column = ("BACKEND", Align::Left, |backend| Cell::new(backend.addr.to_string()));
pub const POD: Column = ("POD", Align::Left, |backend| Cell::new(&backend.pod));
pub const NODE: Column = ("NODE", Align::Left, |backend| Cell::new(&backend.node));
pub const ZONE: Column = ("ZONE", Align::Left, |backend| Cell::new(&backend.zone));
pub const STATE: Column = ("STATE", Align::Left, |backend| {
    let ink = match (backend.state, backend.health.condition) {
        (BackendState::Ready | BackendState::Terminating, Condition::Ejected(_)) => Ink::Bad,
        (BackendState::Ready, Condition::Avoided(_) | Condition::Trial(_)) => Ink::Warn,
        (BackendState::Ready, Condition::Ok | Condition::Ramping(_)) => Ink::Good,
        (BackendState::Terminating | BackendState::Draining, _) => Ink::Warn,
        (BackendState::Removed | BackendState::Unused | BackendState::Free, _) => Ink::Dim,
    };
    Cell::inked(state_text(backend), ink)
});
pub const WEIGHT: Column = ("WEIGHT", Align::Right, |backend| Cell::number(backend.weight.into()));
pub const ACTIVE: Column = ("ACTIVE", Align::Right, |backend| Cell::number(backend.stats.active));
pub const OPENED: Column = ("OPENED", Align::Right, |backend| Cell::number(backend.stats.opened));
pub const ESTABLISHED: Column =
    ("ESTABLISHED", Align::Right, |backend| Cell::number(backend.stats.established));
pub const FAILED: Column = ("FAILED", Align::Right, |backend| Cell::bad_unless_zero(backend.failed()));
pub const REFUSED: Column = ("REFUSED", Align::Right, |backend| Cell::bad_unless_zero(backend.stats.refused));
pub const TIMED_OUT: Column =
    ("TIMED-OUT", Align::Right, |backend| Cell::bad_unless_zero(backend.stats.timed_out));
pub const UNREACHABLE: Column =
    ("UNREACHABLE", Align::Right, |backend| Cell::bad_unless_zero(backend.stats.unreachable));
pub const ABORTED: Column = ("ABORTED", Align::Right, |backend| Cell::bad_unless_zero(backend.stats.aborted));
pub const CLOSED: Column = ("CLOSED", Align::Right, |backend| Cell::number(backend.stats.closed));
/// Handshake times are bounds, not values: the histogram knows no more.
pub const P50: Column = ("CONNECT-P50", Align::Right, |backend| quantile_cell(backend, 0.5));
pub const P99: Column = ("CONNECT-P99", Align::Right, |backend| quantile_cell(backend, 0.99));
pub const BYTES_IN: Column = ("IN", Align::Right, |backend| Cell::new(text::bytes(backend.stats.bytes_in)));
pub const BYTES_OUT: Column =
    ("OUT", Align::Right, |backend| Cell::new(text::bytes(backend.stats.bytes_out)));
pub const RETRANSMITS: Column =
    ("RETRANSMITS", Align::Right, |backend| Cell::number(backend.stats.retransmits));

/// `ready`, `ejected 12s`, `terminating, ejected 12s`, `draining`. How a backend is that is not chosen anyway is
/// nobody's concern.
fn state_text(backend: &BackendView) -> String {
    let state = state_name(backend.state);
    let condition = backend.health.condition;
    let health = match condition {
        Condition::Ok => return state.to_owned(),
        Condition::Ejected(left) if !left.is_zero() => format!("ejected {}", text::duration(left)),
        _ => condition.name().to_owned(),
    };
    match backend.state {
        BackendState::Ready => health,
        BackendState::Terminating => format!("{state}, {health}"),
        _ => state.to_owned(),
    }
}

fn quantile_cell(backend: &BackendView, q: f64) -> Cell {
    match quantile(&backend.stats.handshakes, q) {
        Some(Quantile::AtMost(ns)) => Cell::new(format!("<={}", text::nanoseconds(ns))),
        Some(Quantile::Above(ns)) => Cell::inked(format!(">{}", text::nanoseconds(ns)), Ink::Bad),
        None => Cell::new(""),
    }
}

/// `namespace/name:port`, the port by name; `namespace/name` for an unnamed port.
pub fn service_label(service: &ServiceView) -> String {
    let mut label = format!("{}/{}", service.namespace, service.name);
    if !service.port_name.is_empty() {
        label.push(':');
        label.push_str(&service.port_name);
    }
    label
}
