//! Draws the picture as PNG.

use ::png::{BitDepth, ColorType, Compression, Encoder};
use anyhow::{Context, Result};

use super::canvas::{Canvas, text_width};
use super::grid::Shade;
use super::layout::{INK, LINES, Layout, MARK, PAPER, SAMPLE, color};
use super::picture::Picture;

/// Draws `picture` and returns the PNG file.
///
/// # Errors
/// The encoder fails, which is not expected for any valid layout.
pub fn draw(picture: &Picture<'_>) -> Result<Vec<u8>> {
    let layout = Layout::of(picture);
    encode(&paint(picture, &layout), &layout).context("cannot draw the picture")
}

fn encode(canvas: &Canvas, layout: &Layout) -> Result<Vec<u8>> {
    let mut png = Vec::new();
    let mut encoder =
        Encoder::new(&mut png, u32::try_from(layout.width)?, u32::try_from(layout.height)?);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::High);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(canvas.bytes())?;
    writer.finish()?;
    Ok(png)
}

/// Draws the pixels of `picture`.
pub fn paint(picture: &Picture<'_>, layout: &Layout) -> Canvas {
    let mut canvas = Canvas::new(layout.width, layout.height, PAPER);
    for label in &layout.head {
        let ink = if label.text.starts_with("lost") { color(Shade::Lost) } else { INK };
        let room = (layout.width - 2 * label.x) / text_width("x");
        canvas.write((label.x, label.y), &shortened(&label.text, room), ink);
    }
    for label in &layout.rows {
        let x = label.x.saturating_sub(text_width(&label.text));
        canvas.write((x, label.y), &label.text, INK);
    }
    for (x, y, run) in layout.runs(&picture.grid) {
        for column in 0..run.len() {
            paint_cell(&mut canvas, (x + layout.cell * column, y), layout.cell, run[0].shade());
        }
    }
    for (shade, label) in &layout.legend {
        paint_cell(&mut canvas, (label.x, label.y - SAMPLE + 4), SAMPLE, *shade);
        canvas.write((label.x + SAMPLE + 8, label.y), &label.text, INK);
    }
    canvas.write((layout.foot.x, layout.foot.y), &layout.foot.text, INK);
    canvas
}

fn paint_cell(canvas: &mut Canvas, (x, y): (usize, usize), size: usize, shade: Shade) {
    canvas.fill((x, y), size, size, color(shade));
    let (lines, share) = LINES;
    for along in 0..size {
        canvas.blend((x + along, y), lines, share);
        canvas.blend((x, y + along), lines, share);
    }
    if shade == Shade::Lost {
        // A cross of two strokes, each two pixels wide.
        for along in 2..size - 2 {
            for (across, thick) in
                [(along, 0), (along, 1), (size - 1 - along, 0), (size - 1 - along, 1)]
            {
                canvas.blend((x + across + thick, y + along), MARK, 255);
            }
        }
    }
}

/// Cuts `text` to `room` characters at its start, since its end names the file.
fn shortened(text: &str, room: usize) -> String {
    let len = text.chars().count();
    if len <= room {
        return text.to_owned();
    }
    let end: String = text.chars().skip(len + 3 - room).collect();
    format!("...{end}")
}
