//! The picture of a [`TopModel`]; pure.
//!
//! Owns: where each figure stands and which ones are set off. What can hurt: a small terminal; parts are cut from the
//! bottom, so what matters most stands first. Refuses: thresholds of its own; only what is wrong in itself (lost
//! events, errors, a dead store, a peer that is away) is set off.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Table};
use understudy_types::probe::Row as ProbeRow;

use super::TopModel;
use super::text::{bytes, duration, errno, permille, share};
use crate::pressure::{PressureState, Waited};
use crate::probe::{RowSample, Source};
use crate::signal::Signal;

const HEAD_ROWS: u16 = 4;
const FIGURES_ROWS: u16 = 7;

/// Draws the view.
pub fn render(frame: &mut Frame<'_>, model: &TopModel) {
    render_with(frame, model, None);
}

/// Rows that show everything.
pub(super) fn rows_needed(model: &TopModel) -> u16 {
    let Some(signal) = &model.signal else { return HEAD_ROWS + 3 };
    let calls = latency_rows(signal).len();
    let below = signal.record.peers.len() + signal.blind.len();
    HEAD_ROWS + FIGURES_ROWS + u16::try_from(calls + below).unwrap_or(u16::MAX - 30).saturating_add(8)
}

/// Draws the view, with the reason why it is not fresh.
pub(super) fn render_with(frame: &mut Frame<'_>, model: &TopModel, trouble: Option<&str>) {
    let Some(signal) = &model.signal else {
        let parts = Layout::vertical([Constraint::Length(HEAD_ROWS), Constraint::Min(0)]).split(frame.area());
        let none = Line::from("no second is over yet");
        frame.render_widget(Paragraph::new(vec![title(model, trouble), none]), parts[0]);
        return;
    };
    let calls = latency_rows(signal);
    let rows = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
    let parts = Layout::vertical([
        Constraint::Length(HEAD_ROWS),
        Constraint::Length(rows(calls.len()).saturating_add(3)),
        Constraint::Length(FIGURES_ROWS),
        Constraint::Length(rows(signal.record.peers.len()).saturating_add(3)),
        Constraint::Min(0),
    ])
    .split(frame.area());
    frame.render_widget(Paragraph::new(head(model, signal, trouble)), parts[0]);
    latencies(frame, parts[1], &calls);
    let columns = Layout::horizontal([Constraint::Length(43), Constraint::Length(29), Constraint::Min(0)]);
    let columns = columns.split(parts[2]);
    frame.render_widget(pressure(signal), columns[0]);
    frame.render_widget(ring(signal), columns[1]);
    frame.render_widget(journal(signal), columns[2]);
    frame.render_widget(peers(signal), parts[3]);
    frame.render_widget(blind(signal), parts[4]);
}

fn bad(text: impl Into<String>, is_bad: bool) -> Span<'static> {
    let style = if is_bad { Style::new().fg(Color::Red).add_modifier(Modifier::BOLD) } else { Style::new() };
    Span::styled(text.into(), style)
}

fn framed(title: &'static str) -> Block<'static> {
    Block::new().borders(Borders::TOP).title(format!(" {title} "))
}

fn title(model: &TopModel, trouble: Option<&str>) -> Line<'static> {
    let up = duration(model.uptime_ns);
    let mut spans = vec![
        Span::styled(model.node.clone(), Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!("  {}  up {up}  understudy {}   q quits", model.state, model.version)),
    ];
    spans.extend(trouble.map(|trouble| bad(format!("   not fresh: {trouble}"), true)));
    Line::from(spans)
}

