//! Faults of the tiny world, and their end.
//!
//! Owns: what each does. What can hurt: a fault that forgets more than the real one; a store goes on after its agent
//! died, and a machine that dies keeps what its journal has. Refuses: choosing faults; scenes and `random` do.

use super::super::*;
use super::MS;
use super::world::{Event, Node, World};

#[derive(Clone, Debug)]
pub(super) enum Fault {
    CutCoordinator {
        node: usize,
        heal: bool,
    },
    CutPeers {
        a: usize,
        b: usize,
        heal: bool,
    },
    CoordinatorDown {
        heal: bool,
    },
    Slow {
        delay_ns: u64,
    },
    Unsure {
        one_in: u64,
    },
    Freeze {
        node: usize,
        ns: u64,
    },
    /// The agent dies; the store goes on.
    KillAgent {
        node: usize,
    },
    /// The machine dies.
    Crash {
        node: usize,
    },
    Start {
        node: usize,
    },
    Store {
        node: usize,
        good: bool,
    },
    Lag {
        node: usize,
        on: bool,
    },
    Order {
        node: usize,
        order: Order,
    },
}

impl World {
    pub(super) fn fault(&mut self, fault: Fault) {
        self.note(format!("{fault:?}"));
        match fault {
            Fault::CutCoordinator { node, heal } => {
                if !heal && !self.nodes[node].cut {
                    self.nodes[node].cut = true;
                    self.silence(node);
                } else if heal {
                    self.nodes[node].cut = false;
                }
            }
            Fault::CoordinatorDown { heal } => {
                if !heal && !self.down {
                    self.down = true;
                    (0..self.nodes.len()).for_each(|node| self.silence(node));
                } else if heal {
                    self.down = false;
                }
            }
            Fault::CutPeers { a, b, heal } => {
                let pair = (a.min(b), a.max(b));
                if heal {
                    self.peers_cut.remove(&pair)
                } else {
                    self.peers_cut.insert(pair)
                };
            }
            Fault::Slow { delay_ns } => self.delay_ns = delay_ns,
            Fault::Unsure { one_in } => self.unsure_one_in = one_in,
            Fault::Freeze { node, ns } => self.nodes[node].frozen_until = self.now + ns,
            Fault::KillAgent { node } => self.nodes[node].agent = false,
            Fault::Crash { node } => {
                (self.nodes[node].agent, self.nodes[node].machine) = (false, false);
                // What was not journaled is gone, and with it nothing that was acknowledged.
                let Node { logs, journaled, .. } = &mut self.nodes[node];
                for (group, log) in logs {
                    log.truncate(journaled.get(group).copied().unwrap_or(0));
                }
            }
            Fault::Start { node } => {
                if !self.nodes[node].agent || self.nodes[node].stopped {
                    self.start(node);
                }
            }
            Fault::Store { node, good } => self.nodes[node].store_bad_since = (!good).then_some(self.now),
            Fault::Lag { node, on } => self.nodes[node].lags = on,
            Fault::Order { node, order } => {
                if self.nodes[node].agent && self.nodes[node].frozen_until <= self.now {
                    let wall_ns = self.now;
                    let id = self.serial;
                    self.tell(node, Input::Order { id, order, wall_ns });
                }
            }
        }
    }

    /// The stream of changes to a node falls silent, and some time later the node hears that it is lost.
    fn silence(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        n.stream += 1;
        n.heard = false;
        let (run, stream) = (n.run, n.stream);
        let after = self.rng.below(3_000 * MS);
        let input = Input::Lost { reason: "silent".to_owned() };
        self.at(self.now + after, Event::Streamed { node, run, stream, input });
    }
}
