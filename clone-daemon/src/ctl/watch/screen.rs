//! Draws the screen of `clonectl watch`.

use clone_tools::common::units::{Counted, Share};
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::border;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Widget};

use super::rates::{Rates, UserRate};
use crate::control::protocol::{CloneStatus, Event, Snapshot};
use crate::ctl::show::{plain, size, state, time};

/// The width of the boxes beside the map, in characters.
const SIDE: u16 = 36;

/// The height of the box of events, with its border, in lines.
const EVENTS: u16 = 5;

/// The capabilities of the terminal.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// True if it shows colours.
    pub color: bool,
    /// True if it shows Unicode characters.
    pub unicode: bool,
}

/// The data to draw.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The clone.
    pub snapshot: &'a Snapshot,
    /// The current rates.
    pub rates: &'a Rates,
    /// The capabilities of the terminal.
    pub look: Look,
}

/// The areas of the screen.
struct Places {
    title: Rect,
    bar: Rect,
    map: Rect,
    side: Rect,
    events: Rect,
    foot: Rect,
}

fn places(area: Rect) -> Places {
    let heights = [
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(EVENTS),
        Constraint::Length(1),
    ];
    let [title, bar, middle, events, foot] = Layout::vertical(heights).areas(area);
    let [map, side] =
        Layout::horizontal([Constraint::Min(10), Constraint::Length(SIDE)]).areas(middle);
    Places { title, bar, map, side, events, foot }
}

/// Returns the number of map cells that fit on a terminal of this size.
pub fn cells(area: Rect) -> u32 {
    let map = Block::bordered().inner(places(area).map);
    u32::from(map.width) * u32::from(map.height)
}

/// Returns the hydrated share of a clone.
pub(super) fn share(clone: &CloneStatus) -> Share {
    Share { part: clone.hydrated_regions, whole: clone.regions }
}

