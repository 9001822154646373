//! Rows of slices: the columns that checkpoints and parts share. They differ in how a pack is named, and in that a
//! slice of a part may have no place.
//!
//! Must never make a row of values that [`SliceId::new`] would refuse.

use std::fmt::Display;
use std::str::FromStr;

use arrow_array::{Array, ArrayRef, StringArray, UInt64Array};
use arrow_schema::Field;

use super::columns::{Columns, Lists, number, number_array, numbers, numbers_array, text, text_array};
use super::head::check_number;
use super::row::{Row, WrittenRow};
use super::{ManifestError, RowError};
use crate::digest::Digest;
use crate::limits::{MAX_DIMENSIONS, MAX_PACK_HEADER_BYTES};
use crate::object::Stored;
use crate::tensor::boxes::TensorBox;
use crate::tensor::slice::{Codec, Place, SliceId, SliceRow};

/// Where the slices of a kind of manifest lie.
pub(super) trait SlicePlace: Clone {
    /// How a pack is named.
    type Pack: Display + FromStr<Err: Into<RowError>>;
    /// Whether a slice may have no place.
    const OPTIONAL: bool;

    /// Returns the place.
    fn place(&self) -> Option<&Place<Self::Pack>>;

    /// Takes a place; `None` where it must not be missing.
    fn from_place(place: Option<Place<Self::Pack>>) -> Option<Self>;
}

impl SlicePlace for Place<Stored> {
    type Pack = Stored;
    const OPTIONAL: bool = false;

    fn place(&self) -> Option<&Self> {
        Some(self)
    }

    fn from_place(place: Option<Self>) -> Option<Self> {
        place
    }
}

impl SlicePlace for Option<Place<Digest>> {
    type Pack = Digest;
    const OPTIONAL: bool = true;

    fn place(&self) -> Option<&Place<Digest>> {
        self.as_ref()
    }

    fn from_place(place: Self) -> Option<Self> {
        Some(place)
    }
}

impl<L: SlicePlace> Row for SliceRow<L> {
    const LIST_VALUES: u64 = MAX_DIMENSIONS as u64;
    const BLOB_BYTES: u64 = 0;
    const FOUND_BY: &'static str = "name";

    fn fields() -> Vec<Field> {
        let place = |field: Field| field.with_nullable(L::OPTIONAL);
        vec![
            text("kind"),
            text("name"),
            text("dtype"),
            numbers("global_shape"),
            numbers("global_offsets"),
            numbers("sizes"),
            place(text("pack")),
            place(number("pack_header_len")),
            place(number("offset")),
            place(number("stored_len")),
            place(text("codec")),
            number("bytes"),
            text("blake3"),
        ]
    }

    fn read(
        columns: &Columns<'_>,
        each: &mut dyn FnMut(Result<Self, RowError>) -> Result<(), ManifestError>,
    ) -> Result<(), ManifestError> {
        let found = SliceColumns::find(columns)?;
        (0..found.names.len()).try_for_each(|i| each(found.row(i)))
    }

    fn check(&self) -> Result<(), RowError> {
        let Some(place) = self.place.place() else { return Ok(()) };
        let Place { header_len, offset, stored_len, codec, .. } = *place;
        let ends = offset.checked_add(stored_len).is_some();
        if header_len > MAX_PACK_HEADER_BYTES || offset < header_len || !ends {
            return Err(RowError::Place { header_len, offset, stored_len });
        }
        match codec {
            Codec::Raw => check_number("stored length of a raw slice", self.slice.bytes(), stored_len),
            Codec::ZstdPlanes => Ok(()),
        }
    }

    fn name(&self) -> &str {
        self.slice.name()
    }

    fn label(&self) -> String {
        self.slice.to_string()
    }

    fn is_before(&self, next: &Self) -> bool {
        self.slice.order() < next.slice.order()
    }
}

