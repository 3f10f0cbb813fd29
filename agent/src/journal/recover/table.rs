//! What recovery does with what it finds: the decision table, as a picture and as data.
//!
//! Owns: the judgement. A write is only begun after the one before it was durable, so a write that cannot be read is
//! the torn end if no later write stands behind it, and damage if one does: then it had been durable once, and may
//! have been acknowledged. Refuses: reading.
//!
//! | found at the place where the next write should begin | no later write behind it | a later write behind it |
//! |---|---|---|
//! | the expected write, whole | take | take |
//! | zero, or a write of the file's earlier use, or the end of the file | end | report a hole, go on behind it |
//! | no write (torn, or of the file's earlier use), or frames that do not match | cut off | report a hole |
//! | the expected number, but it does not name the write before it | take, report | take, report |
//! | a later number | take, report a hole | take, report a hole |
//! | an earlier number: a write that stands here twice | report, end | report, go on behind it |
//! | a write of another journal | report, end | report, go on behind it |
//! | a write of a later segment number than the file's | report, end | report, go on behind it |
//! | a write of a newer version | refuse to open | refuse to open |
//!
//! | found of a segment | what is done |
//! |---|---|
//! | as it should be | scan it |
//! | its number is missing between others | report |
//! | its header is damaged | report, scan it by its name |
//! | it is of another journal | report, leave it alone |
//! | its header has another number than its name | report, leave it alone |
//! | it is shorter than its header says | report, scan what is there |
//! | it is of a newer version | refuse to open |

/// At the place of the next write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) enum Found {
    Expected,
    Empty,
    Broken,
    Unchained,
    Later,
    Earlier,
    ForeignJournal,
    ForeignSegment,
    Newer,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) enum Action {
    Take,
    TakeAndReport,
    End,
    CutOff,
    ReportAndEnd,
    ReportAndSkip,
    Refuse,
}

/// (found, a later write stands behind it, action): every combination once.
pub(in crate::journal) const TABLE: [(Found, bool, Action); 18] = [
    (Found::Expected, false, Action::Take),
    (Found::Expected, true, Action::Take),
    (Found::Empty, false, Action::End),
    (Found::Empty, true, Action::ReportAndSkip),
    (Found::Broken, false, Action::CutOff),
    (Found::Broken, true, Action::ReportAndSkip),
    (Found::Unchained, false, Action::TakeAndReport),
    (Found::Unchained, true, Action::TakeAndReport),
    (Found::Later, false, Action::TakeAndReport),
    (Found::Later, true, Action::TakeAndReport),
    (Found::Earlier, false, Action::ReportAndEnd),
    (Found::Earlier, true, Action::ReportAndSkip),
    (Found::ForeignJournal, false, Action::ReportAndEnd),
    (Found::ForeignJournal, true, Action::ReportAndSkip),
    (Found::ForeignSegment, false, Action::ReportAndEnd),
    (Found::ForeignSegment, true, Action::ReportAndSkip),
    (Found::Newer, false, Action::Refuse),
    (Found::Newer, true, Action::Refuse),
];

/// Looks the action up.
pub(in crate::journal) fn action(found: Found, later: bool) -> Action {
    let row = TABLE.iter().find(|row| (row.0, row.1) == (found, later));
    // The test below holds the table complete; to refuse is the answer that loses nothing.
    row.map_or(Action::Refuse, |row| row.2)
}

/// Of a whole segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) enum SegmentFound {
    Fine,
    Missing,
    HeaderDamaged,
    ForeignJournal,
    ForeignNumber,
    Short,
    Newer,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::journal) enum SegmentAction {
    Scan,
    ReportAndScan,
    ReportAndSkip,
    Refuse,
}

/// Every kind once.
pub(in crate::journal) const SEGMENT_TABLE: [(SegmentFound, SegmentAction); 7] = [
    (SegmentFound::Fine, SegmentAction::Scan),
    (SegmentFound::Missing, SegmentAction::ReportAndSkip),
    (SegmentFound::HeaderDamaged, SegmentAction::ReportAndScan),
    (SegmentFound::ForeignJournal, SegmentAction::ReportAndSkip),
    (SegmentFound::ForeignNumber, SegmentAction::ReportAndSkip),
    (SegmentFound::Short, SegmentAction::ReportAndScan),
    (SegmentFound::Newer, SegmentAction::Refuse),
];

/// Looks the action up.
pub(in crate::journal) fn segment_action(found: SegmentFound) -> SegmentAction {
    let row = SEGMENT_TABLE.iter().find(|row| row.0 == found);
    row.map_or(SegmentAction::Refuse, |row| row.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_name_every_case_once() {
        let found = [
            Found::Expected,
            Found::Empty,
            Found::Broken,
            Found::Unchained,
            Found::Later,
            Found::Earlier,
            Found::ForeignJournal,
            Found::ForeignSegment,
            Found::Newer,
        ];
        for case in found.into_iter().flat_map(|found| [(found, false), (found, true)]) {
            assert_eq!(TABLE.iter().filter(|row| (row.0, row.1) == case).count(), 1, "{case:?}");
        }
        assert_eq!(TABLE.len(), found.len() * 2);
        for (at, row) in SEGMENT_TABLE.iter().enumerate() {
            assert!(SEGMENT_TABLE[..at].iter().all(|other| other.0 != row.0), "{row:?}");
        }
    }
}
