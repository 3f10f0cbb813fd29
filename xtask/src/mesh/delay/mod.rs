//! `mesh delay`: a node's cable made long and leaky, where the kernel has no netem.
//!
//! Owns: a thread of the mesh's owner that holds each frame for half of the delay, each way, and loses some. The cable
//! is taken off the bridge and a tap device put in its place; the thread carries frames between the two. What can hurt:
//! an owner that dies; its taps go with it, and the nodes behind them are cut off until `mesh down`. More frames than
//! [`FRAMES_MAX`] at one time are lost, as in a switch. Refuses: order; frames keep theirs.

mod device;

use super::net::ip;
use super::plan::{Plan, Seat};
use super::{At, node_named, owner};
use crate::clock;
use anyhow::{Context, Result, ensure};
use device::{Cable, FRAME_BYTES_MAX, Frame, Tap};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Longest delay: longer ones are a partition.
const MS_MAX: u32 = 60_000;
/// Frames under way in one direction; more are lost.
const FRAMES_MAX: usize = 4096;
/// Frames that are read before the other side has its turn.
const READS_MAX: usize = 64;

/// Arguments of `mesh delay`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    at: At,
    /// The node, by number (from 1) or name (default: all)
    #[arg(long)]
    node: Option<String>,
    /// Milliseconds that every round trip takes longer, half of it each way; 0 ends it
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=i64::from(MS_MAX)))]
    ms: u32,
    /// Percent of all frames that are lost, each way
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
}

/// `mesh delay`.
///
/// # Errors
/// When there is no such mesh or node, or its owner could not.
pub(crate) fn main(args: &Args) -> Result<bool> {
    ensure!((0.0..=100.0).contains(&args.loss), "`--loss` is 0 to 100, in percent");
    let dir = super::absolute(&args.at.dir)?;
    let plan = super::contract::State::load(&dir)?.plan(&dir);
    let one = args.node.as_ref().map(|node| node_named(&plan, node)).transpose()?;
    for node in plan.nodes.iter().filter(|node| one.as_ref().is_none_or(|one| node.name == *one)) {
        // In hundredths of a percent, so that the owner reads whole numbers.
        owner::ask(&dir, &format!("delay {} {} {:.0}", node.name, args.ms, args.loss * 100.0))?;
    }
    Ok(true)
}

/// How long and how leaky a cable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Length {
    pub(super) ms: u32,
    /// Hundredths of a percent.
    pub(super) loss: u32,
}

/// Cables that are long now. They are short again when this goes.
#[derive(Default)]
pub(super) struct Delays {
    by_node: BTreeMap<String, Line>,
}

struct Line {
    /// When this closes the thread ends.
    end: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
    cable: String,
    bridge: String,
}

impl Delays {
    /// Makes the cable of `node` so long.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn set(&mut self, plan: &Plan, node: &Seat, length: Length) -> Result<()> {
        self.by_node.remove(&node.name);
        if length != (Length { ms: 0, loss: 0 }) {
            self.by_node.insert(node.name.clone(), Line::lay(plan, node, length)?);
        }
        Ok(())
    }
}

impl Line {
    fn lay(plan: &Plan, node: &Seat, length: Length) -> Result<Self> {
        let (end, ended) = UnixStream::pair()?;
        let tap = Tap::new(&node.tap)?;
        let cable = Cable::open(&node.cable)?;
        // From here on dropping it puts the cable back.
        let mut line = Self { end: Some(end), thread: None, cable: node.cable.clone(), bridge: plan.bridge.clone() };
        ip(&["link", "set", &node.tap, "master", &plan.bridge, "up"])?;
        // Off the bridge, the host itself would answer what is asked on the cable.
        ip(&["link", "set", &node.cable, "nomaster", "arp", "off"])?;
        let (random, ways, buffer) = (seed(), Default::default(), vec![0; FRAME_BYTES_MAX]);
        let mut carrier = Carrier { tap, cable, ended, length, random, ways, buffer };
        let thread = std::thread::Builder::new().name("mesh-delay".to_owned());
        line.thread = Some(thread.spawn(move || carrier.run()).context("cannot start a thread")?);
        Ok(line)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // the tap device goes with it
        }
        let _ = ip(&["link", "set", &self.cable, "arp", "on", "master", &self.bridge]);
    }
}

