//! Times and durations as people type and read them.
//!
//! Owns: `90s`, `30m`, `2h`, `7d`; dates as RFC 3339 or `YYYY-MM-DD HH:MM` in UTC. Refuses: guessing; a text that is
//! neither is an error that says what there is.

use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};

/// A duration in seconds.
///
/// # Errors
///
/// What is expected.
pub fn duration_s(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no duration: write `90s`, `30m`, `2h` or `7d`");
    let (number, unit) = text.split_at(text.trim_end_matches(|sign: char| sign.is_ascii_alphabetic()).len());
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds).filter(|seconds| *seconds > 0).ok_or_else(wrong)
}

/// A point in time, as nanoseconds since the epoch: a duration ago, or a date.
///
/// # Errors
///
/// What is expected.
pub fn moment_ns(text: &str, now_wall_ns: u64) -> Result<u64, String> {
    if let Ok(seconds) = duration_s(text) {
        return Ok(now_wall_ns.saturating_sub(seconds.saturating_mul(1_000_000_000)));
    }
    let minutes = format_description!("[year]-[month]-[day] [hour]:[minute]");
    let seconds = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    let at = OffsetDateTime::parse(text, &Rfc3339)
        .or_else(|_| PrimitiveDateTime::parse(text, &seconds).map(PrimitiveDateTime::assume_utc))
        .or_else(|_| PrimitiveDateTime::parse(text, &minutes).map(PrimitiveDateTime::assume_utc))
        .map_err(|_| format!("`{text}` is no time: write `2h` (ago), `2026-01-31 14:30` (UTC) or RFC 3339"))?;
    u64::try_from(at.unix_timestamp_nanos()).map_err(|_| format!("`{text}` is before the epoch"))
}

/// A wall time for people: seconds, UTC.
#[must_use]
pub fn show(wall_ns: u64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(wall_ns));
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
    at.ok().and_then(|at| at.format(&format).ok()).unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_times_are_read_and_nonsense_is_refused() {
        assert_eq!(duration_s("90s"), Ok(90));
        assert_eq!((duration_s("2h"), duration_s("7d"), duration_s("5m")), (Ok(7_200), Ok(604_800), Ok(300)));
        for text in ["", "h", "2", "2 h", "-2h", "0s", "2y", "99999999999999999999d", "18446744073709551615d"] {
            assert!(duration_s(text).is_err(), "{text}");
        }
        let day = 86_400_000_000_000;
        assert_eq!(moment_ns("1h", day), Ok(day - 3_600_000_000_000));
        assert_eq!(moment_ns("1970-01-02 00:00", 0), Ok(day));
        assert_eq!(moment_ns("1970-01-02 00:00:01", 0), Ok(day + 1_000_000_000));
        assert_eq!(moment_ns("1970-01-02T02:00:00+02:00", 0), Ok(day));
        assert!(moment_ns("yesterday", 0).is_err() && moment_ns("1969-01-01 00:00", 0).is_err());
        assert_eq!(show(day), "1970-01-02 00:00:00Z");
    }
}
