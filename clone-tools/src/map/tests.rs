//! Any difference in the regions is visible in every picture.

use std::convert::Infallible;
use std::io::Cursor;

use clone_core::geometry::{Geometry, RegionRange, RegionSize, Sectors};
use clone_core::metadata::check::read;
use clone_core::metadata::ir::Header;
use clone_core::metadata::metadata_size::MetadataSize;
use clone_core::metadata::region_map::{RegionMap, Tally};
use clone_core::metadata::restore::restore;
use persistent_data::BlockNr;
use persistent_data::bitset::BITS_PER_BLOCK;
use persistent_data::block::RawBlock;
use persistent_data::device::{Device, MemoryDevice, ReadDevice};
use persistent_data::format::ArrayBlock;

use super::canvas::Canvas;
use super::grid::{Cell, Grid, Shade};
use super::layout::{COLUMNS_MAX, Layout, ROWS_MAX, color};
use super::picture::Picture;
use super::terminal::{Style, draw};
use super::{png, svg};
use crate::common::terminal::is_utf8;

fn header(nr_regions: u64) -> Header {
    let region_size = RegionSize::new(Sectors(8)).unwrap();
    let geometry = Geometry::new(region_size, Sectors(8 * nr_regions)).unwrap();
    Header { uuid: [0; 16], geometry }
}

/// Returns regions of which `runs` are hydrated. With `lose_last`, those of the last array block
/// are lost.
fn regions(nr_regions: u64, runs: &[RegionRange], lose_last: bool) -> RegionMap {
    let header = header(nr_regions);
    let nr_blocks = MetadataSize::of(header.geometry).total_blocks() as usize;
    let device = MemoryDevice::new(nr_blocks);
    restore(&device, header, runs.iter().cloned().map(Ok::<_, Infallible>), &()).unwrap();
    if lose_last {
        let is_array = |at: &u64| {
            let mut block = [RawBlock::ZERO];
            device.read(BlockNr(*at), &mut block).unwrap();
            persistent_data::block::check::<ArrayBlock>(&block[0], BlockNr(*at)).is_ok()
        };
        let nr_arrays = nr_regions.div_ceil(BITS_PER_BLOCK) as usize;
        let arrays: Vec<u64> = (0..nr_blocks as u64).filter(is_array).collect();
        assert_eq!(arrays.len(), nr_arrays);
        device.write(BlockNr(arrays[nr_arrays - 1]), &[RawBlock::ZERO]).unwrap();
    }
    read(&device, &()).regions.unwrap()
}

fn picture(map: &RegionMap, grid: Grid) -> Picture<'_> {
    Picture::new("meta", header(map.nr_regions()), grid)
}

fn drawn(map: &RegionMap, style: &Style, rows: usize) -> String {
    let picture = picture(map, Grid::in_rows(map, style.columns(), rows));
    let mut text = Vec::new();
    draw(&mut text, &picture, style).unwrap();
    String::from_utf8(text).unwrap()
}

/// Returns only the characters of the map.
fn cells(drawn: &str) -> String {
    let lines = drawn.lines().skip_while(|line| !line.is_empty()).skip(1);
    lines
        .take_while(|line| !line.is_empty())
        .map(|line| line.chars().skip(11).collect::<String>())
        .collect()
}

const ASCII: Style = Style { width: 80, color: false, unicode: false };
const UNICODE: Style = Style { unicode: true, ..ASCII };

#[test]
fn cells_add_up_to_the_whole_and_have_every_region_once() {
    let mixed = [3..4, 1000..9000, 40_000..40_001, 65_000..65_100];
    for nr_regions in [1, 10, 31, 33, 500, 65_152, 65_153, 100_000] {
        let runs: Vec<RegionRange> =
            mixed.iter().filter(|run| run.end <= nr_regions).cloned().collect();
        for lose_last in [false, true] {
            let map = regions(nr_regions, &runs, lose_last);
            let mut grids = vec![Grid::wide(&map, COLUMNS_MAX, ROWS_MAX)];
            for (columns, rows) in [(1, 1), (8, 3), (64, 30), (1000, 64)] {
                grids.push(Grid::in_rows(&map, columns, rows));
                let grid = &grids[grids.len() - 1];
                assert!(grid.columns() <= columns && grid.nr_rows() <= rows, "{grid:?}");
            }
            for grid in grids {
                let lost = map.lost().map(|run| run.end - run.start).sum();
                assert_eq!(grid.total(), Tally { hydrated: map.hydrated(), lost });
                let mut next = 0;
                for cell in grid.rows().flatten() {
                    assert_eq!(cell.regions.start, next);
                    assert!(!cell.is_empty() && cell.len() <= grid.per_cell());
                    next = cell.regions.end;
                }
                assert_eq!(next, nr_regions);
            }
        }
    }
}

