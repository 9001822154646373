//! Packs whose header lies: whatever it lies about, the pack is refused in words, and nothing stands under any name.

use bytes::Bytes;
use gigastore_formats::digest::Digest;
use gigastore_formats::limits::GROUP_BYTES;
use gigastore_formats::pack::{Coding, PackHeader, PackSlice};
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::SliceId;
use gigastore_formats::verified::GroupTree;
use gigastore_tests::model::XorShift;
use gigastore_tests::raw::Answer;
use serde_json::{Value, json};

use crate::served::{Served, pack_of};

/// A sound pack: its header, and the bytes after it.
#[derive(Clone)]
struct Pack {
    header: Vec<u8>,
    body: Vec<u8>,
}

impl Pack {
    /// A raw tensor of three groups, a coded one of two, a box of a larger one, a small file; with pads between them.
    fn sound() -> Self {
        let raw = XorShift::new(1).bytes((2 << 20) + 400);
        let coded: Vec<u8> = (0..(1u32 << 20) + 64).map(|i| (i >> 12) as u8).collect();
        let (boxed, file) = (XorShift::new(2).bytes(24), XorShift::new(3).bytes(77));
        let tensor = |name: &str, dtype, shape: &[u64], offsets: &[u64], sizes: &[u64]| {
            let area = TensorBox::new(offsets.to_vec(), sizes.to_vec()).unwrap();
            SliceId::tensor(name, dtype, shape, area).unwrap()
        };
        let rows = raw.len() as u64 / 4;
        let all = [
            (tensor("raw", Dtype::F32, &[rows], &[0], &[rows]), raw, false),
            (tensor("coded", Dtype::U8, &[coded.len() as u64], &[0], &[coded.len() as u64]), coded.into(), true),
            (tensor("boxed", Dtype::F32, &[8, 5], &[2, 1], &[2, 3]), boxed, false),
            (SliceId::file("sub/notes.txt", 77).unwrap(), file, false),
        ];
        let (mut slices, mut stored) = (Vec::new(), Vec::new());
        for (slice, content, coded) in all {
            let tree = GroupTree::of(&content);
            let (coding, bytes) = if coded { zstd(slice.dtype(), &content) } else { (Coding::Raw, content) };
            stored.push((slice.clone(), bytes));
            slices.push(PackSlice { slice, tree, coding });
        }
        let (parsed, header) = PackHeader::build(slices).unwrap();
        let mut body = vec![0; (parsed.object_len() - parsed.header_len()) as usize];
        for (slice, bytes) in stored {
            let start = (parsed.find(&slice).unwrap().stored.start() - parsed.header_len()) as usize;
            body[start..start + bytes.len()].copy_from_slice(&bytes);
        }
        Self { header: header.to_vec(), body }
    }

    fn parsed(&self) -> PackHeader {
        PackHeader::parse(Digest::of(&self.header), &self.header).unwrap()
    }

    fn document(&self) -> Value {
        serde_json::from_slice(&self.header[8..]).unwrap()
    }

    /// The same bytes under another header.
    fn with(&self, document: &Value) -> Self {
        let mut text = document.to_string().into_bytes();
        text.resize((text.len() + 8).next_multiple_of(4096) - 8, b' ');
        Self { header: [&(text.len() as u64).to_le_bytes()[..], &text].concat(), body: self.body.clone() }
    }

    async fn put(&self, served: &Served, name: Digest) -> Answer {
        let whole = [&self.header[..], &self.body].concat();
        served.ask("PUT", &format!("/v1/projects/p/packs/{name}.0"), &[], &whole).await
    }
}

fn zstd(dtype: Dtype, content: &[u8]) -> (Coding, Bytes) {
    let frames: Vec<Vec<u8>> = content
        .chunks(GROUP_BYTES as usize)
        .map(|group| gigastore_formats::pack::codec::encode_group(dtype, group))
        .collect();
    let bytes = frames.concat();
    let lens = frames.iter().map(|frame| frame.len() as u64).collect();
    (Coding::ZstdPlanes { stored: Digest::of(&bytes), frames: lens }, bytes.into())
}

