//! `balancer connections`: the live sockets that were translated.

use std::{cmp::Reverse, time::Duration};

use clap::Args;

use super::{
    context::Context,
    exit::{Exit, Failure},
    output::{Document, Format, FormatArgs, Kind, answers::ConnectionDoc},
    select::{PortName, Scope},
    table::{Align, Cell, Table},
    term::Ink,
    text,
};
use crate::view::{BackendGone, Connection, Process};

/// Flags of `balancer connections`.
#[derive(Args, Clone, Debug, Default)]
pub struct ConnectionsArgs {
    #[command(flatten)]
    scope: Scope,

    /// Sockets of this process alone
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,

    /// Sockets to backends that were removed from their Service, alone
    #[arg(long)]
    removed: bool,

    #[command(flatten)]
    format: FormatArgs,
}

/// Runs the command.
pub fn run(args: &ConnectionsArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let snapshot = context.snapshot()?;
    let selected = args.scope.select(&snapshot);
    let mut connections = Vec::new();
    for connection in context.node().connections(context.pins(), &snapshot)? {
        let of_process = |pid| connection.process.as_ref().is_some_and(|process| process.pid == pid);
        if args.scope.matches(PortName::from(&connection))?
            && args.pid.is_none_or(of_process)
            && (!args.removed || connection.backend_gone == BackendGone::Yes)
        {
            connections.push(connection);
        }
    }
    // Connections outlive their Service: it need not be there for them to be shown.
    let hint = if connections.is_empty() { selected?.hint } else { None };
    // By Service and backend, the oldest first: those are the ones that make a spread uneven.
    connections.sort_by(|a, b| order(a).cmp(&order(b)));
    let format = args.format.output;
    if matches!(format, Format::Json | Format::Yaml) {
        let items = connections.iter().map(ConnectionDoc::from).collect();
        context.print_document(format, &Document::of(Kind::Connections, &snapshot, items))?;
        return Ok(Exit::Ok);
    }
    context.warn(&snapshot);
    if connections.is_empty() {
        context.note(hint.as_deref().unwrap_or("no open connection matches"));
        return Ok(Exit::Ok);
    }
    let text = table(&connections, format, context);
    context.print(&text)?;
    Ok(Exit::Ok)
}

type Order<'a> = (&'a str, &'a str, &'a str, std::net::SocketAddr, Reverse<Option<Duration>>, Option<u32>);

fn order(connection: &Connection) -> Order<'_> {
    (
        &connection.namespace,
        &connection.service,
        &connection.port_name,
        connection.backend,
        Reverse(connection.age),
        connection.process.as_ref().map(|process| process.pid),
    )
}

fn table(connections: &[Connection], format: Format, context: &Context<'_>) -> String {
    let wide = format == Format::Wide;
    let mut titles = vec![("SERVICE", Align::Left), ("PROTOCOL", Align::Left)];
    if wide {
        titles.extend([("DIALLED", Align::Left), ("LOCAL", Align::Left)]);
    }
    titles.extend([("BACKEND", Align::Left), ("POD", Align::Left)]);
    if wide {
        titles.push(("NODE", Align::Left));
    }
    titles.extend([
        ("STATE", Align::Left),
        ("AGE", Align::Right),
        ("IDLE", Align::Right),
        ("PROCESS", Align::Left),
        ("CLIENT", Align::Left),
    ]);
    if wide {
        titles.extend([("CGROUP", Align::Left), ("NETNS", Align::Right)]);
    }
    let mut table = Table::new(titles);
    for connection in connections {
        let length = |time: Option<Duration>| Cell::new(time.map_or_else(String::new, text::duration));
        let process = connection.process.as_ref();
        let mut row = vec![Cell::new(service_label(connection)), Cell::new(connection.protocol.to_string())];
        if wide {
            row.push(Cell::new(connection.frontend.to_string()));
            row.push(Cell::new(connection.local.map_or_else(String::new, |local| local.to_string())));
        }
        row.extend([backend_cell(connection), Cell::new(&connection.pod)]);
        if wide {
            row.push(Cell::new(&connection.node));
        }
        row.extend([
            Cell::new(connection.state),
            length(connection.age),
            length(connection.idle),
            Cell::new(process.map_or_else(String::new, process_label)),
            Cell::new(process.map_or("", client)),
        ]);
        if wide {
            row.push(Cell::new(process.map_or("", |process| &process.cgroup)));
            let netns = if connection.netns == 0 { String::new() } else { connection.netns.to_string() };
            row.push(Cell::new(netns));
        }
        table.push(row);
    }
    let mut out = String::new();
    table.render(&mut out, context.palette(), "");
    out
}

/// `namespace/name:port`, the port by name; `namespace/name` for an unnamed port.
fn service_label(connection: &Connection) -> String {
    let mut label = format!("{}/{}", connection.namespace, connection.service);
    if !connection.port_name.is_empty() {
        label.push(':');
        label.push_str(&connection.port_name);
    }
    label
}

/// The address, marked where the backend is no longer one of its Service's.
fn backend_cell(connection: &Connection) -> Cell {
    match connection.backend_gone {
        BackendGone::No => Cell::new(connection.backend.to_string()),
        BackendGone::Yes => Cell::inked(format!("{} (removed)", connection.backend), Ink::Warn),
    }
}

/// `curl[1234]`, `nginx[99]+3` where three more processes hold the same socket.
fn process_label(process: &Process) -> String {
    let mut label = format!("{}[{}]", process.comm, process.pid);
    if process.sharers > 0 {
        label.push_str(&format!("+{}", process.sharers));
    }
    label
}

/// The pod that a process runs in, or else its cgroup.
fn client(process: &Process) -> &str {
    process.pod.as_deref().unwrap_or(&process.cgroup)
}
