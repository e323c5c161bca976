//! ClickHouse's Native format: a block is its columns, each with its name, its type and
//! the values of all rows (<https://clickhouse.com/docs/interfaces/formats/Native>). It
//! costs the server half of what rows do, and ClickHouse compares the types before it takes
//! anything. The crate `clickhouse` writes blocks, too, but no `LowCardinality`.
//!
//! Rows are kept as [`RowWriter`](crate::RowWriter) writes them until they are sent, since
//! a block may have to be reduced to its missing rows, and are turned into columns here.

use std::collections::HashMap;

use bytes::Bytes;
use foldhash::fast::RandomState;

use crate::{layout::TypedColumn, table::ColumnKind};

/// The version of the layout of a `LowCardinality` column.
const SHARED_DICTIONARIES: u64 = 1;
/// The keys of a `LowCardinality` column are in the block itself, and are all of them.
const KEYS_IN_BLOCK: u64 = 1 << 9 | 1 << 10;

/// The error for rows that were not written for these columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rows do not have the columns of their table")]
pub(crate) struct NotRows;

/// Returns one block with all rows.
pub(crate) fn block(columns: &[TypedColumn], pieces: &[Bytes]) -> Result<Vec<u8>, NotRows> {
    let mut built: Vec<ColumnValues<'_>> = columns.iter().map(ColumnValues::new).collect();
    let mut rows = 0;
    for piece in pieces {
        let mut left = RowBytes(piece);
        while !left.0.is_empty() {
            for column in &mut built {
                column.take(&mut left)?;
            }
            rows += 1;
        }
    }
    let total: usize = pieces.iter().map(Bytes::len).sum();
    let mut out = Vec::with_capacity(total + total / 4 + 64 * columns.len());
    length(&mut out, columns.len());
    length(&mut out, rows);
    for (column, values) in columns.iter().zip(built) {
        text(&mut out, column.name.as_bytes());
        text(&mut out, column.type_name.as_bytes());
        values.write(&mut out);
    }
    Ok(out)
}

/// Bytes of rows that are not read yet.
struct RowBytes<'a>(&'a [u8]);

impl<'a> RowBytes<'a> {
    fn fixed(&mut self, width: usize) -> Result<&'a [u8], NotRows> {
        let (value, rest) = self.0.split_at_checked(width).ok_or(NotRows)?;
        self.0 = rest;
        Ok(value)
    }

    fn length(&mut self) -> Result<usize, NotRows> {
        let mut length = 0;
        for shift in (0..28).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(NotRows)?;
            self.0 = rest;
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(length);
            }
        }
        Err(NotRows)
    }

    fn text(&mut self) -> Result<&'a [u8], NotRows> {
        let length = self.length()?;
        self.fixed(length)
    }
}

/// The values of one column.
enum ColumnValues<'a> {
    /// Numbers of this many bytes.
    Fixed(usize, Vec<u8>),
    Texts(TextValues<'a>),
    /// The ends of the lists, and all their elements.
    Lists(Vec<u8>, u64, TextValues<'a>),
    /// The ends of the maps, their keys and their values.
    Maps(Vec<u8>, u64, TextValues<'a>, TextValues<'a>),
}

impl<'a> ColumnValues<'a> {
    fn new(column: &TypedColumn) -> Self {
        let texts = |few: bool| if few { TextValues::few() } else { TextValues::Plain(Vec::new()) };
        let low = |type_name: &str| type_name.starts_with("LowCardinality(");
        match column.kind {
            ColumnKind::Text | ColumnKind::FewTexts => Self::Texts(texts(low(&column.type_name))),
            ColumnKind::TextList => {
                let elements = column.type_name.trim_start_matches("Array(");
                Self::Lists(Vec::new(), 0, texts(low(elements)))
            }
            ColumnKind::FewTextsMap | ColumnKind::TextMap => {
                let (keys, values) = column.type_name.split_once(", ").unwrap_or_default();
                Self::Maps(Vec::new(), 0, texts(low(keys.trim_start_matches("Map("))), texts(low(values)))
            }
            ColumnKind::ClickKind | ColumnKind::Flag => Self::Fixed(1, Vec::new()),
            ColumnKind::U16 => Self::Fixed(2, Vec::new()),
            ColumnKind::U32 => Self::Fixed(4, Vec::new()),
            ColumnKind::U64 | ColumnKind::I64 | ColumnKind::Time => Self::Fixed(8, Vec::new()),
        }
    }

    /// Takes the value of the next row.
    fn take(&mut self, row: &mut RowBytes<'a>) -> Result<(), NotRows> {
        match self {
            Self::Fixed(width, values) => values.extend_from_slice(row.fixed(*width)?),
            Self::Texts(values) => values.push(row.text()?),
            Self::Lists(ends, end, elements) => {
                let count = row.length()?;
                for _ in 0..count {
                    elements.push(row.text()?);
                }
                *end += count as u64;
                ends.extend_from_slice(&end.to_le_bytes());
            }
            Self::Maps(ends, end, keys, values) => {
                let count = row.length()?;
                for _ in 0..count {
                    keys.push(row.text()?);
                    values.push(row.text()?);
                }
                *end += count as u64;
                ends.extend_from_slice(&end.to_le_bytes());
            }
        }
        Ok(())
    }

    fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Fixed(_, values) => out.extend_from_slice(&values),
            Self::Texts(values) => {
                values.write_version(out);
                values.write(out);
            }
            Self::Lists(ends, _, elements) => {
                elements.write_version(out);
                out.extend_from_slice(&ends);
                elements.write(out);
            }
            Self::Maps(ends, _, keys, values) => {
                keys.write_version(out);
                values.write_version(out);
                out.extend_from_slice(&ends);
                keys.write(out);
                values.write(out);
            }
        }
    }
}