fn seed() -> u64 {
    u64::from(std::process::id()) << 32 | 0x9e37_79b9
}

/// Frames under way in one direction, the next one first.
#[derive(Default)]
struct Way(VecDeque<(Instant, Frame)>);

impl Way {
    /// Takes a frame on its way, unless the way is full.
    fn enter(&mut self, due: Instant, frame: Frame) {
        if self.0.len() < FRAMES_MAX {
            self.0.push_back((due, frame));
        }
    }

    /// A frame that has arrived.
    fn leave(&mut self, now: Instant) -> Option<Frame> {
        if self.0.front()?.0 > now {
            return None;
        }
        self.0.pop_front().map(|(_, frame)| frame)
    }
}

struct Carrier {
    tap: Tap,
    cable: Cable,
    ended: UnixStream,
    length: Length,
    random: u64,
    /// To the node, and from it.
    ways: [Way; 2],
    buffer: Vec<u8>,
}

impl Carrier {
    fn run(&mut self) {
        let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
        loop {
            let now = clock::now();
            while let Some(frame) = self.ways[0].leave(now) {
                self.cable.send(&frame);
            }
            while let Some(frame) = self.ways[1].leave(now) {
                self.tap.send(&frame);
            }
            let mut fds = [
                PollFd::new(self.ended.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.tap.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.cable.as_fd(), PollFlags::POLLIN),
            ];
            if poll(&mut fds, wait(&self.ways, now)).is_err() {
                continue; // a signal
            }
            let [ended, tap, cable] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
            if !ended.is_empty() || (tap | cable).intersects(gone) {
                return;
            }
            self.read(tap.contains(PollFlags::POLLIN), cable.contains(PollFlags::POLLIN));
        }
    }

    fn read(&mut self, tap: bool, cable: bool) {
        let due = clock::now() + Duration::from_micros(u64::from(self.length.ms) * 500);
        for way in [0, 1] {
            let ready = if way == 0 { tap } else { cable };
            for _ in 0..if ready { READS_MAX } else { 0 } {
                let frame =
                    if way == 0 { self.tap.receive(&mut self.buffer) } else { self.cable.receive(&mut self.buffer) };
                let Some(frame) = frame else { break };
                if !lost(&mut self.random, self.length.loss) {
                    self.ways[way].enter(due, frame);
                }
            }
        }
    }
}

/// Until the next frame arrives; for ever without one.
fn wait(ways: &[Way; 2], now: Instant) -> PollTimeout {
    let next = ways.iter().filter_map(|way| Some(way.0.front()?.0)).min();
    next.map_or(PollTimeout::NONE, |due| {
        let left = due.saturating_duration_since(now).as_micros().div_ceil(1000);
        PollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX))
    })
}

/// True for so many hundredths of a percent of all calls (xorshift).
fn lost(random: &mut u64, hundredths: u32) -> bool {
    *random ^= *random << 13_u32;
    *random ^= *random >> 7_u32;
    *random ^= *random << 17_u32;
    *random % 10_000 < u64::from(hundredths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_lost_as_was_asked_for() {
        let count = |hundredths| {
            let mut random = seed();
            (0..100_000).filter(|_| lost(&mut random, hundredths)).count()
        };
        assert_eq!((count(0), count(10_000)), (0, 100_000));
        assert!((800..1200).contains(&count(100)), "{}", count(100));
    }

    #[test]
    fn frames_keep_their_order_and_their_time_and_too_many_are_lost() {
        let now = clock::now();
        let mut way = Way::default();
        for n in 0..FRAMES_MAX + 5 {
            way.enter(now + Duration::from_millis(n as u64), vec![u8::try_from(n % 256).expect("a byte")]);
        }
        assert_eq!(way.0.len(), FRAMES_MAX);
        assert_eq!(way.leave(now), Some(vec![0]));
        assert_eq!(way.leave(now), None);
        assert_eq!(way.leave(now + Duration::from_millis(2)), Some(vec![1]));
        assert_eq!(wait(&[way, Way::default()], now), PollTimeout::from(2_u16));
    }
}