fn head(model: &TopModel, signal: &Signal, trouble: Option<&str>) -> Vec<Line<'static>> {
    let probe = &signal.probe;
    let source = match probe.source {
        Source::Kernel => "kernel programs",
        Source::Proc => "/proc only",
    };
    let tree = &probe.tree;
    let store = match (probe.store_pid, probe.store_is_alive) {
        (0, _) => bad("store not found", true),
        (pid, true) => bad(format!("store {pid}"), false),
        (pid, false) => bad(format!("store {pid} is dead"), true),
    };
    let oldest = match &probe.oldest {
        Some(call) => {
            format!("{} {} in {} ({})", duration(call.age_ns), call.class, call.comm, call.pid)
        }
        None if probe.source == Source::Proc => format!("in disk sleep {}", duration(probe.longest_blocked_ns)),
        None => "none".to_owned(),
    };
    let lost = probe.lost.total();
    let events = &probe.events;
    vec![
        title(model, trouble),
        Line::from(vec![
            store,
            Span::raw(format!(
                "  {} processes  {} threads  {} files ({} of a limit)  {} anonymous  seen by {source}",
                tree.processes,
                tree.threads,
                tree.descriptors,
                permille(u16::try_from(tree.descriptors_worst_permille).ok()),
                bytes(tree.anonymous_bytes),
            )),
        ]),
        Line::from(format!(
            "oldest in flight: {oldest}  of {} working   oldest block request: {}",
            probe.in_flight,
            duration(probe.oldest_block_ns),
        )),
        Line::from(vec![
            Span::raw(format!("exits {}  ", events.exits)),
            bad(format!("failed {}  ", events.exits_failed), events.exits_failed > 0),
            bad(format!("by signal {}  ", events.exits_by_signal), events.exits_by_signal > 0),
            Span::raw(format!("signals {}  ", events.signals)),
            bad(format!("memory kills {}  ", events.oom_kills), events.oom_kills > 0),
            bad(format!("block errors {}  ", events.block_errors), events.block_errors > 0),
            bad(format!("lost events {lost}  "), lost > 0),
            Span::raw(format!("beat late {}  ", duration(model.beat_lateness_ns))),
            Span::raw(format!("probe {}/s", duration(probe.cost.thread_ns + probe.cost.kernel_ns))),
        ]),
    ]
}

/// Every class of system calls that did something, and always those that matter most.
fn latency_rows(signal: &Signal) -> Vec<RowSample> {
    let always = [ProbeRow::Read, ProbeRow::Write, ProbeRow::Fsync, ProbeRow::RunQueue];
    if signal.probe.source == Source::Proc {
        return Vec::new();
    }
    let all = ProbeRow::ALL.into_iter().map(|row| (row, signal.probe.row(row)));
    all.filter(|(row, sample)| always.contains(row) || sample.times.count > 0 || sample.errors > 0)
        .map(|(_, sample)| sample)
        .collect()
}

fn latencies(frame: &mut Frame<'_>, area: Rect, calls: &[RowSample]) {
    let head = Row::new(["", "per second", "p50", "p99", "max", "errors", ""]);
    let head = head.style(Style::new().add_modifier(Modifier::DIM));
    let rows = calls.iter().map(|sample| {
        let is_block = sample.row.starts_with("block");
        let names = sample.errnos.iter().map(|(number, count)| match is_block {
            true => format!("status {number}×{count}"),
            false => format!("{}×{count}", errno(*number)),
        });
        let names: Vec<String> = names.take(4).collect();
        Row::new([
            Cell::from(sample.row.replace('_', " ")),
            Cell::from(sample.times.count.to_string()),
            Cell::from(duration(sample.times.p50_ns)),
            Cell::from(duration(sample.times.p99_ns)),
            Cell::from(duration(sample.times.max_ns)),
            Cell::from(sample.errors.to_string()),
            Cell::from(names.join(" ")),
        ])
    });
    let widths = [14, 12, 10, 10, 10, 8].map(Constraint::Length).into_iter().chain([Constraint::Min(10)]);
    frame.render_widget(Table::new(rows, widths).header(head).block(framed("time in calls")), area);
}

