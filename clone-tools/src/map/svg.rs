//! Draws the picture as SVG, for browsers.

use std::fmt::Write;

use quick_xml::escape::escape;

use super::grid::{Cell, Shade};
use super::layout::{INK, LINES, Label, Layout, MARK, PAPER, Rgb, SAMPLE, color};
use super::picture::Picture;

/// Draws `picture` and returns the SVG document.
pub fn draw(picture: &Picture<'_>) -> String {
    let layout = Layout::of(picture);
    let mut svg = String::new();
    write_svg(&mut svg, picture, &layout).expect("a string takes everything");
    svg
}

fn write_svg(
    svg: &mut String,
    picture: &Picture<'_>,
    layout: &Layout,
) -> Result<(), std::fmt::Error> {
    let Layout { width, height, .. } = layout;
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">"
    )?;
    let title = layout.head.iter().map(|label| label.text.as_str()).collect::<Vec<_>>();
    writeln!(svg, "<title>{}</title>", text(title[0]))?;
    writeln!(svg, "<desc>{}</desc>", text(&title[1..].join("; ")))?;
    write_definitions(svg, layout)?;
    writeln!(svg, "<rect width=\"100%\" height=\"100%\" fill=\"{}\"/>", hex(PAPER))?;

    let mut class = "t";
    for label in &layout.head {
        write_label(svg, label, class)?;
        class = if label.text.starts_with("lost") { "w" } else { "p" };
    }
    for label in &layout.rows {
        write_label(svg, label, "r")?;
    }
    writeln!(svg, "<g shape-rendering=\"crispEdges\">")?;
    for (x, y, run) in layout.runs(&picture.grid) {
        write_run(svg, layout, (x, y), run)?;
    }
    let (x, y) = layout.origin;
    let (width, height) =
        (layout.cell * picture.grid.columns(), layout.cell * picture.grid.nr_rows());
    writeln!(
        svg,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"url(#grid)\"/>"
    )?;
    writeln!(svg, "</g>")?;
    for (shade, label) in &layout.legend {
        let (x, y) = (label.x, label.y - SAMPLE + 4);
        let size = format!("x=\"{x}\" y=\"{y}\" width=\"{SAMPLE}\" height=\"{SAMPLE}\"");
        writeln!(svg, "<rect {size} class=\"{}\"/>", class_of(*shade))?;
        if *shade == Shade::Lost {
            writeln!(svg, "<rect {size} fill=\"url(#x{SAMPLE})\"/>")?;
        }
        let label = Label { x: label.x + SAMPLE + 8, ..label.clone() };
        write_label(svg, &label, "p")?;
    }
    write_label(svg, &layout.foot, "p")?;
    writeln!(svg, "</svg>")
}

/// Writes the style classes and the patterns that are laid over cells.
fn write_definitions(svg: &mut String, layout: &Layout) -> std::fmt::Result {
    writeln!(svg, "<style>")?;
    writeln!(svg, "text{{font:15px system-ui,sans-serif;fill:{}}}", hex(INK))?;
    writeln!(svg, ".t{{font-size:19px;font-weight:600}}.r{{font-size:13px;text-anchor:end}}")?;
    for shade in Shade::ALL {
        writeln!(svg, ".{}{{fill:{}}}", class_of(shade), hex(color(shade)))?;
    }
    writeln!(svg, "rect[fill^=url]{{pointer-events:none}}\n</style>")?;
    let cell = layout.cell;
    let (x, y) = layout.origin;
    let (lines, share) = LINES;
    writeln!(
        svg,
        "<pattern id=\"grid\" x=\"{x}\" y=\"{y}\" width=\"{cell}\" height=\"{cell}\" \
         patternUnits=\"userSpaceOnUse\"><path d=\"M{cell} .5H.5V{cell}\" fill=\"none\" \
         stroke=\"{}\" stroke-opacity=\"{:.2}\"/></pattern>",
        hex(lines),
        f32::from(share) / 255.0
    )?;
    // The mark in the legend has a position and size of its own.
    let (_, sample) = &layout.legend[Shade::ALL.len() - 1];
    for (size, x, y) in [(cell, x, y), (SAMPLE, sample.x, sample.y - SAMPLE + 4)] {
        let (near, far) = (2, size - 2);
        let id = if size == cell { "x".to_owned() } else { format!("x{SAMPLE}") };
        writeln!(
            svg,
            "<pattern id=\"{id}\" x=\"{x}\" y=\"{y}\" width=\"{size}\" height=\"{size}\" \
             patternUnits=\"userSpaceOnUse\"><path d=\"M{near} {near}L{far} {far}M{near} {far}\
             L{far} {near}\" stroke=\"{}\" stroke-width=\"1.6\"/></pattern>",
            hex(MARK)
        )?;
    }
    Ok(())
}

fn write_label(svg: &mut String, label: &Label, class: &str) -> std::fmt::Result {
    let Label { x, y, text: words } = label;
    writeln!(svg, "<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{}</text>", text(words))
}

/// Writes a run of cells with the same shade, and its tooltip.
fn write_run(
    svg: &mut String,
    layout: &Layout,
    (x, y): (usize, usize),
    run: &[Cell],
) -> std::fmt::Result {
    let shade = run[0].shade();
    let (width, height) = (layout.cell * run.len(), layout.cell);
    let place = format!("x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"");
    let (first, end) = (run[0].regions.start, run[run.len() - 1].regions.end);
    let sum = |part: fn(&Cell) -> u64| run.iter().map(part).sum::<u64>();
    let hydrated = sum(|cell| cell.tally.hydrated);
    let lost = match sum(|cell| cell.tally.lost) {
        0 => String::new(),
        lost => format!(", {lost} lost"),
    };
    writeln!(
        svg,
        "<rect {place} class=\"{}\"><title>regions {first}..{end}: {hydrated} of {} \
         hydrated{lost}</title></rect>",
        class_of(shade),
        end - first
    )?;
    if shade == Shade::Lost {
        writeln!(svg, "<rect {place} fill=\"url(#x)\"/>")?;
    }
    Ok(())
}

fn class_of(shade: Shade) -> &'static str {
    match shade {
        Shade::Empty => "e",
        Shade::Few => "f",
        Shade::Half => "h",
        Shade::Most => "m",
        Shade::Full => "a",
        Shade::Lost => "l",
    }
}

fn hex([red, green, blue]: Rgb) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

/// Escapes `words` as XML text. Characters that XML cannot represent become U+FFFD.
fn text(words: &str) -> String {
    let sayable = |c: char| {
        if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') { '\u{fffd}' } else { c }
    };
    escape(words.chars().map(sayable).collect::<String>()).into_owned()
}
