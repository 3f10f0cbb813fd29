//! Faults: which one happens next, where, and for how long; and the calm after them.
//!
//! Owns: the bounds of what a world does to itself: bits turn over on the disk of one node only, and that node alone
//! may lose its journal, so that what was acknowledged is always somewhere. Refuses: more than the product promises to
//! bear.

use understudy_agent::coordinator::record::{Name, NodeRecord};
use understudy_agent::failover::{Input, Order, Record};
use understudy_types::id::NodeId;

use super::{SECOND_NS, World};
use crate::disk::Trouble;
use crate::event::Event;
use crate::host::Frozen;
use crate::plan::Fault;
use crate::ring::Ring;

const MS: u64 = 1_000_000;

impl World {
    pub(super) fn fault(&mut self) {
        if self.calm {
            return;
        }
        let pause = self.random.within(self.out.plan.fault_pause_ns / 4, self.out.plan.fault_pause_ns * 2);
        self.out.queue.after(pause, Event::Fault);
        let plan = self.out.plan.clone();
        if plan.faults.is_empty() {
            return;
        }
        let weights: Vec<u64> = plan.faults.iter().map(|(_, weight)| *weight).collect();
        let fault = plan.faults[self.random.weighted(&weights)].0;
        let node = self.random.one_of(&plan.nodes);
        self.out.say(format_args!("fault {fault:?} n{node}"));
        self.faults += 1;
        self.strike(fault, node);
    }

    fn other(&mut self, node: NodeId) -> NodeId {
        let others: Vec<NodeId> = self.out.plan.nodes.iter().copied().filter(|other| *other != node).collect();
        self.random.pick(&others).copied().unwrap_or(node)
    }

    /// Long or short: most faults are over before anybody notices, some are not.
    fn some_time(&mut self) -> u64 {
        let most = self.random.one_of(&[50 * MS, 500 * MS, 3_000 * MS, 8_000 * MS]);
        self.random.within(MS, most)
    }

    fn strike(&mut self, fault: Fault, node: NodeId) {
        let index = self.index(node);
        let time = self.some_time();
        match fault {
            Fault::AgentKilled => {
                self.kill(index, "killed", false);
                self.out.queue.after(self.random.within(10 * MS, 2_000 * MS), Event::Start { node });
            }
            Fault::AgentCut => {
                if let Some(agent) = &self.nodes[index].agent {
                    agent.fuse.light(self.random.below(40));
                }
            }
            Fault::HostCut => self.host_cut(index, time),
            Fault::AgentFrozen | Fault::HostFrozen => {
                let host = &mut self.nodes[index].host;
                if host.frozen == Frozen::Nothing && !host.off {
                    host.frozen = if fault == Fault::HostFrozen { Frozen::All } else { Frozen::Agent };
                    self.out.queue.after(time, Event::Thaw { node });
                }
            }
            Fault::Partition | Fault::OneWay => {
                let other = self.other(node);
                self.block(node, other, time);
                if fault == Fault::Partition {
                    self.block(other, node, time);
                }
            }
            Fault::Isolated => {
                self.out.coordinator.block(node, &mut self.out.queue);
                self.out.queue.after(time, Event::CoordFree { node });
                for other in self.out.plan.clone().nodes.iter().copied().filter(|other| *other != node) {
                    self.block(node, other, time);
                    self.block(other, node, time);
                }
            }
            Fault::LinkBroken => drop(self.out.net.break_one(&mut self.out.queue)),
            Fault::Slow => {
                let other = self.other(node);
                self.out.net.slow(node, other, self.random.within(10 * MS, 400 * MS));
                self.out.queue.after(time, Event::Unblock { from: node, to: other });
            }
            Fault::WriteFails => self.nodes[index].host.disk.trouble(Trouble::Write),
            Fault::SyncFails => self.nodes[index].host.disk.trouble(Trouble::Sync),
            Fault::BitFlip => {
                let bad = self.out.plan.bad_disk;
                let index = self.index(bad);
                if self.nodes[index].host.disk.flip(&mut self.random) {
                    self.out.checker.log.taint(bad);
                }
            }
            Fault::DiskSlow => {
                self.nodes[index].host.disk_slow = true;
                self.out.queue.after(time, Event::DiskFast { node });
            }
            Fault::DiskReplaced => {
                let bad = self.out.plan.bad_disk;
                let index = self.index(bad);
                self.kill(index, "its disk is replaced", false);
                self.nodes[index].host.disk.replace();
                self.out.checker.log.taint(bad);
                self.out.queue.after(self.random.within(10 * MS, 2_000 * MS), Event::Start { node: bad });
            }
            Fault::StoreKilled => {
                self.nodes[index].host.trouble().down = true;
                self.sessions_die(index, false);
                self.out.queue.after(time, Event::StoreUp { node });
            }
            Fault::StoreRefuses => {
                let plan = self.out.plan.clone();
                let account = self.random.pick(&plan.accounts).map(|account| account.name.clone());
                self.nodes[index].host.trouble().refuses = account;
                self.out.queue.after(time, Event::StoreUp { node });
            }
            Fault::StoreBreaks => {
                let after = self.random.index(12);
                self.nodes[index].host.trouble().breaks_after = Some(after);
            }
            Fault::CentralDown => {
                self.out.central.set_down(true);
                self.out.queue.after(time, Event::CentralUp);
            }
            Fault::CentralDamaged => self.out.central.damage(&mut self.random),
            Fault::SessionDies => self.sessions_die(index, false),
            Fault::StoreHangs => {
                self.nodes[index].host.trouble().hung = true;
                self.out.queue.after(time, Event::StoreUp { node });
            }
            Fault::CoordinatorDown => {
                for node in self.out.plan.clone().nodes.iter().copied() {
                    self.out.coordinator.block(node, &mut self.out.queue);
                    self.out.queue.after(time, Event::CoordFree { node });
                }
            }
            Fault::CoordinatorCut => {
                self.out.coordinator.block(node, &mut self.out.queue);
                self.out.queue.after(time, Event::CoordFree { node });
            }
            Fault::CoordinatorSlow => {
                self.out.coordinator.slow(self.random.within(20 * MS, 900 * MS));
                self.out.queue.after(time, Event::CoordFast);
            }
            Fault::AnswersLost => {
                self.out.coordinator.lost_answers = self.random.within(50, 900);
                self.out.queue.after(time, Event::CoordFast);
            }
            Fault::Move => self.order_move(index),
            Fault::Drain => self.drain(node),
        }
    }

