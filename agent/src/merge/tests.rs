//! Merging, from single cases to random histories and whole runs.

mod cases;
mod histories;
mod side;
mod whole;
