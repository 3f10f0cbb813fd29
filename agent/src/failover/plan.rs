//! Placement planner: where groups should be active, and where their replicas.
//!
//! Owns: the plan. What can hurt: a plan that moves more than it gains. Refuses: doing it; an administrator applies it.