/// Checks that a refusal says what it must, and that nothing is stored.
async fn check_refused(served: &Served, name: Digest, answer: &Answer, what: &str) {
    let body = answer.json();
    assert_eq!((answer.status, answer.code()), (422, "bad_upload".to_owned()), "{what}: {answer:?}");
    for field in ["message", "request_id"] {
        assert!(body[field].as_str().is_some_and(|text| !text.is_empty()), "{what}: no {field} in {body}");
    }
    assert!(body["message"].as_str().is_some_and(|text| text.len() < 2000), "{what}: {body}");
    let there = served.ask("HEAD", &format!("/v1/projects/p/packs/{name}.0"), &[], b"").await;
    assert_eq!(there.status, 404, "{what}");
    let left: Vec<_> =
        served.files().into_keys().filter(|path| path.to_string_lossy().contains("/projects/")).collect();
    assert!(left.is_empty(), "{what} left {left:?}");
}

/// Other values than this one.
fn others(value: &Value) -> Vec<Value> {
    match value {
        Value::Number(number) => {
            let number = number.as_u64().unwrap();
            vec![json!(number + 1), json!(number.wrapping_sub(1)), json!(u64::MAX), json!(-1), json!("1"), json!(null)]
        }
        Value::String(text) if text.is_empty() => vec![json!("x"), json!(null)],
        Value::String(text) => {
            let last = if text.ends_with('0') { "1" } else { "0" };
            let turned = format!("{}{last}", &text[..text.len() - 1]);
            vec![json!(turned), json!(format!("{text}0")), json!(""), json!(text[..text.len() - 1]), json!(7)]
        }
        Value::Array(values) => {
            let mut longer = values.clone();
            longer.push(json!(1));
            vec![json!([]), json!(longer), json!(values[..values.len().saturating_sub(1)])]
        }
        _ => vec![json!(null)],
    }
}