fn pressure(signal: &Signal) -> Paragraph<'static> {
    let waited =
        |waited: Waited| format!("{:>8}{:>8}", permille(Some(waited.some_permille)), permille(waited.full_permille));
    let line = |name: &str, pick: fn(&crate::pressure::Pressure) -> Waited| {
        let of =
            |state: &PressureState| state.known().map_or_else(|| "       ?       ?".to_owned(), |p| waited(pick(&p)));
        Line::from(format!("{name:<7}{}{}", of(&signal.pressure.store), of(&signal.pressure.node)))
    };
    let space = signal.pressure.space.map_or_else(
        || "disk   ?".to_owned(),
        |space| {
            let inodes = if space.inodes == 0 { String::new() } else { share(space.free_inodes, space.inodes) };
            let read_only = if space.is_read_only { "  READ-ONLY" } else { "" };
            format!(
                "disk   {} free ({}) inodes {inodes}{read_only}",
                bytes(space.free_bytes),
                share(space.free_bytes, space.bytes)
            )
        },
    );
    let lines = vec![
        Line::from("       store: some full  node: some full"),
        line("cpu", |p| p.cpu),
        line("io", |p| p.io),
        line("memory", |p| p.memory),
        Line::from(space),
    ];
    Paragraph::new(lines).block(framed("pressure"))
}

fn ring(signal: &Signal) -> Paragraph<'static> {
    let ring = signal.record.ring;
    let fill = share(ring.used_bytes, ring.capacity_bytes);
    let capacity = bytes(ring.capacity_bytes);
    let lines = vec![
        Line::from(format!("fill       {fill} of {capacity}")),
        Line::from(format!("changes    {}", ring.changes_open)),
        Line::from(format!("records    {}", ring.records)),
        Line::from(bad(format!("gaps       {}", ring.gaps), ring.gaps > 0)),
    ];
    Paragraph::new(lines).block(framed("ring"))
}

fn journal(signal: &Signal) -> Paragraph<'static> {
    let journal = signal.record.journal;
    let lines = vec![
        Line::from(format!("captured   {}", journal.captured)),
        Line::from(format!("journaled  {}", journal.journaled)),
        Line::from(format!("applied    {}", journal.applied)),
        Line::from(format!("on disk    {}", bytes(journal.bytes))),
        Line::from(format!(
            "fsync      p50 {}  p99 {}",
            duration(journal.fsync_p50_ns),
            duration(journal.fsync_p99_ns)
        )),
    ];
    Paragraph::new(lines).block(framed("journal"))
}

fn peers(signal: &Signal) -> Table<'static> {
    let head = Row::new(["", "link", "lag: operations", "bytes", "time", "shipped", "acked", "last beat"]);
    let head = head.style(Style::new().add_modifier(Modifier::DIM));
    let rows = signal.record.peers.iter().map(|peer| {
        let link = if peer.is_connected { "up" } else { "down" };
        let beat = peer.beat_age_ns.map_or_else(|| "never".to_owned(), |age| format!("{} ago", duration(age.max(1))));
        Row::new([
            Cell::from(peer.name.clone()),
            Cell::from(Line::from(bad(link, !peer.is_connected))),
            Cell::from(peer.lag_operations.to_string()),
            Cell::from(bytes(peer.lag_bytes)),
            Cell::from(duration(peer.lag_ns)),
            Cell::from(peer.shipped.to_string()),
            Cell::from(peer.acked.to_string()),
            Cell::from(beat),
        ])
    });
    let rows: Vec<Row<'static>> = rows.collect();
    let widths = [16, 6, 16, 12, 12, 12, 12, 16].map(Constraint::Length);
    Table::new(rows, widths).header(head).block(framed("peers"))
}

fn blind(signal: &Signal) -> Paragraph<'static> {
    let lines: Vec<Line<'static>> = match signal.blind.is_empty() {
        true => vec![Line::from("nothing")],
        false => signal.blind.iter().map(|name| Line::from(name.clone())).collect(),
    };
    Paragraph::new(lines).block(framed("not seen"))
}
