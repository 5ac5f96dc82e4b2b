//! Tables of what is measured on the wire, of memory, and of the comparison with an earlier run.

use std::fmt::Write as _;

use super::{
    super::{baseline::Comparison, contention, established, lane, latency, memory, table::table},
    questions_name,
    text::{short, spread},
};

pub(super) fn lane(results: &lane::Results) -> String {
    let rows = results.rows.iter().map(|row| {
        [
            row.dialled.to_owned(),
            row.rules.to_owned(),
            if row.lane { "yes" } else { "no" }.to_owned(),
            spread(&row.few_ns, 1e3, 1),
            spread(&row.many_ns, 1e3, 1),
            spread(&row.growth, 1.0, 2),
            row.failed.to_string(),
        ]
    });
    let many = format!("{} Services", results.services);
    let head = ["connect() p50, microseconds, to", "rules", "lane", "1 Service", &many, "ratio", "failed"];
    let mut text = format!(
        "Express lane: {} rounds of {}; the server asleep on another CPU\n{}",
        results.rounds,
        results.connects,
        table(head, rows)
    );
    for missing in &results.missing {
        _ = writeln!(text, "not measured: {missing}");
    }
    text
}

pub(super) fn latency(title: &str, results: &latency::Results) -> String {
    let rows = results.rows.iter().map(|row| {
        [
            format!("{}{}", questions_name(row.action), row.variant),
            if row.services == 0 { "-".into() } else { row.services.to_string() },
            spread(&row.p50_ns, 1e3, 1),
            format!("{:.1}", row.p90_ns.median / 1e3),
            format!("{:.1}", row.p99_ns.median / 1e3),
            spread(&row.p50_ratio, 1.0, 3),
            spread(&row.added_ns, 1e3, 2),
            format!("{:.1}", row.whole_ns.median / 1e3),
            spread(&row.whole_ratio, 1.0, 3),
            format!("{:.0}", row.per_second.median),
            row.failed.to_string(),
        ]
    });
    let head = [
        "microseconds",
        "Services",
        "p50",
        "p90",
        "p99",
        "p50 / direct",
        "added",
        "open+close p50",
        "/ direct",
        "per second",
        "failed",
    ];
    let mut text = format!(
        "{title}: {} rounds of {}; the server asleep on another CPU; per second: without a pause\n{}",
        results.rounds,
        results.connects,
        table(head, rows)
    );
    let installed: Vec<String> = results
        .installed
        .iter()
        .filter(|installed| installed.services > 1)
        .map(|installed| format!("{} {} {:.1} s", installed.mode, installed.services, installed.seconds))
        .collect();
    if !installed.is_empty() {
        _ = writeln!(text, "rules were installed within: {}", installed.join(", "));
    }
    for missing in &results.missing {
        _ = writeln!(text, "not run: {missing}");
    }
    text
}

pub(super) fn established(results: &established::Results) -> String {
    let rows = results.rows.iter().map(|row| {
        [
            row.variant.to_owned(),
            spread(&row.gib_per_second, 1.0, 2),
            spread(&row.gib_ratio, 1.0, 3),
            spread(&row.cpu_s_per_gib, 1.0, 3),
            spread(&row.cpu_ratio, 1.0, 3),
            format!("{:.0}", row.requests_per_second.median),
            spread(&row.requests_ratio, 1.0, 3),
            format!("{:.1}", row.request_cpu_ns.median / 1e3),
            spread(&row.request_cpu_ratio, 1.0, 3),
            format!("{:.2}", row.runs_per_request),
            format!("{:.0}", row.program_ns_per_request),
        ]
    });
    let head = [
        "open connections",
        "GiB/s",
        "/ direct",
        "CPU s per GiB",
        "/ direct",
        "requests/s",
        "/ direct",
        "CPU us each",
        "/ direct",
        "program runs",
        "ns",
    ];
    format!(
        "Open connections: {} rounds of {} MiB and {} requests; CPU of client and server\n{}",
        results.rounds,
        results.bytes >> 20,
        results.requests,
        table(head, rows)
    )
}

pub(super) fn contention(results: &contention::Results) -> String {
    let title =
        format!("Contention: UDP connects a second to one Service of 4 backends, {} rounds", results.rounds);
    if let Some(why) = &results.missing {
        return format!("{title}\nnot run: {why}\n");
    }
    let rows = results.rows.iter().map(|row| {
        [
            row.variant.to_owned(),
            spread(&row.one, 1.0, 0),
            spread(&row.all, 1.0, 0),
            spread(&row.scaling, 1.0, 2),
            spread(&row.scaling_ratio, 1.0, 3),
        ]
    });
    let all = format!("{} CPUs", results.cpus);
    format!("{title}\n{}", table(["connects per second", "1 CPU", &all, "scaling", "/ direct"], rows))
}

pub(super) fn memory(results: &memory::Results) -> String {
    let rows = results.rows.iter().map(|row| {
        [
            row.map.clone(),
            row.room.to_string(),
            row.entry_bytes.to_string(),
            format!("{:.1}", row.empty_bytes as f64 / 1024.0),
            format!("{:.1}", row.filled_bytes as f64 / 1024.0),
        ]
    });
    let filled = format!("KiB, {} Services", results.services);
    format!(
        "Memory of the maps: {:.1} MiB empty; {:.0} bytes for a Service port, {:.0} for a backend\n{}",
        results.empty_bytes as f64 / 1024.0 / 1024.0,
        results.service_bytes,
        results.backend_bytes,
        table(["map", "room", "bytes of an entry", "KiB, empty", &filled], rows)
    )
}

pub(super) fn comparison(comparison: &Comparison) -> String {
    let mut text = format!("Compared with an earlier run: {} figures", comparison.compared);
    if comparison.same_machine {
        text.push_str(", on the same machine\n");
    } else {
        let machine = &comparison.machine;
        _ = writeln!(
            text,
            ", ratios alone: that was on another machine, kernel or build (Linux {} {}, {} CPUs, {}, {} build)",
            machine.kernel, machine.architecture, machine.cpus, machine.cpu, machine.build
        );
    }
    if !comparison.not_measured.is_empty() {
        let (count, first) = (comparison.not_measured.len(), &comparison.not_measured[0]);
        _ = writeln!(text, "not measured this time: {count} of its figures, such as {first}");
    }
    if comparison.regressions.is_empty() {
        text.push_str("none is worse by over 10% and by more than its spread\n");
        return text;
    }
    let rows = comparison.regressions.iter().map(|regression| {
        [
            format!("{} {}", regression.name, regression.unit).trim_end().to_owned(),
            shown(&regression.before),
            shown(&regression.now),
            if regression.worse == f64::MAX { "-".into() } else { format!("{:.2}", regression.worse) },
        ]
    });
    text + &table(["WORSE by over 10%, and by more than its spread", "it was", "it is", "times"], rows)
}

fn shown(value: &super::super::numbers::Spread) -> String {
    format!("{} ({}..{})", short(value.median), short(value.min), short(value.max))
}
