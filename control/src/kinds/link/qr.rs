//! QR codes (ISO/IEC 18004): a text as modules, drawn as SVG or PNG, in black on white with a quiet zone, since every
//! scanner reads these.

use std::fmt::Write;

use qrcode::{Color, EcLevel, QrCode, types::QrError};
use schemars::JsonSchema;
use serde::Deserialize;

/// The share of a code that can be damaged while scanners still read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(rename = "Correction")]
pub(crate) enum ErrorCorrection {
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

impl From<ErrorCorrection> for EcLevel {
    fn from(correction: ErrorCorrection) -> Self {
        match correction {
            ErrorCorrection::L => Self::L,
            ErrorCorrection::M => Self::M,
            ErrorCorrection::Q => Self::Q,
            ErrorCorrection::H => Self::H,
        }
    }
}

/// A code: its modules, dark or light, row by row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct QrModules {
    width: usize,
    dark: Vec<bool>,
}

/// The reason why a code cannot be drawn.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum DrawError {
    /// The text does not fit the largest code.
    #[error("the address does not fit a QR code with so much error correction")]
    TooLong,
    /// The picture would have less than a pixel for each module.
    #[error("is too small: this code needs at least {0} pixels")]
    TooSmall(u32),
    /// The picture cannot be written.
    #[error("the picture cannot be written: {0}")]
    Picture(String),
}

impl QrModules {
    /// Returns the code of `text`.
    pub(crate) fn new(text: &str, correction: ErrorCorrection) -> Result<Self, DrawError> {
        let code =
            QrCode::with_error_correction_level(text, correction.into()).map_err(|_: QrError| DrawError::TooLong)?;
        let width = code.width();
        Ok(Self { width, dark: code.to_colors().into_iter().map(|color| color == Color::Dark).collect() })
    }

    /// Draws an SVG picture `size` pixels wide, with a margin of `margin` modules.
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

    /// Draws a PNG picture `size` pixels wide, with a margin of at least `margin` modules: a module is a whole number of
    /// pixels, and the margin gets the rest.
    pub(crate) fn png(&self, size: u32, margin: u32) -> Result<Vec<u8>, DrawError> {
        let side = u32::try_from(self.width).unwrap_or(u32::MAX).saturating_add(2 * margin);
        let scale = size / side;
        if scale == 0 {
            return Err(DrawError::TooSmall(side));
        }
        let size = size as usize;
        let scale = scale as usize;
        let before = (size - scale * self.width) / 2;
        // One bit for each pixel; 1 is white.
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
        let picture = |error: png::EncodingError| DrawError::Picture(error.to_string());
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

    fn code() -> QrModules {
        QrModules::new("https://go.example/q/sale", ErrorCorrection::M).unwrap()
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
        assert_eq!(code.png(32, 4), Err(DrawError::TooSmall(33)));
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
        assert_eq!(QrModules::new(&"a".repeat(5000), ErrorCorrection::H), Err(DrawError::TooLong));
    }
}
