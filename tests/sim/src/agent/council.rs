//! The decider of failover and what surrounds it, as `agent/src/node/council` has it.
//!
//! Owns: the decider's thread. What can hurt: the event loop may be far behind it, and both behind the ring's time
//! limit; so each has its own turns here too. Refuses: deciding.

use understudy_agent::failover::decide::Decider;
use understudy_agent::failover::{Action, Input, Placed, Settings};
use understudy_types::id::NodeId;

use super::{Agent, Out};
use crate::coord::Request;
use crate::event::{Event, Wake};
use crate::host::Host;

/// The decider asks for a tick every 50 ms at least; the real thread gives one every 20 ms.
const TICK_NS: u64 = 50_000_000;
/// How often the store's evidence is told.
const EVIDENCE_NS: u64 = 100_000_000;

impl Agent {
    /// As `convene` of `node/start.rs`.
    pub(super) fn convene(&mut self, host: &Host, out: &mut Out) {
        let plan = out.plan.clone();
        let placed = |group: &crate::plan::GroupPlan| Placed {
            group: group.id,
            active: group.active,
            replicas: group.replicas.clone(),
        };
        let settings = Settings {
            node: self.me,
            incarnation: u64::from(self.me.get()) * 1_000_000 + self.life,
            mode: understudy_agent::config::model::Automation::On,
            lease_ns: plan.lease_ns,
            renew_ns: plan.renew_ns,
            store_stall_ns: plan.store_stall_ns,
            drift_ppm: 500,
            in_sync_timeout_ns: plan.in_sync_timeout_ns,
            dwell_ns: plan.dwell_ns,
            site: String::new(),
            priority: 0,
            no_failover: false,
            capacity_groups: 0,
            cross_site: true,
            fence_hook: false,
            placement: plan.groups.iter().map(placed).collect(),
        };
        self.decider = Some(Decider::new(settings, host.clock.boot(out.queue.now_ns())));
        out.coordinator.join(self.me, self.life, &mut out.queue);
        self.wake_after(0, Wake::Tick, out);
        self.wake_after(0, Wake::Evidence, out);
    }

    /// The decider has something to look at.
    pub(super) fn wake_council(&mut self, out: &mut Out) {
        if !self.council_due {
            self.council_due = true;
            let delay = out.random.below(200_000);
            self.wake_after(delay, Wake::Council, out);
        }
    }

    /// Somebody tells the decider something.
    pub fn told(&mut self, input: Input, out: &mut Out) {
        if self.decider.is_some() {
            self.council.push_back(input);
            self.wake_council(out);
        }
    }

    pub(super) fn tick(&mut self, host: &mut Host, out: &mut Out) {
        let wall_ns = out.wall_ns();
        self.council.push_back(Input::Tick { wall_ns });
        self.council_turn(host, out);
        self.wake_after(TICK_NS, Wake::Tick, out);
    }

    /// What the store's evidence says: it makes progress, or has nothing to do.
    pub(super) fn evidence(&mut self, host: &Host, out: &mut Out) {
        let now = host.clock.boot(out.queue.now_ns());
        if host.store_runs() && !host.trouble().hung && !host.disk_slow {
            self.store_good_at = Some(now);
        }
        let why = if self.store_good_at == Some(now) { String::new() } else { "no progress".into() };
        self.told(Input::Store { good_at: self.store_good_at, why }, out);
        self.wake_after(EVIDENCE_NS, Wake::Evidence, out);
    }

    /// The decider takes what waits.
    pub(super) fn council_turn(&mut self, host: &mut Host, out: &mut Out) {
        self.council_due = false;
        while let Some(input) = self.council.pop_front() {
            let now = host.clock.boot(out.queue.now_ns());
            let Some(decider) = &mut self.decider else { return };
            for action in decider.on(input, now) {
                self.act(action, host, out);
            }
        }
    }

    fn act(&mut self, action: Action, host: &mut Host, out: &mut Out) {
        match action {
            Action::Transact { id, expect, write } => {
                if out.trace.is_kept() {
                    out.say(format_args!("n{} wants {id}: {}", self.me, brief(&write)));
                }
                let (node, life, sent_ns) = (self.me, self.life, out.queue.now_ns());
                let request = Request { node, life, id, expect, write, sent_ns };
                out.coordinator.submit(request, &mut out.queue);
            }
            Action::Reread => out.coordinator.reread(self.me, &mut out.queue),
            Action::WriteUntil { until } => host.ring.write_until_ns = until.0,
            Action::Desire(desired) => {
                self.desires.push_back(desired);
                self.poke(out);
            }
            Action::AskPromise { peer, id, groups, duration_ns } => {
                let me = self.me;
                self.say_to(peer, vec![Input::PromiseAsked { peer: me, id, groups, duration_ns }], out);
            }
            Action::Promise { peer, id, groups } => {
                let me = self.me;
                self.say_to(peer, vec![Input::Promised { peer: me, id, groups }], out);
            }
            Action::AskCandidate { peer, groups } => {
                let me = self.me;
                self.say_to(peer, vec![Input::CandidateAsked { peer: me, groups }], out);
            }
            Action::TellCandidate { peer, tails } => {
                let me = self.me;
                let told = |(group, tail_epoch, journaled)| Input::Candidate { peer: me, group, tail_epoch, journaled };
                self.say_to(peer, tails.into_iter().map(told).collect(), out);
            }
            Action::Say(said) => {
                out.say(format_args!("n{} says {} {:?}: {}", self.me, said.rule, said.group.map(|g| g.0), said.text));
            }
            Action::Reply { id, result } => out.say(format_args!("n{} order {id}: {result:?}", self.me)),
            Action::Kick { .. } | Action::Fence { .. } | Action::Stopped => {}
        }
    }

    /// Words to a peer's decider, on the connection for beats.
    fn say_to(&self, peer: NodeId, inputs: Vec<Input>, out: &mut Out) {
        if let Some(delay) = out.net.word_delay(self.me, peer, out.queue.now_ns()) {
            out.queue.after(delay, Event::Word { from: self.me, to: peer, inputs });
        }
    }
}

fn brief(write: &[crate::coord::Write]) -> String {
    use understudy_agent::failover::Record;
    let one = |(name, record, _): &crate::coord::Write| match record {
        Some(Record::Group(r)) => {
            format!(
                "{} e{} n{} in_sync {:?} {:?} move {:?}",
                name.key(),
                r.epoch,
                r.active,
                r.in_sync,
                r.cause,
                r.move_to
            )
        }
        Some(Record::Lease(r)) => format!("{} {}#{} released {}", name.key(), r.incarnation, r.count, r.released),
        Some(_) => name.key(),
        None => format!("{} gone", name.key()),
    };
    write.iter().map(one).collect::<Vec<_>>().join("; ")
}
