//! The Thrift compact protocol, as much as Parquet's footer and page headers need.
//!
//! Source: <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>. Must never allocate,
//! and never go over bytes twice: every element of a list takes at least one byte, or the list is refused.

/// Nesting that is skipped: 32. Parquet's own structures nest to 8.
const MAX_DEPTH: u8 = 32;

/// Why bytes are not what Thrift would have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ThriftError {
    /// The bytes end inside a value.
    #[error("it ends inside a value")]
    Ended,
    /// A number takes more bytes than 64 bits need.
    #[error("a number takes more than 64 bits")]
    Number,
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    Text,
    /// A value has another type.
    #[error("a value has the wire type {actual}, not {expected}")]
    Wire {
        /// The type that belongs there.
        expected: &'static str,
        /// The type that is there, a number of the protocol.
        actual: u8,
    },
    /// A list says that it has more elements than bytes follow.
    #[error("a list of {elements} elements has only {bytes} bytes")]
    List {
        /// Elements it says it has.
        elements: u64,
        /// Bytes that follow.
        bytes: u64,
    },
    /// Values are nested too deep.
    #[error("values are nested deeper than {MAX_DEPTH}")]
    Deep,
}

/// The type of a value on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wire(u8);

impl Wire {
    const TRUE: u8 = 1;
    const FALSE: u8 = 2;
    const BYTE: u8 = 3;
    const I32: u8 = 5;
    const I64: u8 = 6;
    const DOUBLE: u8 = 7;
    const BINARY: u8 = 8;
    const LIST: u8 = 9;
    const SET: u8 = 10;
    const MAP: u8 = 11;
    const STRUCT: u8 = 12;
    const UUID: u8 = 13;

    /// Checks that a structure follows.
    pub(crate) fn structure(self) -> Result<(), ThriftError> {
        self.expect(Self::STRUCT, "struct")
    }

    /// Returns a field's truth value, which is in its type.
    pub(crate) fn truth(self) -> Result<bool, ThriftError> {
        match self.0 {
            Self::TRUE => Ok(true),
            Self::FALSE => Ok(false),
            actual => Err(ThriftError::Wire { expected: "bool", actual }),
        }
    }

    fn expect(self, wire: u8, expected: &'static str) -> Result<(), ThriftError> {
        if self.0 == wire { Ok(()) } else { Err(ThriftError::Wire { expected, actual: self.0 }) }
    }
}

/// Reads values one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compact<'a> {
    rest: &'a [u8],
}

impl<'a> Compact<'a> {
    /// Starts at the first byte of a structure.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Returns the bytes that follow.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Reads a structure: calls `field` with each field's id, type and this reader, which must read or
    /// [`skip`](Self::skip) the value.
    pub(crate) fn fields<E: From<ThriftError>>(
        &mut self,
        mut field: impl FnMut(i16, Wire, &mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut last = 0;
        while let Some((id, wire)) = self.field(&mut last)? {
            field(id, wire, self)?;
        }
        Ok(())
    }

    /// Reads an integer of any width.
    pub(crate) fn integer(&mut self, wire: Wire) -> Result<i64, ThriftError> {
        match wire.0 {
            Wire::BYTE => Ok(i64::from(self.byte()?.cast_signed())),
            4..=Wire::I64 => self.zigzag(),
            actual => Err(ThriftError::Wire { expected: "integer", actual }),
        }
    }

    /// Reads an integer that must be one of 32 bits, on the wire too.
    pub(crate) fn int32(&mut self, wire: Wire) -> Result<i32, ThriftError> {
        wire.expect(Wire::I32, "i32")?;
        i32::try_from(self.zigzag()?).map_err(|_| ThriftError::Number)
    }

    /// Reads bytes.
    pub(crate) fn bytes(&mut self, wire: Wire) -> Result<&'a [u8], ThriftError> {
        wire.expect(Wire::BINARY, "binary")?;
        let len = self.varint()?;
        self.take(len)
    }