/// Texts as `String` or as `LowCardinality(String)`.
enum TextValues<'a> {
    /// Each text with its length.
    Plain(Vec<u8>),
    /// Each text as its place among the different ones.
    Few { places: Vec<u32>, keys: Vec<&'a [u8]>, known: HashMap<&'a [u8], u32, RandomState>, last: u32 },
}

impl<'a> TextValues<'a> {
    fn few() -> Self {
        // The empty text is always the first key, as ClickHouse itself writes it.
        let known = HashMap::from_iter([(&b""[..], 0)]);
        Self::Few { places: Vec::new(), keys: vec![b""], known, last: 0 }
    }

    fn push(&mut self, value: &'a [u8]) {
        match self {
            Self::Plain(values) => text(values, value),
            Self::Few { places, keys, known, last } => {
                // A text is often that of the row before.
                if keys[*last as usize] != value {
                    *last = *known.entry(value).or_insert_with(|| {
                        keys.push(value);
                        (keys.len() - 1) as u32
                    });
                }
                places.push(*last);
            }
        }
    }

    /// Writes what precedes all values of a column.
    fn write_version(&self, out: &mut Vec<u8>) {
        if matches!(self, Self::Few { .. }) {
            out.extend_from_slice(&SHARED_DICTIONARIES.to_le_bytes());
        }
    }

    fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Plain(values) => out.extend_from_slice(&values),
            // Lists may all be empty: then nothing is written of their elements.
            Self::Few { places, .. } if places.is_empty() => {}
            Self::Few { places, keys, .. } => {
                // The width of places: 1, 2 or 4 bytes are 0, 1 and 2.
                let (width, number) = match keys.len() {
                    0..=0x100 => (1, 0),
                    0x101..=0x1_0000 => (2, 1),
                    _ => (4, 2),
                };
                out.extend_from_slice(&(KEYS_IN_BLOCK | number).to_le_bytes());
                out.extend_from_slice(&(keys.len() as u64).to_le_bytes());
                keys.iter().for_each(|key| text(out, key));
                out.extend_from_slice(&(places.len() as u64).to_le_bytes());
                for place in places {
                    out.extend_from_slice(&place.to_le_bytes()[..width]);
                }
            }
        }
    }
}

fn text(out: &mut Vec<u8>, value: &[u8]) {
    length(out, value.len());
    out.extend_from_slice(value);
}

/// Writes a length as unsigned LEB128.
pub(crate) fn length(out: &mut Vec<u8>, length: usize) {
    let mut left = length;
    while left >= 0x80 {
        // Seven bits at a time, the highest set: more follows.
        out.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_end_early_are_refused() {
        let column = |name, kind, type_name: &str| TypedColumn { name, kind, type_name: type_name.to_owned() };
        let columns = [column("a", ColumnKind::Text, "String"), column("b", ColumnKind::U16, "UInt16")];
        let written = block(&columns, &[Bytes::from_static(b"\x02hi\x07\x00\x00\x08\x00")]).unwrap();
        assert_eq!(written, b"\x02\x02\x01a\x06String\x02hi\x00\x01b\x06UInt16\x07\x00\x08\x00");
        for short in [&b"\x02hi\x07"[..], b"\x02h", b"\xff\xff\xff\xff\xff"] {
            assert_eq!(block(&columns, &[Bytes::from_static(short)]), Err(NotRows));
        }
    }
}