#[test]
fn only_none_is_empty_and_only_all_is_full_and_lost_beats_all() {
    let shade =
        |len, hydrated, lost| Cell { regions: 7..7 + len, tally: Tally { hydrated, lost } }.shade();
    for len in [2, 3, 100, 1 << 25] {
        assert_eq!(shade(len, 0, 0), Shade::Empty);
        assert_eq!(shade(len, len, 0), Shade::Full);
        for hydrated in [1, len / 2, len - 1] {
            assert!(![Shade::Empty, Shade::Full].contains(&shade(len, hydrated, 0)));
        }
        for hydrated in [0, 1, len - 1] {
            assert_eq!(shade(len, hydrated, 1), Shade::Lost);
        }
    }
    let shades: Vec<Shade> = (0..=6).map(|hydrated| shade(6, hydrated, 0)).collect();
    let (few, half, most) = (Shade::Few, Shade::Half, Shade::Most);
    assert_eq!(shades, [Shade::Empty, few, half, half, half, most, Shade::Full]);
}

/// Returns clones with a single region in a different state, and the possible shades of its cell.
fn odd_ones(nr_regions: u64) -> Vec<(RegionMap, u64, [Shade; 2])> {
    let mut odd = Vec::new();
    for at in [0, 1, nr_regions / 2, nr_regions - 2, nr_regions - 1] {
        odd.push((regions(nr_regions, &[at..at + 1], false), at, [Shade::Few, Shade::Half]));
        let others: Vec<RegionRange> =
            [0..at, at + 1..nr_regions].into_iter().filter(|run| !run.is_empty()).collect();
        odd.push((regions(nr_regions, &others, false), at, [Shade::Most, Shade::Half]));
    }
    odd
}

#[test]
fn a_single_region_that_is_otherwise_is_seen_in_the_terminal() {
    for (map, at, _) in odd_ones(200_000) {
        for style in [ASCII, UNICODE] {
            let cells: Vec<char> = cells(&drawn(&map, &style, 20)).chars().collect();
            let per_cell = Grid::in_rows(&map, style.columns(), 20).per_cell();
            assert!(per_cell > 1);
            let odd = (at / per_cell) as usize;
            let usual = cells[if odd == 0 { 1 } else { 0 }];
            for (index, &cell) in cells.iter().enumerate() {
                assert_eq!(cell != usual, index == odd, "region {at}, cell {index}: {cell}");
            }
        }
    }
}

#[test]
fn a_single_region_that_is_otherwise_is_seen_in_svg_and_png() {
    for (map, at, shades) in odd_ones(200_000) {
        let picture = picture(&map, Grid::wide(&map, COLUMNS_MAX, ROWS_MAX));
        let grid = &picture.grid;
        let odd = (at / grid.per_cell()) as usize;
        let shade = grid.rows().flatten().nth(odd).unwrap().shade();
        assert!(shades.contains(&shade), "{shade:?}");

        let svg = svg::draw(&picture);
        let of_cell = format!("regions {}..", odd as u64 * grid.per_cell());
        assert!(svg.contains(&of_cell), "{of_cell} is not in the picture");

        let layout = Layout::of(&picture);
        let canvas = png::paint(&picture, &layout);
        assert_eq!(middle_of_cell(&canvas, &layout, grid, odd), color(shade));
        let other = if odd == 0 { 1 } else { odd - 1 };
        assert_ne!(middle_of_cell(&canvas, &layout, grid, other), color(shade));
    }
}

fn middle_of_cell(canvas: &Canvas, layout: &Layout, grid: &Grid, index: usize) -> [u8; 3] {
    let (row, column) = (index / grid.columns(), index % grid.columns());
    // Not in the centre, where lost cells have their mark.
    let x = layout.origin.0 + layout.cell * column + layout.cell / 2;
    let y = layout.origin.1 + layout.cell * row + 1;
    canvas.pixel(x, y).unwrap()
}

