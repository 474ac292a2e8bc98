//! The screen, on simulated terminals.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::Rect;

use super::line;
use super::rates::Meter;
use super::screen::{Look, Shown, cells};
use crate::control::protocol::{CloneStatus, Event, Requests, Set, Snapshot};

/// Returns a clone of 1 GiB after `second` seconds. It copies 32 MiB per second, and is read and
/// written.
fn snapshot(second: u64) -> Snapshot {
    let regions = 262_144;
    let hydrated = (second * 8192).min(regions);
    let requests = |each: u64, bytes: u64, micros: u64| {
        let count = second * each;
        Requests { count, bytes: count * bytes, failed: 0, micros: count * micros }
    };
    let happened = |number: u32, text: &str| Event {
        name: "disk".into(),
        number: number.into(),
        time: 1_795_400_000.0 + f64::from(number),
        what: "other".into(),
        text: text.into(),
        details: BTreeMap::new(),
    };
    Snapshot {
        clone: CloneStatus {
            name: "disk".into(),
            size_bytes: 1 << 30,
            region_bytes: 4096,
            state: "running".into(),
            mode: Some("rw".into()),
            complete: hydrated == regions,
            hydrated_regions: hydrated,
            regions,
            hydrating_regions: 64,
            settings: Set {
                hydration: true,
                hydration_threshold: 1024,
                hydration_batch_size: 256,
                hydration_rate: Some(32 << 20),
                ..Set::default()
            },
            ..CloneStatus::default()
        },
        source: "https://backup.example/disk.img".into(),
        micros: second * 1_000_000,
        fetched_bytes: hydrated * 4096,
        copied_bytes: hydrated * 4096,
        commits: second,
        in_flight: 3,
        requests: BTreeMap::from([
            ("read".into(), requests(1500, 4096, 180)),
            ("write".into(), requests(40, 65_536, 12_000)),
        ]),
        cell_regions: 512,
        cells: "9".repeat(150) + "88765432101" + &"0".repeat(351),
        events: vec![
            happened(1, "suspended"),
            happened(2, "resumed"),
            happened(3, "hydration stopped after 16 copies in a row\u{1b}[2J"),
        ],
        ..Snapshot::default()
    }
}

/// Returns the screen as text.
fn drawn(width: u16, height: u16, look: Look, last: u64) -> String {
    let mut meter = Meter::default();
    let rates = (0..=last).map(|second| meter.note(&snapshot(second))).last().unwrap();
    let snapshot = snapshot(last);
    let shown = Shown { snapshot: &snapshot, rates: &rates, look };
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| shown.draw(frame.area(), frame.buffer_mut())).unwrap();
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| row(y).trim_end().to_owned() + "\n").collect()
}

/// `UPDATE_GOLDEN=1` updates the expected screen.
#[test]
fn the_screen_is_what_was_agreed_on_80_by_24() {
    let look = Look { color: true, unicode: true };
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/ctl/watch/screen.txt");
    let screen = drawn(80, 24, look, 10);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &screen).unwrap();
    }
    assert_eq!(screen, std::fs::read_to_string(&path).unwrap(), "\n{screen}");
}

#[test]
fn any_size_can_be_drawn_on_and_ascii_is_enough() {
    let look = Look { color: false, unicode: false };
    for (width, height) in [(1, 1), (10, 3), (40, 10), (80, 24), (200, 60), (500, 2), (3, 200)] {
        let screen = drawn(width, height, look, 3);
        let strange = |c: char| !c.is_ascii() && c != '\u{fffd}';
        assert!(!screen.contains(strange), "{screen}");
        cells(Rect::new(0, 0, width, height));
    }
    assert_eq!(cells(Rect::new(0, 0, 80, 24)), 42 * 14);
}

#[test]
fn a_full_bar_means_all_and_nothing_is_left_then() {
    let look = Look { color: true, unicode: true };
    let bar = |second| drawn(80, 24, look, second).lines().nth(1).unwrap().to_owned();
    assert!(bar(31).contains('░') && bar(31).ends_with("96.87 %  32 MiB/s  1 s left"));
    assert!(!bar(32).contains('░') && bar(32).ends_with("█ 100 %"), "{}", bar(32));
}

#[test]
fn a_line_tells_the_same() {
    let mut meter = Meter::default();
    let first = line(&snapshot(0), &meter.note(&snapshot(0)));
    assert_eq!(first, "disk 0 % hydrated, 0 of 262144 regions, hydrating");
    let second = line(&snapshot(2), &meter.note(&snapshot(2)));
    let told = "disk 6.25 % hydrated, 16384 of 262144 regions, hydrating, 32 MiB/s, 30 s left";
    assert_eq!(second, told);
}
