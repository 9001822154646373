//! The parsers of stored objects, of what clients send, and of files of the user.
//!
//! Must never give a parser more than it would be given: lengths are those of the bytes.

use bytes::Bytes;
use gigastore_engine::log::State;
use gigastore_formats::digest::Digest;
use gigastore_formats::limits::{LARGE_ALIGNMENT, MAX_FOLDED_BYTES, MAX_PACK_HEADER_BYTES, MAX_RECORD_BYTES};
use gigastore_formats::manifest::checkpoint::{CheckpointReader, Selection, read_checkpoint, write_checkpoint};
use gigastore_formats::manifest::dataset::IndexReader;
use gigastore_formats::manifest::dataset::{DatasetReader, read_dataset, write_dataset};
use gigastore_formats::manifest::packs::{read_packs, write_packs};
use gigastore_formats::manifest::part::read_part;
use gigastore_formats::manifest::timeline::{read_timeline, write_timeline};
use gigastore_formats::name::{Name, Target};
use gigastore_formats::object::Stored;
use gigastore_formats::order::Cursor;
use gigastore_formats::pack::codec::decode_group;
use gigastore_formats::pack::{PackCheck, PackHeader};
use gigastore_formats::plan::{PlanAnswer, PlanRequest};
use gigastore_formats::range::ByteRange;
use gigastore_formats::record::{Marker, Record, SaveBegin};
use gigastore_formats::sealed::{seal, unseal};
use gigastore_formats::table::tokens::{Documents, TokenFile};
use gigastore_formats::table::{Footer, Step};
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::header::{PREFIX_BYTES, SafetensorsHeader, header_len};
use gigastore_formats::tensor::index::ShardIndex;
use gigastore_formats::verified::GroupTree;
use gigastore_formats::wire::{
    DatasetRequest, ExistsRequest, Fault, FinishRequest, Line, LogPage, PlacesAnswer, ProjectInfo, SaveRequest,
    VerifyReport, VerifyRequest,
};
use serde::{Serialize, de::DeserializeOwned};

/// Bytes of a pack's data that are made up for a header that was taken.
const BODY_BYTES: u64 = 1 << 20;

/// A pack's header, without its length in front and the spaces behind; then data that is all zero.
pub(super) fn pack_header(data: &[u8]) -> bool {
    let len = (PREFIX_BYTES + data.len()).next_multiple_of(LARGE_ALIGNMENT as usize);
    let mut bytes = [&((len - PREFIX_BYTES) as u64).to_le_bytes()[..], data].concat();
    bytes.resize(len, b' ');
    let Ok(header) = PackHeader::parse(Digest::of(&bytes), &bytes) else { return false };
    assert_eq!(header.name(), Digest::of(&bytes));
    assert_eq!(header.header_len(), bytes.len() as u64);
    let places = header.entries().iter().map(|entry| entry.stored).chain(header.pads().iter().copied());
    let mut places: Vec<ByteRange> = places.collect();
    places.sort();
    let mut end = header.header_len();
    for place in places {
        assert_eq!(place.start(), end, "places of a pack touch each other");
        end = place.end();
    }
    assert_eq!(end, header.object_len());
    for entry in header.entries() {
        assert_eq!(header.find(&entry.slice.slice).map(|found| found.stored), Some(entry.stored));
    }
    let body = (header.object_len() - header.header_len()).min(BODY_BYTES);
    let mut check = PackCheck::new(header);
    // Zeros are right for few slices, and whatever comes of them is an answer.
    if check.update(&vec![0; body as usize]).is_ok() {
        let _ = check.finish();
    }
    true
}

/// A frame of a coded slice: a byte for the type, three for the length that it should decode to, and the frame.
pub(super) fn pack_frames(data: &[u8]) -> bool {
    let Some((head, frame)) = data.split_first_chunk::<4>() else { return false };
    let dtypes = [Dtype::F32, Dtype::BF16, Dtype::F64, Dtype::U8, Dtype::F8_E4M3, Dtype::I64];
    let dtype = dtypes[head[0] as usize % dtypes.len()];
    let len = u64::from(u32::from_le_bytes([head[1], head[2], head[3], 0]));
    let Ok(group) = decode_group(frame, dtype, len) else { return false };
    assert_eq!(group.len() as u64, len);
    true
}

