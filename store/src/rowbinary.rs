//! Rows as they are kept until they are sent: the values of their columns one after the
//! other, as in ClickHouse's RowBinary
//! (<https://clickhouse.com/docs/interfaces/formats/RowBinary>). They are written once,
//! straight from borrowed text, so that a block can be inserted again, or reduced to its
//! missing rows, without being written again. `native.rs` makes columns of them.

use crate::native::length;

/// Appends values to a block of rows.
pub struct RowWriter<'a>(&'a mut Vec<u8>);

impl<'a> RowWriter<'a> {
    /// Returns a writer that appends to `block`.
    pub const fn new(block: &'a mut Vec<u8>) -> Self {
        Self(block)
    }

    /// Appends a `UInt8`, a `Bool`, or the number behind an `Enum8`.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    /// Appends a `UInt16`.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Appends a `UInt32`.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Appends a `UInt64`.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Appends an `Int64`, or a `DateTime64(3)`: milliseconds since the epoch.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// Appends a `String`, also where it is of low cardinality.
    pub fn text(&mut self, value: &str) -> &mut Self {
        length(self.0, value.len());
        self.0.extend_from_slice(value.as_bytes());
        self
    }

    /// Appends a `String` of `bytes` bytes, which `write` appends.
    pub(crate) fn id(&mut self, bytes: usize, write: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        length(self.0, bytes);
        write(self.0);
        self
    }

    /// Appends an `Array(String)`.
    pub fn texts<'t>(&mut self, values: impl ExactSizeIterator<Item = &'t str>) -> &mut Self {
        length(self.0, values.len());
        for value in values {
            self.text(value);
        }
        self
    }

    /// Appends a `Map(String, String)`.
    pub fn map<'t>(&mut self, entries: impl ExactSizeIterator<Item = (&'t str, &'t str)>) -> &mut Self {
        length(self.0, entries.len());
        for (key, value) in entries {
            self.text(key).text(value);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_little_endian_and_lengths_leb128() {
        let mut block = Vec::new();
        RowWriter::new(&mut block).u16(0x0102).text("ab").texts(["x", ""].into_iter()).i64(-1);
        assert_eq!(block, [[2, 1].as_slice(), b"\x02ab", b"\x02\x01x\x00", &[0xff; 8]].concat());
        block.clear();
        RowWriter::new(&mut block).text(&"a".repeat(300));
        assert_eq!(block[..2], [0xac, 0x02]);
    }
}
