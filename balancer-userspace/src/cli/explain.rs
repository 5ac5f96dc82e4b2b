//! `balancer explain`: what a connect from here would do, and why.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use balancer_common::abi::PassReason;
use clap::{Args, ValueEnum};

use super::{
    context::Context,
    exit::{Exit, Failure},
    output::{Document, Format, FormatArgs, Kind, answers::ExplanationDoc},
    select::{Namespaces, Scope, ServiceQuery},
    table::{Align, Cell, Table},
    term::{Ink, Palette, safe},
    text,
};
use crate::{
    model::{Frontend, Protocol},
    view::{Choice, ExplainedService, Explanation, PassCause, Snapshot, Verdict},
};

/// Flags of `balancer explain`.
#[derive(Args, Clone, Debug)]
pub struct ExplainArgs {
    /// ADDRESS, ADDRESS:PORT (IPv6 as [ADDRESS]:PORT) or a Service: NAME, NAMESPACE/NAME or NAME:PORT
    #[arg(value_name = "TARGET")]
    target: Target,

    #[command(flatten)]
    namespaces: Namespaces,

    /// This protocol alone [default: those that the address is a Service's for, else TCP]
    #[arg(short, long, value_name = "PROTOCOL")]
    protocol: Option<ProtocolChoice>,

    #[command(flatten)]
    format: FormatArgs,
}

/// A protocol on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProtocolChoice {
    Tcp,
    Udp,
}

impl From<ProtocolChoice> for Protocol {
    fn from(choice: ProtocolChoice) -> Self {
        match choice {
            ProtocolChoice::Tcp => Self::Tcp,
            ProtocolChoice::Udp => Self::Udp,
        }
    }
}

/// What to explain.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// An address, whatever the port.
    Address(IpAddr),
    /// An address with a port.
    AddressPort(SocketAddr),
    /// A Service.
    Service(ServiceQuery),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(addr) = bare.parse::<IpAddr>() {
            return Ok(Self::Address(addr.to_canonical()));
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return Ok(Self::AddressPort(SocketAddr::new(addr.ip().to_canonical(), addr.port())));
        }
        text.parse()
            .map(Self::Service)
            .map_err(|_| format!("{text:?} is no ADDRESS, ADDRESS:PORT, NAME, NAMESPACE/NAME or NAME:PORT"))
    }
}

/// Runs the command. That a connect would be passed through is an answer, not a failure.
pub fn run(args: &ExplainArgs, context: &mut Context<'_>) -> Result<Exit, Failure> {
    let snapshot = context.snapshot()?;
    let dialled = dialled(args, &snapshot)?;
    let explanations = context.node().explain(context.pins(), &snapshot, &dialled)?;
    let format = args.format.output;
    if matches!(format, Format::Json | Format::Yaml) {
        let items = explanations.iter().map(ExplanationDoc::from).collect();
        context.print_document(format, &Document::of(Kind::Explanation, &snapshot, items))?;
        return Ok(Exit::Ok);
    }
    context.warn(&snapshot);
    if let (true, Target::Address(addr)) = (explanations.is_empty(), &args.target) {
        context.note(&format!(
            "no Service port that is balanced here has the address {addr}: connects to it are passed through"
        ));
        return Ok(Exit::Ok);
    }
    let mut out = String::new();
    for (index, explanation) in explanations.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        show(&mut out, explanation, format, context.palette());
    }
    context.print(&out)?;
    Ok(Exit::Ok)
}

/// Everything that the target stands for.
fn dialled(args: &ExplainArgs, snapshot: &Snapshot) -> Result<Vec<Frontend>, Failure> {
    let protocol = args.protocol.map(Protocol::from);
    let of_address = |addr: IpAddr, port: Option<u16>| {
        snapshot
            .services
            .iter()
            .map(|service| (service.frontend, service.protocol))
            .filter(|(frontend, its)| {
                frontend.ip() == addr
                    && port.is_none_or(|port| frontend.port() == port)
                    && protocol.is_none_or(|protocol| *its == protocol)
            })
            .map(|(frontend, protocol)| Frontend { addr, port: frontend.port(), protocol })
            .collect::<Vec<_>>()
    };
    match &args.target {
        Target::Address(addr) => Ok(of_address(*addr, None)),
        Target::AddressPort(addr) => {
            let mut found = of_address(addr.ip(), Some(addr.port()));
            if found.is_empty() {
                let protocol = protocol.unwrap_or(Protocol::Tcp);
                found.push(Frontend { addr: addr.ip(), port: addr.port(), protocol });
            }
            Ok(found)
        }
        Target::Service(query) => {
            let scope = Scope::new(Some(query.clone()), args.namespaces.clone());
            let services = scope.select(snapshot)?.services;
            Ok(services
                .into_iter()
                .filter(|service| protocol.is_none_or(|protocol| service.protocol == protocol))
                .map(|service| Frontend {
                    addr: service.frontend.ip(),
                    port: service.frontend.port(),
                    protocol: service.protocol,
                })
                .collect())
        }
    }
}