    /// Reads a text.
    pub(crate) fn text(&mut self, wire: Wire) -> Result<&'a str, ThriftError> {
        std::str::from_utf8(self.bytes(wire)?).map_err(|_| ThriftError::Text)
    }

    /// Reads a list's head: the type and number of its elements, which follow.
    pub(crate) fn list(&mut self, wire: Wire) -> Result<(Wire, usize), ThriftError> {
        wire.expect(Wire::LIST, "list")?;
        self.list_head()
    }

    /// Goes over a value that is not needed.
    pub(crate) fn skip(&mut self, wire: Wire) -> Result<(), ThriftError> {
        self.skip_within(wire, MAX_DEPTH)
    }

    fn skip_within(&mut self, wire: Wire, depth: u8) -> Result<(), ThriftError> {
        let depth = depth.checked_sub(1).ok_or(ThriftError::Deep)?;
        match wire.0 {
            Wire::TRUE | Wire::FALSE => Ok(()),
            Wire::BYTE => self.byte().map(drop),
            4..=Wire::I64 => self.varint().map(drop),
            Wire::DOUBLE => self.take(8).map(drop),
            Wire::UUID => self.take(16).map(drop),
            Wire::BINARY => self.bytes(wire).map(drop),
            Wire::STRUCT => self.fields(|_, wire, reader| reader.skip_within(wire, depth)),
            Wire::LIST | Wire::SET => {
                let (element, count) = self.list_head()?;
                (0..count).try_for_each(|_| self.skip_element(element, depth))
            }
            Wire::MAP => {
                let count = self.varint()?;
                if count == 0 {
                    return Ok(());
                }
                let count = self.bounded(count)?;
                let kinds = self.byte()?;
                (0..count).try_for_each(|_| {
                    self.skip_element(Wire(kinds >> 4), depth)?;
                    self.skip_element(Wire(kinds & 15), depth)
                })
            }
            actual => Err(ThriftError::Wire { expected: "known type", actual }),
        }
    }

    /// A truth value in a list is a byte of its own, unlike in a structure.
    fn skip_element(&mut self, wire: Wire, depth: u8) -> Result<(), ThriftError> {
        match wire.0 {
            Wire::TRUE | Wire::FALSE => self.byte().map(drop),
            _ => self.skip_within(wire, depth),
        }
    }

    fn field(&mut self, last: &mut i16) -> Result<Option<(i16, Wire)>, ThriftError> {
        let head = self.byte()?;
        if head & 15 == 0 {
            return Ok(None);
        }
        let id = match i16::from(head >> 4) {
            0 => i16::try_from(self.zigzag()?).map_err(|_| ThriftError::Number)?,
            delta => last.checked_add(delta).ok_or(ThriftError::Number)?,
        };
        *last = id;
        Ok(Some((id, Wire(head & 15))))
    }

    fn list_head(&mut self) -> Result<(Wire, usize), ThriftError> {
        let head = self.byte()?;
        let count = match u64::from(head >> 4) {
            15 => self.varint()?,
            count => count,
        };
        Ok((Wire(head & 15), self.bounded(count)?))
    }

    fn bounded(&self, count: u64) -> Result<usize, ThriftError> {
        let bytes = self.rest.len();
        let refuse = || ThriftError::List { elements: count, bytes: bytes as u64 };
        usize::try_from(count).ok().filter(|count| *count <= bytes).ok_or_else(refuse)
    }

    fn byte(&mut self) -> Result<u8, ThriftError> {
        let (first, rest) = self.rest.split_first().ok_or(ThriftError::Ended)?;
        self.rest = rest;
        Ok(*first)
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], ThriftError> {
        let len = usize::try_from(len).map_err(|_| ThriftError::Ended)?;
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(ThriftError::Ended)?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, ThriftError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 127);
            if shift == 63 && bits > 1 {
                return Err(ThriftError::Number);
            }
            number |= bits << shift;
            if byte < 128 {
                return Ok(number);
            }
        }
        Err(ThriftError::Number)
    }

    fn zigzag(&mut self) -> Result<i64, ThriftError> {
        let number = self.varint()?;
        Ok((number >> 1).cast_signed() ^ -((number & 1).cast_signed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipped(bytes: &[u8]) -> Result<usize, ThriftError> {
        let mut reader = Compact::new(bytes);
        reader.skip(Wire(Wire::STRUCT)).map(|()| bytes.len() - reader.rest().len())
    }

    #[test]
    fn values_of_every_type_are_gone_over() {
        // 1: true, 2: byte, 3: i32, 4: double, 5: "ab", 6: list of 2 bools, 7: map of 1 byte to "x", 8: struct {}.
        let bytes = [
            0x11, 0x13, 9, 0x15, 0x80, 0x01, 0x17, 0, 0, 0, 0, 0, 0, 0, 0, 0x18, 2, b'a', b'b', 0x19, 0x21, 1, 0, 0x1b,
            1, 0x38, 7, 1, b'x', 0x1c, 0, 0,
        ];
        assert_eq!(skipped(&bytes), Ok(bytes.len()));
        for len in 0..bytes.len() {
            assert!(skipped(&bytes[..len]).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn lengths_that_no_bytes_follow_are_refused() {
        let lists = [0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07];
        assert_eq!(skipped(&lists), Err(ThriftError::List { elements: 0x7fff_ffff, bytes: 0 }));
        assert_eq!(skipped(&[0x1c; 100]), Err(ThriftError::Deep));
        assert_eq!(skipped(&[0x15, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2, 0]), Err(ThriftError::Number));
        assert_eq!(skipped(&[0x18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]), Err(ThriftError::Ended));
        assert!(matches!(skipped(&[0x1e, 0]), Err(ThriftError::Wire { .. })));
    }

    #[test]
    fn numbers_are_zigzag() {
        for (bytes, number) in [(vec![0], 0), (vec![1], -1), (vec![2], 1), (vec![0x80, 0x01], 64)] {
            assert_eq!(Compact::new(&bytes).integer(Wire(Wire::I64)), Ok(number));
        }
        let least = [255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert_eq!(Compact::new(&least).integer(Wire(Wire::I64)), Ok(i64::MIN));
        assert_eq!(Compact::new(&[254]).integer(Wire(Wire::BYTE)), Ok(-2));
    }
}