/// A safetensors file of another program, and the index of a model of several.
pub(super) fn safetensors(data: &[u8]) -> bool {
    let mut taken = ShardIndex::parse(data).map(|index| index.files().len()).is_ok();
    let Some((prefix, rest)) = data.split_first_chunk::<PREFIX_BYTES>() else { return taken };
    let Ok(len) = header_len(*prefix, MAX_PACK_HEADER_BYTES) else { return taken };
    let end = usize::try_from(len).map_or(data.len(), |len| len.min(data.len()));
    for header in [&data[..end], data, rest] {
        if let Ok(parsed) = SafetensorsHeader::parse(header, MAX_PACK_HEADER_BYTES) {
            let _ = parsed.check_file_len(data.len() as u64);
            assert!(parsed.check_file_len(header.len() as u64 + parsed.data_len()).is_ok());
            taken = true;
        }
    }
    taken
}

/// Manifests of all kinds, whole and by the ranges that their readers ask for.
pub(super) fn manifests(data: &[u8]) -> bool {
    let file = Bytes::copy_from_slice(data);
    let mut taken = read_part(&file).is_ok();
    if let Ok(found) = read_checkpoint(&file) {
        let again = write_checkpoint(&found.meta, &found.rows).expect("what was read can be written");
        assert_eq!(read_checkpoint(&again.into()).expect("what was written can be read").rows, found.rows);
        taken = true;
    }
    if let Ok(found) = read_dataset(&file) {
        let again = write_dataset(&found.meta, &found.rows).expect("what was read can be written");
        assert_eq!(read_dataset(&again.into()).expect("what was written can be read").rows, found.rows);
        taken = true;
    }
    if let Ok(rows) = read_packs(&file) {
        let again = write_packs(&rows).expect("what was read can be written");
        assert_eq!(read_packs(&again.into()).expect("what was written can be read"), rows);
        taken = true;
    }
    if let Ok(timeline) = read_timeline(&file) {
        let again = write_timeline(&timeline).expect("what was read can be written");
        assert_eq!(read_timeline(&again.into()).expect("what was written can be read"), timeline);
        taken = true;
    }
    let len = file.len() as u64;
    let names = || ["layers.000001.weight".to_owned(), "x".to_owned()].into_iter().collect();
    if let Ok(mut reader) = CheckpointReader::new(len, Selection::Names(names())) {
        give_all(&file, &mut reader, CheckpointReader::step, |reader, range, bytes| reader.give(range, bytes).is_ok());
    }
    if let Ok(mut reader) = DatasetReader::new(len, names()) {
        give_all(&file, &mut reader, DatasetReader::step, |reader, range, bytes| reader.give(range, bytes).is_ok());
    }
    if let Ok(mut reader) = IndexReader::new(len) {
        give_all(&file, &mut reader, IndexReader::step, |reader, range, bytes| reader.give(range, bytes).is_ok());
    }
    taken
}

/// Gives a reader what it asks for until it has what it wants, or refuses.
fn give_all<R, T, E>(
    file: &Bytes,
    reader: &mut R,
    step: impl Fn(&mut R) -> Result<Step<T>, E>,
    give: impl Fn(&mut R, ByteRange, Bytes) -> bool,
) {
    // A reader asks for some ranges of each row group at most.
    for _ in 0..=file.len() {
        let Ok(Step::Need(ranges)) = step(reader) else { return };
        for range in ranges {
            assert!(range.end() <= file.len() as u64, "{range} of {} bytes", file.len());
            if !give(reader, range, file.slice(range.start() as usize..range.end() as usize)) {
                return;
            }
        }
    }
    panic!("a reader never has enough");
}

/// A Parquet file of another program: its footer, and the pages of its tokens.
pub(super) fn token_pages(data: &[u8]) -> bool {
    let file = Bytes::copy_from_slice(data);
    if let Ok(footer) = Footer::of(&file) {
        let _ = footer.facts();
        let _ = footer.tokens(None);
    }
    let Ok(found) = TokenFile::of(&file, None) else { return false };
    let mut documents = Documents::new(found.width());
    for group in 0..found.groups() {
        let within =
            |range: ByteRange| file.get(range.start() as usize..range.end() as usize).map(|b| file.slice_ref(b));
        let Some(chunk) = within(found.tokens_range(group)) else { return false };
        let kept = found.keep_tokens(group, &chunk, &mut Documents::default());
        let before = documents.len() as u64;
        if found.read_tokens(group, &chunk, &mut documents).is_err() {
            return false;
        }
        assert!(kept.is_ok(), "what can be copied can be kept, or be found to be stored otherwise");
        assert_eq!(documents.len() as u64 - before, found.rows(group));
        if let Some(chunk) = found.counts_range(group).and_then(within) {
            let _ = found.read_counts(group, &chunk, &mut Vec::new());
        }
        documents.clear();
    }
    true
}

