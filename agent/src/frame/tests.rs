//! Tests of frames: round trip, damage, limits.
