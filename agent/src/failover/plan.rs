//! Placement planner (stub while the decider is tested).