    /// An administrator asks a node to have a group moved.
    fn order_move(&mut self, index: usize) {
        let plan = self.out.plan.clone();
        let Some(group) = self.random.pick(&plan.groups).cloned().filter(|_| plan.shared) else { return };
        let to = self.random.chance(500).then(|| self.random.one_of(&plan.nodes));
        self.moves += 1;
        let (id, wall_ns) = (self.moves, self.out.queue.now_ns());
        let order = Order::Move { groups: vec![group.id], to, at_wall_ns: 0 };
        if let Some(agent) = &mut self.nodes[index].agent {
            agent.told(Input::Order { id, order, wall_ns }, &mut self.out);
        }
    }

    /// An administrator wants no group active on a node, or takes that back.
    fn drain(&mut self, node: NodeId) {
        if !self.out.plan.shared {
            return;
        }
        let name = Name::Node(node);
        let drained = !matches!(self.out.coordinator.get(&name), Some(Record::Node(record)) if record.drained);
        let record = Record::Node(NodeRecord { drained, ..NodeRecord::default() });
        self.out.coordinator.write(&[(name, Some(record), None)], &mut self.out.queue);
    }

    fn block(&mut self, from: NodeId, to: NodeId, time: u64) {
        self.out.net.block(from, to);
        self.out.queue.after(time, Event::Unblock { from, to });
    }

    /// The power of a host goes: everything in memory is gone, and of its disk what was not synced may be.
    fn host_cut(&mut self, index: usize, time: u64) {
        let node = self.nodes[index].host.id;
        if self.nodes[index].host.off {
            return;
        }
        self.kill(index, "no power", true);
        self.out.net.node_died(node, true, &mut self.out.queue);
        self.sessions_die(index, true);
        let host = &mut self.nodes[index].host;
        host.off = true;
        host.frozen = Frozen::Nothing;
        host.trouble().down = true;
        host.disk.power_cut(&mut self.random);
        // Until its agent says so again, no session changes anything.
        host.ring = Ring::new(self.next_generation, self.out.plan.ring_capacity, u64::from(self.out.plan.shared));
        self.next_generation += 1;
        self.out.queue.after(time, Event::PowerOn { node });
    }

    /// The faults end, and what they broke is mended.
    pub(super) fn calm(&mut self) {
        self.calm = true;
        self.calm_at_ns = self.out.queue.now_ns();
        self.out.say(format_args!("calm"));
        self.out.net.heal(&mut self.out.queue);
        self.out.central.set_down(false);
        self.out.coordinator.slow(0);
        self.out.coordinator.lost_answers = 0;
        for node in self.out.plan.clone().nodes.iter().copied() {
            let index = self.index(node);
            self.thaw(node);
            self.power_on(node);
            self.store_up(node);
            self.nodes[index].host.disk_slow = false;
            self.out.coordinator.unblock(node, &mut self.out.queue);
            if self.out.coordinator.get(&Name::Node(node)).is_some() {
                self.out.coordinator.write(&[(Name::Node(node), None, None)], &mut self.out.queue);
            }
            self.out.queue.after(SECOND_NS, Event::Start { node });
        }
    }
}
