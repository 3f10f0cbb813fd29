//! Checks against hosts made of a folder, and the report of the real one.

use super::*;

fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let host = Host::at(dir.path());
    (dir, host)
}

fn verdict(findings: &[Finding], check: &str) -> Verdict {
    findings.iter().find(|finding| finding.check == check).unwrap_or_else(|| panic!("{check}")).verdict
}

#[test]
fn an_empty_host_lacks_everything_and_says_what_to_do() {
    let (_dir, host) = host(&[]);
    let findings = kernel::findings(&host);
    for check in ["kernel", "btf", "psi", "cgroup", "clock"] {
        let found = findings.iter().find(|finding| finding.check == check).unwrap();
        assert_eq!(found.verdict, Verdict::Limited, "{check}");
        assert!(!found.remedy.is_empty(), "{check}");
    }
}

#[test]
fn a_good_host_is_fine() {
    let (_dir, host) = host(&[
        ("/proc/sys/kernel/osrelease", "6.1.0-30-amd64\n"),
        ("/sys/kernel/btf/vmlinux", "btf"),
        ("/sys/kernel/tracing/events/x", ""),
        ("/proc/pressure/cpu", "some"),
        ("/proc/pressure/io", "some"),
        ("/proc/pressure/memory", "some"),
        ("/sys/fs/cgroup/cgroup.controllers", "cpu io memory"),
        ("/proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n"),
        ("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc"),
        ("/run/systemd/timesync/synchronized", ""),
    ]);
    let findings = kernel::findings(&host);
    for check in ["kernel", "btf", "tracefs", "psi", "cgroup", "memlock", "clock"] {
        assert_eq!(verdict(&findings, check), Verdict::Fine, "{check}");
    }
    assert!(kernel::capabilities(&host).contains(&"CAP_BPF"));
}

#[test]
fn a_slow_clock_and_an_old_kernel_are_noticed() {
    let (_dir, host) = host(&[
        ("/proc/sys/kernel/osrelease", "5.4.0"),
        ("/sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet"),
        ("/run/systemd/timesync/synchronized", ""),
    ]);
    let findings = kernel::findings(&host);
    assert_eq!(verdict(&findings, "kernel"), Verdict::Limited);
    assert_eq!(verdict(&findings, "clock"), Verdict::Limited);
    assert_eq!(kernel::parse_release("6.18.44-fc"), Some((6, 18)));
    assert_eq!(kernel::parse_release("six"), None);
}

#[test]
fn only_the_supported_store_is_fine() {
    assert_eq!(store::version(Ok("2.3.19.1 (9b53102964)".into())).verdict, Verdict::Fine);
    assert_eq!(store::version(Ok("2.4.1".into())).verdict, Verdict::Problem);
    assert_eq!(store::version(Err("cannot start `dovecot`".into())).verdict, Verdict::Problem);
}

#[test]
fn the_plugin_is_found_where_the_store_looks() {
    let (_dir, host) = host(&[("/opt/modules/a.so", "")]);
    assert_eq!(store::installed(&host, "x", "a.so", Some("/opt/modules"), &["/usr/lib"]).verdict, Verdict::Fine);
    let lacking = store::installed(&host, "x", "b.so", Some("/opt/modules"), &["/usr/lib"]);
    assert_eq!(lacking.verdict, Verdict::Problem);
    assert!(lacking.detail.contains("/opt/modules") && lacking.detail.contains("/usr/lib"));
}

#[test]
fn a_program_that_is_not_there_or_fails_is_an_answer() {
    assert!(host::ask("/nonexistent/program", &[]).is_err());
    assert!(host::ask("false", &[]).unwrap_err().contains("failed"));
    assert_eq!(host::ask("echo", &["yes"]).unwrap(), "yes");
}

#[test]
fn the_report_names_each_problem_with_its_remedy() {
    let findings = vec![Finding::fine("a", "well"), Finding::problem("bcd", "ill", "take this")];
    let text = render(&findings);
    assert!(
        text.contains("PROBLEM  bcd  ill\n")
            && text.contains("remedy: take this")
            && text.ends_with("1 fine, 0 limited, 1 problems\n"),
        "{text}"
    );
}
