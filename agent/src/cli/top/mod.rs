//! `understudy top`: the live view of one node in a terminal.
//!
//! Owns: what is shown ([`TopModel`], read as JSON from the agent's admin socket), when it is fetched, and the keys.
//! What can hurt: an agent that does not answer; the last figures stay, with the error above them. Refuses: computing
//! anything; the agent did.

mod text;
mod view;

use std::time::Duration;

use anyhow::Context;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use serde::{Deserialize, Serialize};

use crate::probe::Capability;
use crate::signal::Signal;

pub use self::view::render;

/// Time between two fetches.
const REFRESH: Duration = Duration::from_secs(1);
/// Columns of the plain text of `--once`.
const ONCE_COLUMNS: u16 = 120;

/// What the view shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopModel {
    /// Name of the node.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// State as the node sees itself.
    pub state: String,
    /// Time since the agent started.
    pub uptime_ns: u64,
    /// The last second; `None` before the first is over.
    pub signal: Option<Signal>,
    /// What the probe could use.
    pub capabilities: Vec<Capability>,
    /// The most that a beat of this node was late in the last second.
    pub beat_lateness_ns: u64,
    /// Why the beat's thread is not protected; empty when it is.
    pub beat_unprotected: String,
}

/// Shows the view until `q`, Esc or Ctrl-C.
///
/// # Errors
/// When the terminal cannot be used, or the first fetch fails.
pub fn run(mut fetch: impl FnMut() -> anyhow::Result<TopModel>) -> anyhow::Result<()> {
    let mut model = fetch()?;
    let mut terminal = ratatui::try_init().context("cannot use this terminal; try `understudy top --once`")?;
    let mut trouble = None;
    let done = loop {
        if let Err(error) = terminal.draw(|frame| view::render_with(frame, &model, trouble.as_deref())) {
            break Err(error.into());
        }
        match wanted() {
            Ok(Wanted::Quit) => break Ok(()),
            Ok(Wanted::Draw) => {}
            Ok(Wanted::Fetch) => match fetch() {
                Ok(fresh) => {
                    model = fresh;
                    trouble = None;
                }
                Err(error) => trouble = Some(format!("{error:#}")),
            },
            Err(error) => break Err(error),
        }
    };
    ratatui::restore();
    done
}

enum Wanted {
    Quit,
    Draw,
    Fetch,
}

fn wanted() -> anyhow::Result<Wanted> {
    if !event::poll(REFRESH)? {
        return Ok(Wanted::Fetch);
    }
    Ok(match event::read()? {
        Event::Key(key) if key.kind == KeyEventKind::Release => Wanted::Draw,
        Event::Key(key) => match key.code {
            KeyCode::Char('q') | KeyCode::Esc => Wanted::Quit,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Wanted::Quit,
            _ => Wanted::Fetch,
        },
        _ => Wanted::Draw,
    })
}

/// One picture as plain text, for `--once`.
///
/// # Errors
/// Only what the drawing library reports; it draws into memory.
pub fn once(model: &TopModel) -> anyhow::Result<String> {
    let mut terminal = Terminal::new(TestBackend::new(ONCE_COLUMNS, view::rows_needed(model)))?;
    terminal.draw(|frame| render(frame, model))?;
    let buffer = terminal.backend().buffer();
    let mut out = String::new();
    for y in 0..buffer.area.height {
        let line: String = (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect();
        out.push_str(line.trim_end());
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