#[test]
fn a_single_lost_region_is_seen_in_every_picture() {
    let nr_regions = 4 * BITS_PER_BLOCK + 1;
    for hydrated in [0..1, 0..nr_regions - 1] {
        let map = regions(nr_regions, &[hydrated], true);
        assert_eq!(map.lost().collect::<Vec<_>>(), [nr_regions - 1..nr_regions]);
        for (style, mark) in [(ASCII, '!'), (UNICODE, 'X')] {
            let cells = cells(&drawn(&map, &style, 20));
            assert_eq!(cells.find(mark).map(|at| &cells[at..]), Some(mark.to_string().as_str()));
        }
        let grid = Grid::wide(&map, COLUMNS_MAX, ROWS_MAX);
        let last = grid.rows().flatten().count() - 1;
        let picture = picture(&map, grid);
        assert_eq!(svg::draw(&picture).matches("class=\"l\"").count(), 2, "the cell, the legend");
        let layout = Layout::of(&picture);
        let canvas = png::paint(&picture, &layout);
        let middle = middle_of_cell(&canvas, &layout, &picture.grid, last);
        assert_eq!(middle, color(Shade::Lost));
    }
}

#[test]
fn colour_adds_to_the_characters_and_changes_none() {
    let map = regions(2 * BITS_PER_BLOCK + 1, &[0..30_000], true);
    let plain = drawn(&map, &UNICODE, 20);
    let mut colored = drawn(&map, &Style { color: true, ..UNICODE }, 20);
    assert!(!plain.contains('\x1b') && colored.contains("\x1b[1;97;41mX"));
    while let Some(begin) = colored.find('\x1b') {
        let end = begin + colored[begin..].find('m').unwrap();
        colored.replace_range(begin..=end, "");
    }
    assert_eq!(colored, plain);
}

#[test]
fn the_map_and_its_legend_fit_every_width() {
    let map = regions(100_000, &[0..30_000], false);
    for width in 20..=210 {
        let drawn = drawn(&map, &Style { width, ..UNICODE }, 20);
        let map_and_legend = drawn.lines().skip_while(|line| !line.is_empty());
        let lines: Vec<&str> = map_and_legend.collect();
        let (_scale, lines) = lines.split_last().unwrap();
        for line in lines {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }
}

#[test]
fn the_first_variable_that_is_set_tells_the_locale() {
    let is_utf8 = |values: [&str; 3]| is_utf8(values.map(str::to_owned));
    assert!(is_utf8(["", "", "de_DE.UTF-8"]));
    assert!(is_utf8(["", "C.utf8", "C"]));
    assert!(!is_utf8(["C", "C.UTF-8", "de_DE.UTF-8"]));
    assert!(!is_utf8(["", "", ""]));
    assert!(!is_utf8(["", "", "de_DE@euro"]));
}

#[test]
fn the_svg_is_xml_whatever_the_file_is_called() {
    let map = regions(100, &[0..30], false);
    let name = "a<b>&\"'\u{1}\n]]>ö";
    let grid = Grid::wide(&map, COLUMNS_MAX, ROWS_MAX);
    let svg = svg::draw(&Picture::new(name, header(100), grid));
    let mut reader = quick_xml::Reader::from_str(&svg);
    let mut elements = 0;
    loop {
        match reader.read_event().unwrap() {
            quick_xml::events::Event::Eof => break,
            quick_xml::events::Event::Start(_) | quick_xml::events::Event::Empty(_) => {
                elements += 1;
            }
            _ => {}
        }
    }
    assert!(elements > 20);
    assert!(svg.contains("a&lt;b&gt;&amp;") && !svg.contains('\u{1}'));
}

#[test]
fn an_svg_is_no_larger_than_what_it_shows() {
    let map = regions(10_000_000, &[0..9_000_000], false);
    let whole = picture(&map, Grid::wide(&map, COLUMNS_MAX, ROWS_MAX));
    assert!(svg::draw(&whole).len() < 20_000);
    // The worst case: every other cell differs.
    let runs: Vec<RegionRange> = (0..4096).map(|cell| cell * 4..cell * 4 + 2).collect();
    let map = regions(4 * 4096, &runs, false);
    let worst = picture(&map, Grid::wide(&map, COLUMNS_MAX, ROWS_MAX));
    assert!(svg::draw(&worst).len() < 1 << 20);
}

#[test]
fn the_png_holds_what_was_painted() {
    let map = regions(100, &[0..30, 50..51], false);
    let picture = picture(&map, Grid::wide(&map, COLUMNS_MAX, ROWS_MAX));
    let layout = Layout::of(&picture);
    let encoded = png::draw(&picture).unwrap();
    let mut decoded = ::png::Decoder::new(Cursor::new(encoded)).read_info().unwrap();
    let mut pixels = vec![0; decoded.output_buffer_size().unwrap()];
    let info = decoded.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width as usize, info.height as usize), (layout.width, layout.height));
    assert!(pixels == png::paint(&picture, &layout).bytes());
}
