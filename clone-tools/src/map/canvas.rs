//! A canvas of pixels with a bitmap font.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use super::layout::Rgb;

const WEIGHT: FontWeight = FontWeight::Regular;
const HEIGHT: RasterHeight = RasterHeight::Size20;

/// The pixels from the top of a letter's box to its baseline.
const ASCENT: usize = 15;

/// A canvas. Pixels outside it are ignored.
#[derive(Clone, Debug)]
pub struct Canvas {
    width: usize,
    pixels: Vec<Rgb>,
}

impl Canvas {
    /// Creates a canvas of one colour.
    pub fn new(width: usize, height: usize, color: Rgb) -> Self {
        Self { width, pixels: vec![color; width * height] }
    }

    /// Returns the pixels, row by row, three bytes each.
    pub fn bytes(&self) -> &[u8] {
        self.pixels.as_flattened()
    }

    /// Returns the colour of a pixel, if it is on the canvas.
    pub fn pixel(&self, x: usize, y: usize) -> Option<Rgb> {
        if x < self.width { self.pixels.get(y * self.width + x).copied() } else { None }
    }

    /// Blends `color` over a pixel with an opacity of `share` / 255.
    pub fn blend(&mut self, (x, y): (usize, usize), color: Rgb, share: u8) {
        let index = y * self.width + x;
        let Some(pixel) = self.pixels.get_mut(index).filter(|_| x < self.width) else { return };
        for (below, above) in pixel.iter_mut().zip(color) {
            let share = u16::from(share);
            let mixed = (u16::from(*below) * (255 - share) + u16::from(above) * share) / 255;
            *below = u8::try_from(mixed).unwrap_or(u8::MAX);
        }
    }

    /// Fills a rectangle.
    pub fn fill(&mut self, (x, y): (usize, usize), width: usize, height: usize, color: Rgb) {
        for row in y..y + height {
            for column in x..x + width {
                self.blend((column, row), color, 255);
            }
        }
    }

    /// Writes a line of text from `x` on the baseline `y`. Characters without a glyph become `?`.
    pub fn write(&mut self, (x, y): (usize, usize), text: &str, color: Rgb) {
        let top = y.saturating_sub(ASCENT);
        for (index, character) in text.chars().enumerate() {
            let letter = get_raster(character, WEIGHT, HEIGHT);
            let Some(letter) = letter.or_else(|| get_raster('?', WEIGHT, HEIGHT)) else { continue };
            let left = x + index * get_raster_width(WEIGHT, HEIGHT);
            for (row, shares) in letter.rows().enumerate() {
                for (column, &share) in shares.iter().enumerate() {
                    self.blend((left + column, top + row), color, share);
                }
            }
        }
    }
}

/// Returns the width of a line of text in pixels.
pub fn text_width(text: &str) -> usize {
    text.chars().count() * get_raster_width(WEIGHT, HEIGHT)
}