/// The first line of a sealed document; its seal is made here.
pub(super) fn records(data: &[u8]) -> bool {
    fn read<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(sealed: &[u8], limit: u64) -> bool {
        let Ok((document, _)) = unseal::<T>(sealed, limit) else { return false };
        let (again, _) = seal(&document);
        assert_eq!(unseal::<T>(&again, MAX_FOLDED_BYTES).expect("what was written can be read").0, document);
        true
    }
    // As it is: forms that are no sealed documents.
    let mut taken = unseal::<Record>(data, MAX_RECORD_BYTES).is_ok();
    let line = [data, b"\n"].concat();
    let sealed = [&line[..], format!("{{\"blake3\":\"{}\"}}\n", Digest::of(&line)).as_bytes()].concat();
    taken |= read::<Record>(&sealed, MAX_RECORD_BYTES);
    taken |= read::<State>(&sealed, MAX_FOLDED_BYTES);
    taken |= read::<SaveBegin>(&sealed, MAX_RECORD_BYTES);
    taken |= read::<Marker>(&sealed, MAX_RECORD_BYTES);
    taken |= read::<Option<u64>>(&sealed, MAX_RECORD_BYTES);
    if let Ok((record, digest)) = Record::unseal(&sealed, 7, Record::origin()) {
        assert_eq!((record.seq, digest), (7, Digest::of(&line)));
        for entry in &record.entries {
            if let gigastore_formats::record::Action::Commit(commit) = &entry.action {
                commit.indexes().for_each(|index| drop(index.tree()));
            }
        }
    }
    taken
}

/// A cursor of a data stream.
pub(super) fn cursors(data: &[u8]) -> bool {
    let Ok(cursor) = Cursor::parse(data) else { return false };
    assert_eq!(Cursor::parse(cursor.json().as_bytes()).as_ref(), Ok(&cursor));
    // Twice the same rank: the sum must be one, or be refused.
    let _ = Cursor::join(&[cursor.clone(), cursor]);
    true
}

/// Names and targets, and what clients and services say to each other.
pub(super) fn names(data: &[u8]) -> bool {
    let mut taken = false;
    if let Ok(text) = std::str::from_utf8(data) {
        for line in text.lines() {
            if let Ok(target) = line.parse::<Target>() {
                assert_eq!(target.to_string().parse::<Target>().as_ref(), Ok(&target));
                taken = true;
            }
            if let Ok(stored) = line.parse::<Stored>() {
                assert_eq!(stored.to_string(), line);
            }
            let _ = line.parse::<Name>().map(|name| assert_eq!(name.as_str(), line));
            let _ = line.parse::<Digest>().map(|digest| assert_eq!(digest.to_string(), line.to_lowercase()));
            let _ = GroupTree::proven_hex(Digest::of(b""), data.len() as u64 * 10_000, line);
        }
    }
    fn said<T: Serialize + DeserializeOwned>(data: &[u8]) -> Option<T> {
        let found: T = serde_json::from_slice(data).ok()?;
        let again = serde_json::to_vec(&found).expect("what was read can be written");
        Some(serde_json::from_slice(&again).expect("what was written can be read"))
    }
    taken |= said::<SaveRequest>(data).is_some();
    taken |= said::<FinishRequest>(data).is_some();
    taken |= said::<DatasetRequest>(data).is_some();
    taken |= said::<ExistsRequest>(data).is_some();
    taken |= said::<VerifyRequest>(data).is_some();
    taken |= said::<PlanRequest>(data).is_some();
    taken |= said::<ProjectInfo>(data).is_some();
    taken |= said::<LogPage>(data).is_some();
    taken |= said::<PlacesAnswer>(data).is_some();
    taken |= said::<Line<VerifyReport>>(data).is_some();
    taken |= said::<Fault>(data).is_some();
    if let Some(answer) = said::<PlanAnswer>(data) {
        answer.slices.into_iter().for_each(|slice| drop(slice.row()));
        taken = true;
    }
    taken
}
