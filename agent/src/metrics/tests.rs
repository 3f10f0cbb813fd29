//! The exposition is parsed as a scraper would, and held against the naming rules and the manual.

use super::*;
use crate::canary::Track;
use crate::clock::{BootNs, MonoNs};
use crate::evidence::Report;
use std::collections::{BTreeMap, BTreeSet};

/// A page on which every family has at least one series.
fn full_page() -> String {
    let m = Metrics::new();
    m.io_backend_info.get_or_create(&Io::new("journal", "plain")).set(1);
    for family in [&m.groups, &m.accounts] {
        family.get_or_create(&Role::new("active")).set(1);
    }
    for family in [&m.capture_records, &m.applied_operations] {
        family.get_or_create(&Op::new("message-saved", "applied")).inc();
    }
    for family in [&m.acks, &m.resyncs, &m.probe_lost, &m.probe_exits] {
        family.get_or_create(&Outcome::new("x")).inc();
    }
    for family in
        [&m.peer_connects, &m.peer_sent, &m.peer_shipped, &m.peer_acked, &m.received_operations, &m.beats_received]
    {
        family.get_or_create(&Peer::new("mail2")).inc();
    }
    for family in [&m.peer_connected, &m.peer_lag_operations, &m.peer_lag_bytes, &m.peer_resync_groups] {
        family.get_or_create(&Peer::new("mail2")).set(1);
    }
    for family in [&m.peer_lag_seconds, &m.peer_beat_age] {
        family.get_or_create(&Peer::new("mail2")).set(0.5);
    }
    for family in [&m.blob_puts, &m.blob_gets] {
        family.get_or_create(&Blob::new("stored")).inc();
    }
    m.probe_calls.get_or_create(&Row::new("fsync")).inc();
    m.probe_oldest.get_or_create(&Row::new("fsync")).set(0.5);
    m.probe_errors.get_or_create(&ProbeError::new("fsync", "EIO")).inc();
    m.probe_latency.get_or_create(&ProbeLatency::new("fsync", "0.99")).set(0.5);
    m.pressure_stalled.get_or_create(&Pressure::new("node", "io", "some")).inc_by(0.5);
    m.pressure_ratio.get_or_create(&Pressure::new("node", "io", "some")).set(0.5);
    m.journal_fsync.observe(0.001);
    let mut evidence = crate::evidence::Evidence::default();
    evidence.on(crate::evidence::Reading::saw(crate::evidence::rules::Case::StoreAnswered, ""), BootNs(5));
    let report = Report { good_at: None, why: String::new(), signs: evidence.signs().to_vec() };
    m.detection.set_evidence(&report, BootNs(1_000_000_005));
    m.failover.group_role.get_or_create(&State::new("serving")).set(1);
    m.failover.fence_hooks.get_or_create(&Outcome::new("x")).inc();
    m.failover.coordinator_request.observe(0.001);
    m.detection.set_suspicion("mail2", 4500);
    m.detection.set_canary("mail2", &Track::default(), MonoNs(9));
    m.encode()
}

struct Family {
    kind: String,
    help: String,
    samples: usize,
}

/// Families by name; panics on a line that is none of the format's.
fn parse(page: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in page.lines() {
        if line == "# EOF" {
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            current = name.to_owned();
            let fresh = Family { kind: String::new(), help: help.to_owned(), samples: 0 };
            assert!(families.insert(current.clone(), fresh).is_none(), "{name} is registered twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, current);
            families.get_mut(name).unwrap().kind = kind.to_owned();
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').unwrap();
            assert!(name.ends_with(&format!("_{unit}")), "{name} {unit}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap();
            let name = series.split('{').next().unwrap();
            assert!(name.starts_with(&current), "{name} after {current}");
            families.get_mut(&current).unwrap().samples += 1;
        }
    }
    assert!(page.ends_with("# EOF\n"));
    families
}

#[test]
fn every_family_has_help_type_base_unit_and_the_right_suffix() {
    let page = full_page();
    let families = parse(&page);
    assert!(families.len() > 50, "{}", families.len());
    for (name, family) in &families {
        assert!(name.starts_with("understudy_"), "{name}");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name}");
        assert!(family.help.len() > 10 && family.help.ends_with('.'), "{name}: {}", family.help);
        assert!(family.samples > 0, "{name} has no sample: add it to full_page()");
        for suffix in ["_ms", "_us", "_ns", "_millis", "_kb", "_mb", "_percent", "_count", "_sum", "_bucket", "_total"]
        {
            assert!(!name.ends_with(suffix), "{name}: {suffix} is no base unit or is added by the format");
        }
        let samples: Vec<&str> =
            page.lines().filter(|line| !line.starts_with('#') && line.starts_with(name.as_str())).collect();
        match family.kind.as_str() {
            "counter" => assert!(samples.iter().any(|line| line.starts_with(&format!("{name}_total"))), "{name}"),
            "histogram" => assert!(samples.iter().any(|line| line.starts_with(&format!("{name}_bucket"))), "{name}"),
            "gauge" | "info" => {}
            kind => panic!("{name} is a {kind}"),
        }
    }
}

#[test]
fn no_label_can_hold_an_account() {
    for line in full_page().lines() {
        assert!(!line.contains("account=") && !line.contains('@'), "{line}");
    }
}

#[test]
fn a_total_never_goes_back() {
    let counter = Counter::default();
    set_total(&counter, 5);
    set_total(&counter, 3);
    assert_eq!(counter.get(), 5);
}

#[test]
fn the_manual_lists_every_metric_and_no_other() {
    let page = full_page();
    let mut rows = String::new();
    for (name, family) in parse(&page) {
        let labels: BTreeSet<&str> = page
            .lines()
            .filter(|line| {
                line.starts_with(&format!("{name}{{"))
                    || line.starts_with(&format!("{name}_total{{"))
                    || line.starts_with(&format!("{name}_info{{"))
            })
            .filter_map(|line| line.split_once('{')?.1.split_once('}'))
            .flat_map(|(labels, _)| labels.split(','))
            .filter_map(|pair| pair.split_once('=').map(|(label, _)| label))
            .collect();
        let shown = match family.kind.as_str() {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name,
        };
        let labels: Vec<String> = labels.into_iter().map(|label| format!("`{label}`")).collect();
        rows.push_str(&format!("| `{shown}` | {} | {} | {} |\n", family.kind, labels.join(", "), family.help));
    }
    crate::config::docs::assert_table("docs/metrics.md", &rows);
}