/// Every document that differs from this one in one place, and where.
fn turned(document: &Value) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    let Some(fields) = document.as_object() else {
        if let Some(values) = document.as_array() {
            for (i, value) in values.iter().enumerate() {
                all.extend(turned(value).into_iter().map(|(path, value)| {
                    let mut whole = document.clone();
                    whole[i] = value;
                    (format!("[{i}]{path}"), whole)
                }));
            }
        }
        all.extend(others(document).into_iter().filter(|other| other != document).map(|other| (String::new(), other)));
        return all;
    };
    for (key, value) in fields {
        let mut without = document.clone();
        without.as_object_mut().unwrap().remove(key);
        all.push((format!(".{key} removed"), without));
        let inner = value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok()).filter(Value::is_object);
        let changed = match &inner {
            // The description of a slice is JSON in a string.
            Some(inner) => turned(inner).into_iter().map(|(path, value)| (path, json!(value.to_string()))).collect(),
            None => turned(value),
        };
        all.extend(changed.into_iter().map(|(path, value)| {
            let mut whole = document.clone();
            whole[key] = value;
            (format!(".{key}{path}"), whole)
        }));
    }
    let mut more = document.clone();
    more["more"] = json!("x");
    all.push((" and one more field".to_owned(), more));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_that_lies_about_any_field_is_refused_under_any_name() {
    let served = Served::new().await;
    let sound = Pack::sound();
    let name = Digest::of(&sound.header);
    let same = sound.with(&sound.document());
    assert_eq!(same.document(), sound.document());
    let lies = turned(&sound.document());
    assert!(lies.len() > 250, "{} lies are too few to be all", lies.len());
    for (what, document) in lies {
        let lie = sound.with(&document);
        let named = Digest::of(&lie.header);
        assert_ne!(named, name, "{what}");
        // A box of a larger tensor is as good: the tensor's shape is a claim that only the join can judge.
        let of_more = what.contains("global_shape") && PackHeader::parse(named, &lie.header).is_ok();
        if !of_more {
            check_refused(&served, named, &lie.put(&served, named).await, &format!("{what}, under its own name")).await;
        }
        check_refused(&served, name, &lie.put(&served, name).await, &what).await;
    }
    assert_eq!(sound.put(&served, name).await.status, 201, "the sound one is taken after all this");
    let stored = served.get(&format!("/v1/projects/p/packs/{name}.0")).await;
    assert!(stored.body == [&sound.header[..], &sound.body].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_header_written_otherwise_is_refused() {
    let served = Served::new().await;
    let sound = Pack::sound();
    let text = sound.header[8..].to_vec();
    let with_prefix = |len: u64, text: &[u8]| [&len.to_le_bytes()[..], text].concat();
    let len = text.len() as u64;
    let spaced = String::from_utf8(text.clone()).unwrap().replacen(':', ": ", 1);
    let cases = [
        ("other spaces", with_prefix(spaced.len() as u64, spaced.as_bytes())),
        ("more spaces", with_prefix(len + 4096, &[&text[..], &[b' '; 4096]].concat())),
        ("a length of one less", with_prefix(len - 1, &text)),
        ("a length of one more", with_prefix(len + 1, &text)),
        ("no length", with_prefix(0, &text)),
        ("a length of all there is", with_prefix(u64::MAX, &text)),
        ("a length over the limit", with_prefix((8 << 20) + 1, &text)),
        ("a length at the limit", with_prefix((8 << 20) - 8, &text)),
        ("no JSON", with_prefix(len, &vec![b'x'; text.len()])),
        ("deep JSON", with_prefix(len, &[&vec![b'['; text.len() / 2][..], &vec![b']'; text.len() / 2]].concat())),
        ("no bytes", Vec::new()),
        ("half a prefix", vec![1, 0, 0]),
    ];
    for (what, header) in cases {
        let lie = Pack { header, body: sound.body.clone() };
        for name in [Digest::of(&lie.header), Digest::of(&sound.header)] {
            check_refused(&served, name, &lie.put(&served, name).await, what).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_those_of_the_header_are_refused() {
    let served = Served::new().await;
    let sound = Pack::sound();
    let (name, parsed) = (Digest::of(&sound.header), sound.parsed());
    let start = parsed.header_len();
    let mut cases = Vec::new();
    let mut flipped = |what: &str, at: u64| {
        let mut body = sound.body.clone();
        body[(at - start) as usize] ^= 1;
        cases.push((what.to_owned(), body));
    };
    for entry in parsed.entries() {
        let name = entry.slice.slice.name();
        flipped(&format!("first byte of {name}"), entry.stored.start());
        flipped(&format!("last byte of {name}"), entry.stored.end() - 1);
        for group in 1..entry.slice.tree.groups() {
            flipped(&format!("group {group} of {name}"), entry.stored_groups(group..group + 1).start());
        }
    }
    assert!(!parsed.pads().is_empty(), "a pack without pads proves nothing of them");
    for (i, pad) in parsed.pads().iter().enumerate() {
        flipped(&format!("pad {i}"), pad.start());
        flipped(&format!("end of pad {i}"), pad.end() - 1);
    }
    let whole = &sound.body;
    cases.push(("a byte less".to_owned(), whole[..whole.len() - 1].to_vec()));
    cases.push(("a byte more".to_owned(), [&whole[..], b"\0"].concat()));
    cases.push(("a MiB more".to_owned(), [&whole[..], &vec![0; 1 << 20]].concat()));
    cases.push(("nothing".to_owned(), Vec::new()));
    cases.push(("zeros".to_owned(), vec![0; whole.len()]));
    cases.push(("turned by one".to_owned(), [&whole[1..], &whole[..1]].concat()));
    assert!(cases.len() > 15);
    for (what, body) in cases {
        let lie = Pack { header: sound.header.clone(), body };
        check_refused(&served, name, &lie.put(&served, name).await, &what).await;
    }
    assert!(served.metric("gigastore_verification_failures_total").await > 15);
    assert_eq!(sound.put(&served, name).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coded_slice_that_decodes_to_something_else_is_refused() {
    let served = Served::new().await;
    let content = vec![7u8; 4096];
    let area = TensorBox::whole(&[4096]).unwrap();
    let slice = SliceId::tensor("w", Dtype::U8, &[4096], area).unwrap();
    // Frames that are sound by themselves: of other bytes, of more, of fewer, of none, and of fifty times as many.
    let bomb = vec![7u8; 200 << 10];
    let cases: [(&str, &[u8], bool); 6] = [
        ("the right bytes", &content, true),
        ("other bytes", &[8; 4096], false),
        ("more bytes", &[7; 4097], false),
        ("fewer bytes", &[7; 4095], false),
        ("one byte", &[7], false),
        ("a bomb", &bomb, false),
    ];
    for (what, inside, right) in cases {
        let (coding, body) = zstd(Dtype::U8, inside);
        let tree = GroupTree::of(&content);
        let (parsed, header) = PackHeader::build(vec![PackSlice { slice: slice.clone(), tree, coding }]).unwrap();
        let pack = Pack { header: header.to_vec(), body: body.to_vec() };
        if right {
            let (other, answer) = (served_once().await, parsed.name());
            assert_eq!(pack.put(&other, answer).await.status, 201, "{what}");
        } else {
            check_refused(&served, parsed.name(), &pack.put(&served, parsed.name()).await, what).await;
        }
    }
    let (parsed, header) = {
        let (_, frame) = zstd(Dtype::U8, &content);
        let noise: Vec<u8> = XorShift::new(5).bytes(frame.len()).to_vec();
        let coding =
            Coding::ZstdPlanes { stored: Digest::of(&noise), frames: [noise.len() as u64].into_iter().collect() };
        let tree = GroupTree::of(&content);
        let (parsed, header) = PackHeader::build(vec![PackSlice { slice, tree, coding }]).unwrap();
        (parsed, [&header[..], &noise].concat())
    };
    let pack = Pack { header, body: Vec::new() };
    check_refused(&served, parsed.name(), &pack.put(&served, parsed.name()).await, "noise").await;
}

async fn served_once() -> Served {
    Served::new().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_there_is_never_overwritten() {
    let served = Served::new().await;
    let content = XorShift::new(4).bytes(100_000).to_vec();
    let (pack, sound) = pack_of("w", &content);
    let name = Digest::of(&content);
    let cases =
        [(format!("/v1/projects/p/packs/{pack}"), sound), (format!("/v1/projects/p/blobs/{name}.0"), content.clone())];
    for (target, sound) in cases {
        assert_eq!(served.ask("PUT", &target, &[], &sound).await.status, 201);
        let files = served.files();
        let mut other = sound.clone();
        let last = other.len() - 1;
        other[last] ^= 1;
        // What is there already is not looked at again: the answer says that it is there, or what is wrong.
        for bytes in [&other[..], &sound[..last], &[&sound[..], b"x"].concat(), &[]] {
            let answer = served.ask("PUT", &target, &[], bytes).await;
            assert!(matches!(answer.status, 201 | 422 | 500), "{target}: {answer:?}");
            assert_eq!(served.files(), files, "{target}");
        }
        assert_eq!(served.ask("PUT", &target, &[], &sound).await.status, 201, "the same again");
        assert_eq!(served.files(), files, "{target}");
        assert!(served.get(&target).await.body == sound, "{target} was overwritten");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_a_write_lacks_can_not_be_read_by_knowing_it() {
    let served = Served::new().await;
    let (pack, bytes) = pack_of("w", b"of project p alone");
    assert_eq!(served.ask("PUT", &format!("/v1/projects/p/packs/{pack}"), &[], &bytes).await.status, 201);
    for kind in ["packs", "blobs", "manifests"] {
        assert_eq!(served.get(&format!("/v1/projects/q/{kind}/{pack}")).await.status, 404);
    }
    let asked = json!({ "kind": "pack", "objects": [pack.to_string()] }).to_string();
    let answer = served.ask("POST", "/v1/projects/q/exists", &[], asked.as_bytes()).await;
    assert_eq!(answer.json(), json!([null]));
}