impl Shown<'_> {
    /// Draws the whole screen.
    pub fn draw(&self, area: Rect, buffer: &mut Buffer) {
        let places = places(area);
        self.title(places.title, buffer);
        self.bar(places.bar, buffer);
        self.map(places.map, buffer);
        self.side(places.side, buffer);
        self.events(places.events, buffer);
        Line::from("q quits").style(self.style(Color::DarkGray)).render(places.foot, buffer);
    }

    fn style(&self, color: Color) -> Style {
        if self.look.color { Style::new().fg(color) } else { Style::new() }
    }

    fn block(&self, title: &'static str) -> Block<'static> {
        let ascii = border::Set {
            top_left: "+",
            top_right: "+",
            bottom_left: "+",
            bottom_right: "+",
            vertical_left: "|",
            vertical_right: "|",
            horizontal_top: "-",
            horizontal_bottom: "-",
        };
        let lines = if self.look.unicode { border::PLAIN } else { ascii };
        Block::bordered().border_set(lines).title(title)
    }

    fn title(&self, area: Rect, buffer: &mut Buffer) {
        let clone = &self.snapshot.clone;
        let name = Span::styled(plain(&clone.name), Modifier::BOLD);
        let of = format!("  {} of {}", size(clone.size_bytes), plain(&self.snapshot.source));
        let state = state(clone);
        let color = match state {
            "failed" | "error" | "read-only" => Color::Red,
            "complete" | "hydrating" => Color::Green,
            _ => Color::Yellow,
        };
        let room = u16::try_from(state.len() + 1).unwrap_or(u16::MAX);
        let [left, right] =
            Layout::horizontal([Constraint::Min(0), Constraint::Length(room)]).areas(area);
        Line::from(vec![name, of.into()]).render(left, buffer);
        Line::from(state).style(self.style(color)).right_aligned().render(right, buffer);
    }

    fn bar(&self, area: Rect, buffer: &mut Buffer) {
        let clone = &self.snapshot.clone;
        let mut told = vec![share(clone).to_string()];
        told.extend(self.rates.speed().into_iter().filter(|_| !clone.complete));
        let told = format!(" {}", told.join("  "));
        let room = usize::from(area.width).saturating_sub(told.chars().count());
        // Rounded down, so that a full bar means complete.
        let full =
            room as u128 * u128::from(clone.hydrated_regions) / u128::from(clone.regions.max(1));
        let full = usize::try_from(full).unwrap_or(0).min(room);
        let [done, left] = if self.look.unicode { ["█", "░"] } else { ["#", "."] };
        let bar = vec![
            Span::styled(done.repeat(full), self.style(Color::Green)),
            Span::styled(left.repeat(room - full), self.style(Color::DarkGray)),
            told.into(),
        ];
        Line::from(bar).render(area, buffer);
    }

    fn map(&self, area: Rect, buffer: &mut Buffer) {
        let Snapshot { clone, cells, cell_regions, .. } = self.snapshot;
        let bytes = size(cell_regions.saturating_mul(clone.region_bytes));
        let scale = format!(" a cell: {} ({bytes}) ", Counted(*cell_regions, "region"));
        let block = self.block(" map ").title_bottom(scale);
        let room = block.inner(area);
        block.render(area, buffer);
        if room.is_empty() {
            return;
        }
        let rows = cells.as_bytes().chunks(room.width.into());
        for (y, row) in (room.top()..room.bottom()).zip(rows) {
            for (x, digit) in (room.left()..room.right()).zip(row) {
                let (character, color) = self.cell(*digit);
                if let Some(cell) = buffer.cell_mut((x, y)) {
                    cell.set_char(character).set_style(self.style(color));
                }
            }
        }
    }

    /// Returns the character and colour of a cell, like those of clone_map.
    fn cell(&self, digit: u8) -> (char, Color) {
        let (unicode, ascii, color) = match digit {
            b'0' => ('·', '.', Color::DarkGray),
            b'1'..=b'3' => ('░', '-', Color::Yellow),
            b'4'..=b'6' => ('▒', '=', Color::Yellow),
            b'7'..=b'8' => ('▓', '+', Color::Yellow),
            _ => ('█', '#', Color::Green),
        };
        (if self.look.unicode { unicode } else { ascii }, color)
    }

    fn side(&self, area: Rect, buffer: &mut Buffer) {
        let users = self.user_lines();
        let height = u16::try_from(users.len()).unwrap_or(0).saturating_add(2);
        let [top, bottom] =
            Layout::vertical([Constraint::Length(height), Constraint::Min(0)]).areas(area);
        let block = self.block(" users, in a second ");
        Paragraph::new(users).block(block).render(top, buffer);
        let block = self.block(" hydration ");
        Paragraph::new(self.hydration_lines()).block(block).render(bottom, buffer);
    }

    fn user_lines(&self) -> Vec<Line<'static>> {
        let rate = |name: &str| self.rates.users.get(name).copied().unwrap_or_default();
        let line = |name: &str| {
            let UserRate { requests, bytes, micros } = rate(name);
            let took = micros.map(took).unwrap_or_default();
            Line::from(format!("{name:<6}{requests:>7} {:>11} {took:>8}", size(bytes)))
        };
        let rest = rate("write_zeroes").requests.saturating_add(rate("discard").requests);
        let flushes = rate("flush").requests;
        vec![
            line("read"),
            line("write"),
            Line::from(format!("flush {flushes:>7}  zero, discard {rest:>5}")),
            Line::from(format!("under way {:>3}", self.snapshot.in_flight)),
        ]
    }

    fn hydration_lines(&self) -> Vec<Line<'static>> {
        let Snapshot { clone, fetched_bytes, zeroed_bytes, copied_bytes, .. } = self.snapshot;
        let set = &clone.settings;
        let rate = set.hydration_rate.map_or("no limit".into(), |rate| format!("{}/s", size(rate)));
        let mode = clone.mode.as_deref().unwrap_or("none");
        let on_read = if set.hydrate_on_read { ", on read" } else { "" };
        let aside = match clone.set_aside_regions {
            0 => Line::from("set aside  none"),
            regions => Line::from(format!("set aside  {}", Counted(regions, "region")))
                .style(self.style(Color::Red)),
        };
        vec![
            Line::from(format!("regions    {}/{}", clone.hydrated_regions, clone.regions)),
            Line::from(format!("under way  {}", Counted(clone.hydrating_regions, "region"))),
            Line::from(format!("fetched    {}", size(*fetched_bytes))),
            Line::from(format!("written    {}", size(*copied_bytes))),
            Line::from(format!("zeroes     {}", size(*zeroed_bytes))),
            aside,
            Line::from(format!("limit      {rate}, {mode}{on_read}")),
            Line::from(format!(
                "threshold  {}, batch {}",
                set.hydration_threshold, set.hydration_batch_size
            )),
        ]
    }

    fn events(&self, area: Rect, buffer: &mut Buffer) {
        let block = self.block(" events ");
        let room = usize::from(block.inner(area).height);
        let events = &self.snapshot.events;
        let last = events.get(events.len().saturating_sub(room)..).unwrap_or_default();
        let line = |event: &Event| {
            Line::from(format!("{} {} {}", time(event.time), event.number, plain(&event.text)))
        };
        let lines: Vec<Line<'_>> = last.iter().map(line).collect();
        Paragraph::new(lines).block(block).render(area, buffer);
    }
}

/// Formats a latency in microseconds for people.
fn took(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{micros} us"),
        10_000..10_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{} s", micros / 1_000_000),
    }
}