impl<L: SlicePlace> WrittenRow for SliceRow<L> {
    const DISTINCT: &'static [&'static str] = &["blake3"];

    fn arrays(rows: &[Self]) -> Vec<ArrayRef> {
        let slices = || rows.iter().map(|row| &row.slice);
        let places = || rows.iter().map(|row| row.place.place());
        vec![
            text_array(slices().map(|slice| Some(slice.kind().as_str()))),
            text_array(slices().map(|slice| Some(slice.name()))),
            text_array(slices().map(|slice| Some(slice.dtype().as_str()))),
            numbers_array(slices().map(SliceId::global_shape)),
            numbers_array(slices().map(|slice| slice.area().offsets())),
            numbers_array(slices().map(|slice| slice.area().sizes())),
            text_array(places().map(|place| place.map(|place| place.pack.to_string()))),
            number_array(places().map(|place| place.map(|place| place.header_len))),
            number_array(places().map(|place| place.map(|place| place.offset))),
            number_array(places().map(|place| place.map(|place| place.stored_len))),
            text_array(places().map(|place| place.map(|place| place.codec.as_str()))),
            number_array(slices().map(|slice| Some(slice.bytes()))),
            text_array(rows.iter().map(|row| Some(row.blake3.to_string()))),
        ]
    }

    fn weight(&self) -> u64 {
        (self.slice.name().len() + 24 * self.slice.global_shape().len()) as u64 + 512
    }
}

/// The columns of a batch.
struct SliceColumns<'a> {
    kinds: &'a StringArray,
    names: &'a StringArray,
    dtypes: &'a StringArray,
    shapes: Lists<'a>,
    offsets: Lists<'a>,
    sizes: Lists<'a>,
    bytes: &'a UInt64Array,
    digests: &'a StringArray,
    places: PlaceColumns<'a>,
}

struct PlaceColumns<'a> {
    packs: &'a StringArray,
    header_lens: &'a UInt64Array,
    offsets: &'a UInt64Array,
    stored_lens: &'a UInt64Array,
    codecs: &'a StringArray,
}

impl<'a> SliceColumns<'a> {
    fn find(columns: &Columns<'a>) -> Result<Self, ManifestError> {
        let places = PlaceColumns {
            packs: columns.texts("pack")?,
            header_lens: columns.numbers("pack_header_len")?,
            offsets: columns.numbers("offset")?,
            stored_lens: columns.numbers("stored_len")?,
            codecs: columns.texts("codec")?,
        };
        Ok(Self {
            kinds: columns.texts("kind")?,
            names: columns.texts("name")?,
            dtypes: columns.texts("dtype")?,
            shapes: columns.lists("global_shape")?,
            offsets: columns.lists("global_offsets")?,
            sizes: columns.lists("sizes")?,
            bytes: columns.numbers("bytes")?,
            digests: columns.texts("blake3")?,
            places,
        })
    }

    fn row<L: SlicePlace>(&self, i: usize) -> Result<SliceRow<L>, RowError> {
        let area = TensorBox::new(self.offsets.row(i).to_vec(), self.sizes.row(i).to_vec())?;
        let (kind, dtype) = (self.kinds.value(i).parse()?, self.dtypes.value(i).parse()?);
        let slice = SliceId::new(kind, self.names.value(i), dtype, self.shapes.row(i), area)?;
        check_number("bytes", slice.bytes(), self.bytes.value(i))?;
        let place = L::from_place(self.places.row(i)?).ok_or(RowError::HalfPlace)?;
        Ok(SliceRow { slice, blake3: self.digests.value(i).parse()?, place })
    }
}

impl PlaceColumns<'_> {
    fn row<P: FromStr<Err: Into<RowError>>>(&self, i: usize) -> Result<Option<Place<P>>, RowError> {
        let columns: [&dyn Array; 5] = [self.packs, self.header_lens, self.offsets, self.stored_lens, self.codecs];
        match columns.iter().filter(|column| column.is_null(i)).count() {
            0 => Ok(Some(Place {
                pack: self.packs.value(i).parse().map_err(Into::into)?,
                header_len: self.header_lens.value(i),
                offset: self.offsets.value(i),
                stored_len: self.stored_lens.value(i),
                codec: self.codecs.value(i).parse()?,
            })),
            5 => Ok(None),
            _ => Err(RowError::HalfPlace),
        }
    }
}
