//! Figures as a reader wants them: three digits and a unit.
//!
//! Owns: durations, bytes, shares. Refuses: rounding 1 down to 0.

/// A duration; "-" for 0, for nothing was measured then.
pub(super) fn duration(ns: u64) -> String {
    match ns {
        0 => "-".to_owned(),
        1..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => scaled(ns, 1_000, "µs"),
        1_000_000..1_000_000_000 => scaled(ns, 1_000_000, "ms"),
        1_000_000_000..120_000_000_000 => scaled(ns, 1_000_000_000, "s"),
        _ => {
            let seconds = ns / 1_000_000_000;
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            if hours >= 48 {
                format!("{} d {} h", hours / 24, hours % 24)
            } else {
                format!("{hours} h {minutes:02} min")
            }
        }
    }
}

/// Bytes in binary units.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 1u64;
    let mut name = "B";
    for next in UNITS {
        if count / unit < 1024 {
            break;
        }
        unit *= 1024;
        name = next;
    }
    if unit == 1 { format!("{count} B") } else { scaled(count, unit, name) }
}

/// A share.
pub(super) fn permille(figure: Option<u16>) -> String {
    figure.map_or_else(|| "?".to_owned(), |permille| format!("{}.{} %", permille / 10, permille % 10))
}

/// Part of a whole, as a share.
pub(super) fn share(part: u64, whole: u64) -> String {
    let permille = u128::from(part) * 1000 / u128::from(whole.max(1));
    permille_of(u64::try_from(permille).unwrap_or(u64::MAX))
}

fn permille_of(permille: u64) -> String {
    format!("{}.{} %", permille / 10, permille % 10)
}

/// Name of an error number.
pub(super) fn errno(number: u16) -> String {
    match number {
        133 => "others".to_owned(),
        _ => format!("{:?}", nix::errno::Errno::from_raw(i32::from(number))),
    }
}

fn scaled(value: u64, unit: u64, name: &str) -> String {
    let whole = value / unit;
    let tenths = u64::try_from(u128::from(value % unit) * 10 / u128::from(unit)).unwrap_or(0);
    if whole >= 100 { format!("{whole} {name}") } else { format!("{whole}.{tenths} {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_unit() {
        let durations = [0, 999, 1_000, 12_345, 999_999_999, 1_500_000_000, 7_380_000_000_000, u64::MAX];
        let said = ["-", "999 ns", "1.0 µs", "12.3 µs", "999 ms", "1.5 s", "2 h 03 min", "213503 d 23 h"];
        for (ns, expected) in durations.into_iter().zip(said) {
            assert_eq!(duration(ns), expected);
        }
        for (count, expected) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (u64::MAX, "15.9 EiB")] {
            assert_eq!(bytes(count), expected);
        }
        assert_eq!((permille(Some(125)), permille(None)), ("12.5 %".to_owned(), "?".to_owned()));
        assert_eq!((share(1, 8), share(1, 0)), ("12.5 %".to_owned(), "100.0 %".to_owned()));
        assert_eq!((errno(2), errno(133)), ("ENOENT".to_owned(), "others".to_owned()));
    }
}
