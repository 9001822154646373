//! Tests of the files that tensors make: names, cuts, headers that readers take, tags.

use super::*;
use crate::tensor::header::SafetensorsHeader;
use crate::tensor::index::ShardIndex;

fn tensor(name: &'static str, shape: &'static [u64]) -> FileTensor<'static> {
    FileTensor { name, dtype: Dtype::F32, shape }
}

fn lay(tensors: &[FileTensor<'_>], view: View) -> Result<FileLayout, LayoutError> {
    let metadata = [("safetensors:format", "pt"), ("lr", "0.1")];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    FileLayout::new(tensors, &metadata, &Digest::of(b"content"), view)
}

#[test]
fn tensors_go_into_files_by_name_and_no_file_is_too_long() {
    let tensors = [tensor("a", &[10]), tensor("b", &[10]), tensor("c", &[0]), tensor("d", &[100]), tensor("e", &[])];
    let layout = lay(&tensors, View::Sharded(80)).unwrap();
    let parts: Vec<_> = layout.files().iter().map(|file| (file.name.as_str(), file.tensors.clone())).collect();
    let name = |i| format!("model-0000{i}-of-00003.safetensors");
    assert_eq!(parts, [(name(1).as_str(), 0..3), (name(2).as_str(), 3..4), (name(3).as_str(), 4..5)]);
    let index = ShardIndex::parse(layout.index().unwrap()).unwrap();
    assert_eq!((index.files().len(), index.weight_map()["d"].as_str()), (3, name(2).as_str()));
    let file = layout.file(&name(1)).unwrap();
    let header = SafetensorsHeader::parse(&file.header, 1 << 20).unwrap();
    header.check_file_len(file.len).unwrap();
    assert_eq!(header.metadata, BTreeMap::from([("format".to_owned(), "pt".to_owned())]));
    assert_eq!(file.header.len() % 4096, 0);
    for (i, (name, info)) in header.tensors.iter().enumerate() {
        assert_eq!((name.as_str(), layout.start(i)), (tensors[i].name, header.header_len + info.data.start()));
    }
    assert!(layout.file("model.safetensors").is_none());
    let whole = lay(&tensors, View::Whole).unwrap();
    assert_eq!((whole.files().len(), whole.file(WHOLE).unwrap().tensors.clone()), (1, 0..5));
    assert_eq!(whole.index(), None);
}

#[test]
fn a_view_is_told_by_a_name_and_by_what_fits() {
    assert_eq!(View::of("model.safetensors"), Some(View::Whole));
    for name in [INDEX, "model-00001-of-00002.safetensors", "model-123456-of-123456.safetensors"] {
        assert_eq!(View::of(name), Some(View::Sharded(SHARD_BYTES)), "{name}");
    }
    for name in
        ["", "model", "model-1-of-2.safetensors", "model--of-.safetensors", "a/model.safetensors", "config.json"]
    {
        assert_eq!(View::of(name), None, "{name}");
    }
    assert_eq!(View::fitting([], 10), View::Whole);
    assert_eq!(View::fitting([5, 5], 10), View::Whole);
    assert_eq!(View::fitting([11], 10), View::Whole, "one tensor is one file");
    assert_eq!(View::fitting([5, 6], 10), View::Sharded(10));
    assert_eq!(View::fitting([u64::MAX, 1], u64::MAX), View::Sharded(u64::MAX));
}

#[test]
fn nothing_makes_nothing_and_what_can_not_be_is_refused() {
    for view in [View::Whole, View::Sharded(10)] {
        let empty = lay(&[], view).unwrap();
        assert!(empty.files().is_empty() && empty.index().is_none());
        assert!(matches!(lay(&[tensor("__metadata__", &[1])], view), Err(LayoutError::Tensor { .. })));
    }
    let huge = [tensor("a", &[1 << 58]); 16];
    assert!(lay(&huge[..15], View::Whole).is_ok());
    assert!(matches!(lay(&huge, View::Whole), Err(LayoutError::Overflow { .. })));
    assert_eq!(lay(&huge, View::Sharded(1 << 60)).unwrap().files().len(), 16);
    let long = vec!["x".repeat(1024); 100_000];
    let many: Vec<FileTensor<'_>> = long.iter().map(|name| FileTensor { name, ..tensor("", &[1]) }).collect();
    assert!(matches!(lay(&many, View::Whole), Err(LayoutError::Header { .. })));
}

#[test]
fn a_tag_is_that_of_content_and_header() {
    let tensors = [tensor("a", &[10]), tensor("b", &[10])];
    let tag = |tensors: &[FileTensor<'_>], content: &[u8], format: &str| {
        let metadata = BTreeMap::from([("safetensors:format".to_owned(), format.to_owned())]);
        FileLayout::new(tensors, &metadata, &Digest::of(content), View::Whole).unwrap().files()[0].tag
    };
    let one = tag(&tensors, b"content", "pt");
    assert_eq!(one, tag(&tensors, b"content", "pt"));
    assert!(one != tag(&tensors, b"other", "pt") && one != tag(&tensors, b"content", "np"));
    assert_ne!(one, tag(&tensors[..1], b"content", "pt"));
}