fn show(out: &mut String, explanation: &Explanation, format: Format, palette: Palette) {
    let title = format!("connect to {} from {}", explanation.dialled, safe(&explanation.client));
    palette.paint(out, Ink::Bold, &title);
    out.push('\n');
    if let Some(service) = &explanation.service {
        out.push_str(&format!("  Service {}\n", safe(&service_line(service))));
    }
    match &explanation.verdict {
        Verdict::PassThrough(cause) => {
            out.push_str("  ");
            palette.paint(out, Ink::Warn, "passed through");
            out.push_str(&format!(": {}\n", cause_sentence(*cause)));
        }
        Verdict::Rewrite(choice) | Verdict::Observe(choice) => {
            out.push_str("  ");
            match explanation.verdict {
                Verdict::Observe(_) => {
                    palette.paint(out, Ink::Warn, "left alone");
                    out.push_str(" (the agent only observes); would be rewritten");
                }
                Verdict::Rewrite(_) | Verdict::PassThrough(_) => palette.paint(out, Ink::Good, "rewritten"),
            }
            let candidates = text::count(choice.candidates.len() as u64, "backend", "backends");
            out.push_str(&format!(" to one of {candidates}: {}\n", safe(&choice.rule)));
            candidates_table(choice, format).render(out, palette, "  ");
        }
    }
    for note in &explanation.notes {
        out.push_str(&format!("  note: {}\n", safe(note)));
    }
}

fn service_line(service: &ExplainedService) -> String {
    let port = if service.port_name.is_empty() { String::new() } else { format!(":{}", service.port_name) };
    let affinity = service
        .affinity
        .map_or_else(String::new, |timeout| format!(", ClientIP affinity for {}", text::duration(timeout)));
    format!(
        "{}/{}{port} ({}{affinity}, revision {})",
        service.namespace,
        service.name,
        service.algorithm.name(),
        service.revision,
    )
}

fn candidates_table(choice: &Choice, format: Format) -> Table {
    let wide = format == Format::Wide;
    let mut titles = vec![("BACKEND", Align::Left), ("POD", Align::Left)];
    if wide {
        titles.extend([("NODE", Align::Left), ("ZONE", Align::Left)]);
    }
    titles.extend([
        ("WEIGHT", Align::Right),
        ("ACTIVE", Align::Right),
        ("CHANCE", Align::Right),
        ("WHY", Align::Left),
    ]);
    let mut table = Table::new(titles);
    for candidate in &choice.candidates {
        let mut row = vec![Cell::new(candidate.addr.to_string()), Cell::new(&candidate.pod)];
        if wide {
            row.extend([Cell::new(&candidate.node), Cell::new(&candidate.zone)]);
        }
        let ink = if candidate.chance > 0.0 { Ink::Good } else { Ink::Dim };
        row.extend([
            Cell::number(candidate.weight.into()),
            Cell::number(candidate.active),
            Cell::inked(percent(candidate.chance), ink),
            Cell::new(&candidate.reason),
        ]);
        table.push(row);
    }
    table
}

/// `25%`, `33.3%`, `<0.1%`, `0%`: a chance is never rounded to one that it is not.
fn percent(chance: f64) -> String {
    let percent = chance * 100.0;
    match percent {
        _ if chance <= 0.0 => "0%".to_owned(),
        _ if chance >= 1.0 => "100%".to_owned(),
        ..0.1 => "<0.1%".to_owned(),
        99.95.. => ">99.9%".to_owned(),
        _ if (percent - percent.round()).abs() < 0.05 => format!("{percent:.0}%"),
        _ => format!("{percent:.1}%"),
    }
}

const fn cause_sentence(cause: PassCause) -> &'static str {
    match cause {
        PassCause::NotAService => "no Service port that is balanced here has this address, port and protocol",
        PassCause::NotAttached => "the programs are not attached; balancer check says more",
        PassCause::OutsideCgroup => {
            "this process is in a cgroup outside of the one that the programs are attached to"
        }
        PassCause::Program(PassReason::LeaseExpired) => {
            "the agent's lease has lapsed, so the tables may be out of date"
        }
        PassCause::Program(PassReason::NoBackends) => "the Service has no usable backend; kube-proxy answers",
        PassCause::Program(PassReason::Inconsistent) => {
            "the tables contradict each other (an update is under way); ask again"
        }
        PassCause::Program(PassReason::Excluded) => {
            "this process is in a cgroup that is left alone: its pod or namespace has opted out, or the \
             agent was told to (--exclude-cgroup)"
        }
        PassCause::Program(PassReason::Observed) => "the agent only observes",
        PassCause::Program(PassReason::NoSocketState) => "the kernel has no memory for the socket's state",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Option<Target>) {
        assert_eq!(text.parse::<Target>().ok(), expect, "{text}");
    }

    #[test]
    fn a_target_is_an_address_or_a_service() {
        let socket = |text: &str| Some(Target::AddressPort(text.parse().unwrap()));
        let address = |text: &str| Some(Target::Address(text.parse().unwrap()));
        let service = |text: &str| Some(Target::Service(text.parse().unwrap()));
        check("10.96.0.1", address("10.96.0.1"));
        check("10.96.0.1:80", socket("10.96.0.1:80"));
        check("::ffff:10.96.0.1", address("10.96.0.1"));
        check("[::ffff:10.96.0.1]:80", socket("10.96.0.1:80"));
        check("fd00::1", address("fd00::1"));
        check("[fd00::1]", address("fd00::1"));
        check("[fd00::1]:80", socket("[fd00::1]:80"));
        check("web", service("web"));
        check("shop/web:http", service("shop/web:http"));
        check("a/b/c", None);
        check("", None);
        check("10.96.0.1:99999", service("10.96.0.1:99999"));
    }

    #[test]
    fn a_chance_is_not_rounded_away() {
        let texts = [0.0, 0.000_1, 0.25, 1.0 / 3.0, 0.999_9, 1.0].map(percent);
        assert_eq!(texts, ["0%", "<0.1%", "25%", "33.3%", ">99.9%", "100%"]);
    }
}
