//! Small transformer-shaped tensors, the same for the same seed, and a plain safetensors file of them.
//!
//! Must never use the code under test to write the file: it is laid out by hand here, as the format's own description
//! says, so that two mistakes cannot agree.

use std::io::{self, Write as _};
use std::path::Path;

use bytes::Bytes;
use gigastore_formats::tensor::dtype::Dtype;
use serde_json::json;

/// One tensor, whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tensor {
    /// Its name, such as `model.layers.0.attn.q.weight`.
    pub name: String,
    /// The type of its elements.
    pub dtype: Dtype,
    /// Its shape; empty for a scalar.
    pub shape: Vec<u64>,
    /// Its bytes, row-major and little-endian.
    pub data: Bytes,
}

/// How large the generated model is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    /// Layers; each adds 10 tensors and about `12 x width x width` elements.
    pub layers: u64,
    /// Width of a layer; even.
    pub width: u64,
    /// Rows of the embedding.
    pub vocabulary: u64,
}

impl Size {
    /// About 48 KiB in 27 tensors: for tests that run many times.
    pub const TINY: Self = Self { layers: 2, width: 32, vocabulary: 96 };
    /// About 7 MiB in 47 tensors: the embedding (2 MiB) spans several hash groups.
    pub const SMALL: Self = Self { layers: 4, width: 256, vocabulary: 4096 };
}

/// Returns a model's tensors in order of name: mixed element types, scalars, and tensors without elements among them.
///
/// Floats look like trained weights (bell-shaped, small), so that codecs find what they would find in a real model.
pub fn transformer(seed: u64, size: Size) -> Vec<Tensor> {
    let Size { layers, width, vocabulary } = size;
    let mut shapes = vec![
        ("model.embed.weight".to_owned(), Dtype::BF16, vec![vocabulary, width]),
        ("model.norm.weight".to_owned(), Dtype::F32, vec![width]),
        ("model.rotary.positions".to_owned(), Dtype::I64, vec![width]),
        ("model.adapter.empty".to_owned(), Dtype::BF16, vec![0, width]),
        ("model.temperature".to_owned(), Dtype::F32, vec![]),
        ("optimizer.step".to_owned(), Dtype::I64, vec![]),
        ("optimizer.found_inf".to_owned(), Dtype::BOOL, vec![1]),
    ];
    for layer in 0..layers {
        let mut add = |name: &str, dtype, shape: &[u64]| {
            shapes.push((format!("model.layers.{layer}.{name}"), dtype, shape.to_vec()));
        };
        for name in ["attn.q.weight", "attn.k.weight", "attn.v.weight", "attn.o.weight"] {
            add(name, Dtype::BF16, &[width, width]);
        }
        add("attn.bias", Dtype::F16, &[3, width]);
        add("mlp.up.weight", Dtype::F8_E4M3, &[4 * width, width]);
        add("mlp.up.scale", Dtype::F32, &[4 * width, 1]);
        add("mlp.down.weight", Dtype::BF16, &[width, 4 * width]);
        add("norm.weight", Dtype::F32, &[width]);
        add("experts.used", Dtype::U8, &[width / 2, 3]);
    }
    shapes.sort();
    let mut random = XorShift::new(seed);
    let fill = |(name, dtype, shape): (String, Dtype, Vec<u64>)| {
        let elements = shape.iter().product();
        Tensor { name, dtype, data: elements_of(dtype, elements, &mut random), shape }
    };
    shapes.into_iter().map(fill).collect()
}

/// Returns the bytes of a safetensors file of these tensors, with string metadata.
///
/// Layout (description of the format at huggingface/safetensors): the header's length as u64 little-endian, the header
/// as JSON filled up with spaces to a multiple of 8, then the data without holes, wider elements first.
pub fn safetensors(tensors: &[Tensor], metadata: &[(&str, &str)]) -> Vec<u8> {
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| (std::cmp::Reverse(tensor.dtype.bits()), &tensor.name));
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        let strings = metadata.iter().map(|(key, value)| ((*key).to_owned(), json!(value)));
        header.insert("__metadata__".to_owned(), serde_json::Value::Object(strings.collect()));
    }
    let mut end = 0;
    for tensor in &order {
        let start = end;
        end += tensor.data.len();
        let entry = json!({"dtype": tensor.dtype.as_str(), "shape": tensor.shape, "data_offsets": [start, end]});
        header.insert(tensor.name.clone(), entry);
    }
    let mut text = serde_json::Value::Object(header).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(text.as_bytes());
    order.iter().for_each(|tensor| file.extend_from_slice(&tensor.data));
    file
}

