//! QR codes (ISO/IEC 18004): a text as squares, drawn as SVG or PNG. Colours are
//! black on white with a quiet margin, which is what every scanner reads.

use std::fmt::Write;

use qrcode::{Color, EcLevel, QrCode, types::QrError};
use schemars::JsonSchema;
use serde::Deserialize;

/// How much of a code may be damaged and it is still read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub(crate) enum Correction {
    /// 7 %.
    L,
    /// 15 %.
    #[default]
    M,
    /// 25 %.
    Q,
    /// 30 %: for codes with something printed over them.
    H,
}

impl From<Correction> for EcLevel {
    fn from(correction: Correction) -> Self {
        match correction {
            Correction::L => Self::L,
            Correction::M => Self::M,
            Correction::Q => Self::Q,
            Correction::H => Self::H,
        }
    }
}

/// A code: squares, dark or light, row by row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Squares {
    width: usize,
    dark: Vec<bool>,
}

/// Why a code is not drawn.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Undrawn {
    /// The text does not fit the largest code.
    #[error("the address does not fit a QR code with so much error correction")]
    TooLong,
    /// The picture would have less than a pixel a square.
    #[error("is too small: this code needs at least {0} pixels")]
    TooSmall(u32),
    /// The picture cannot be written.
    #[error("the picture cannot be written: {0}")]
    Picture(String),
}

impl Squares {
    /// The code of `text`.
    pub(crate) fn new(text: &str, correction: Correction) -> Result<Self, Undrawn> {
        let code =
            QrCode::with_error_correction_level(text, correction.into()).map_err(|_: QrError| Undrawn::TooLong)?;
        let width = code.width();
        Ok(Self { width, dark: code.to_colors().into_iter().map(|color| color == Color::Dark).collect() })
    }

    /// An SVG picture `size` pixels wide, with a margin of so many squares.
    pub(crate) fn svg(&self, size: u32, margin: u32) -> String {
        let side = self.width + 2 * margin as usize;
        let mut path = String::new();
        for (y, row) in self.dark.chunks(self.width).enumerate() {
            let mut x = 0;
            while let Some(dark) = row[x..].iter().position(|dark| *dark) {
                let start = x + dark;
                let len = row[start..].iter().take_while(|dark| **dark).count();
                // Writing to a string cannot fail.
                let _ = write!(path, "M{} {}h{len}v1h-{len}z", start + margin as usize, y + margin as usize);
                x = start + len;
            }
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{size}\" height=\"{size}\" viewBox=\"0 0 {side} {side}\" \
             shape-rendering=\"crispEdges\"><path fill=\"#fff\" d=\"M0 0h{side}v{side}H0z\"/><path d=\"{path}\"/></svg>\n"
        )
    }

    /// A PNG picture `size` pixels wide, with a margin of at least so many
    /// squares: each square is a whole number of pixels, what is left over goes
    /// to the margin.
    pub(crate) fn png(&self, size: u32, margin: u32) -> Result<Vec<u8>, Undrawn> {
        let side = u32::try_from(self.width).unwrap_or(u32::MAX).saturating_add(2 * margin);
        let scale = size / side;
        if scale == 0 {
            return Err(Undrawn::TooSmall(side));
        }
        let size = size as usize;
        let scale = scale as usize;
        let before = (size - scale * self.width) / 2;
        // A bit a pixel, 1 is white.
        let stride = size.div_ceil(8);
        let mut pixels = vec![0xff_u8; stride * size];
        for (y, row) in self.dark.chunks(self.width).enumerate() {
            let mut line = vec![0xff_u8; stride];
            for (x, _) in row.iter().enumerate().filter(|(_, dark)| **dark) {
                for pixel in before + x * scale..before + (x + 1) * scale {
                    line[pixel / 8] &= !(0x80 >> (pixel % 8));
                }
            }
            for copy in before + y * scale..before + (y + 1) * scale {
                pixels[copy * stride..(copy + 1) * stride].copy_from_slice(&line);
            }
        }
        let picture = |error: png::EncodingError| Undrawn::Picture(error.to_string());
        let mut out = Vec::new();
        let pixels_wide = u32::try_from(size).unwrap_or(u32::MAX);
        let mut encoder = png::Encoder::new(&mut out, pixels_wide, pixels_wide);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::One);
        let mut writer = encoder.write_header().map_err(picture)?;
        writer.write_image_data(&pixels).map_err(picture)?;
        writer.finish().map_err(picture)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> Squares {
        Squares::new("https://go.example/q/sale", Correction::M).unwrap()
    }

    #[test]
    fn a_picture_is_as_large_as_it_was_asked_for() {
        let code = code();
        let svg = code.svg(300, 4);
        assert!(
            svg.starts_with("<svg ") && svg.contains("width=\"300\"") && svg.contains("viewBox=\"0 0 33 33\""),
            "{svg}"
        );
        let png = code.png(300, 4).unwrap();
        let reader = png::Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
        assert_eq!((reader.info().width, reader.info().height), (300, 300));
        assert_eq!(code.png(32, 4), Err(Undrawn::TooSmall(33)));
        assert_eq!(code.png(33, 4).map(|png| png.is_empty()), Ok(false));
    }

    #[test]
    fn both_pictures_show_the_same_squares() {
        let code = code();
        let (scale, margin) = (3, 4);
        let side = code.width + 2 * margin;
        let png = code.png(u32::try_from(side * scale).unwrap(), 4).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let stride = (side * scale).div_ceil(8);
        for y in 0..side {
            for x in 0..side {
                let pixel = x * scale + 1;
                let dark = pixels[(y * scale + 1) * stride + pixel / 8] & (0x80 >> (pixel % 8)) == 0;
                let inside = (margin..side - margin).contains(&x) && (margin..side - margin).contains(&y);
                assert_eq!(dark, inside && code.dark[(y - margin) * code.width + x - margin], "{x} {y}");
            }
        }
        let squares = code.svg(300, 4).matches('M').count() - 1;
        let runs = code.dark.chunks(code.width).map(|row| row.chunk_by(|a, b| a == b).filter(|run| run[0]).count());
        assert_eq!(squares, runs.sum::<usize>());
    }

    #[test]
    fn what_does_not_fit_is_said() {
        assert_eq!(Squares::new(&"a".repeat(5000), Correction::H), Err(Undrawn::TooLong));
    }
}