/// Writes the tensors as a safetensors file without metadata.
pub fn write_safetensors(path: &Path, tensors: &[Tensor]) -> io::Result<()> {
    std::fs::File::create(path)?.write_all(&safetensors(tensors, &[]))
}

/// A deterministic stream of numbers: xorshift64* (Vigna, 2016), with its seed mixed by splitmix64.
#[derive(Clone, Debug)]
pub struct XorShift(u64);

impl XorShift {
    /// Returns the stream of a seed; any seed will do, 0 too.
    pub fn new(seed: u64) -> Self {
        let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self((z ^ (z >> 31)).max(1))
    }

    /// Returns the next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Returns a number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound
    }

    /// Returns `len` bytes without any pattern.
    pub fn bytes(&mut self, len: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next_u64().to_le_bytes());
        }
        bytes.truncate(len);
        bytes.into()
    }

    /// Returns a weight: bell-shaped around 0 with a deviation of about 0.02, as in trained models.
    fn weight(&mut self) -> f32 {
        let number = self.next_u64();
        // The sum of four uniform 16-bit numbers is close enough to a normal one.
        let sum: u64 = (0..4).map(|i| (number >> (16 * i)) & 0xFFFF).sum();
        (sum as f32 / 65_536.0 - 2.0) * 0.035
    }
}

fn elements_of(dtype: Dtype, elements: u64, random: &mut XorShift) -> Bytes {
    let mut data = Vec::new();
    for i in 0..elements {
        match dtype {
            Dtype::F32 => data.extend_from_slice(&random.weight().to_le_bytes()),
            // The upper half of an F32 is a BF16; as F16 the same bits are other, still small, weights.
            Dtype::BF16 | Dtype::F16 => data.extend_from_slice(&random.weight().to_le_bytes()[2..]),
            Dtype::I64 => data.extend_from_slice(&i.to_le_bytes()),
            Dtype::BOOL => data.push((random.next_u64() & 1) as u8),
            _ => data.extend_from_slice(&random.next_u64().to_le_bytes()[..(dtype.bits() / 8) as usize]),
        }
    }
    data.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_model_and_another_seed_another() {
        let model = transformer(7, Size::TINY);
        assert_eq!(model, transformer(7, Size::TINY));
        assert_ne!(model, transformer(8, Size::TINY));
        assert!(model.is_sorted_by(|a, b| a.name < b.name));
        for tensor in &model {
            let elements = tensor.shape.iter().product();
            assert_eq!(tensor.dtype.bytes_of(elements), Some(tensor.data.len() as u64), "{}", tensor.name);
        }
        assert!(model.iter().any(|tensor| tensor.shape.is_empty()), "a scalar is among them");
        assert!(model.iter().any(|tensor| tensor.data.is_empty()), "an empty tensor is among them");
        assert_eq!((model.len(), transformer(7, Size::SMALL).len()), (27, 47));
    }

    #[test]
    fn the_file_has_every_tensor_where_its_header_says() {
        let model = transformer(1, Size::TINY);
        let file = safetensors(&model, &[("format", "pt")]);
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        assert!(length.is_multiple_of(8));
        let header: serde_json::Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
        assert_eq!(header["__metadata__"]["format"], "pt");
        for tensor in &model {
            let entry = &header[&tensor.name];
            let offset = |i: usize| 8 + length + entry["data_offsets"][i].as_u64().unwrap() as usize;
            assert_eq!(file[offset(0)..offset(1)], tensor.data, "{}", tensor.name);
        }
    }
}
