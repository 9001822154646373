//! Which box of a tensor a rank takes, where nobody says otherwise: rows of dimension 0 in nearly equal parts, as FSDP
//! does; a tensor with fewer rows than ranks goes whole to one rank.
//!
//! Must never give an element to two ranks or to none.

use gigastore_formats::digest::Digest;
use gigastore_formats::tensor::boxes::{BoxError, TensorBox};
use gigastore_formats::tensor::dtype::Dtype;

/// Tensors below 64 KiB are not cut: a slice of a few rows costs more in rows of manifests than it brings.
const SMALL_BYTES: u64 = 64 << 10;

/// Returns the box that `rank` of `world_size` takes of a tensor; `None` where it takes nothing.
pub fn shard(
    name: &str,
    dtype: Dtype,
    shape: &[u64],
    rank: u32,
    world_size: u32,
) -> Result<Option<TensorBox>, BoxError> {
    let whole = TensorBox::whole(shape)?;
    let (rows, ranks) = (shape.first().copied().unwrap_or(1), u64::from(world_size));
    let bytes = whole.bytes(dtype)?;
    if rows < ranks || bytes < SMALL_BYTES {
        let drawn = u32::from_le_bytes(*Digest::of(name.as_bytes()).as_bytes().first_chunk().expect("32 bytes have 4"));
        return Ok((drawn % world_size.max(1) == rank).then_some(whole));
    }
    // Borders fall on multiples of 4 rows where there are enough, so that sub-byte elements are never cut.
    let multiple = if dtype.bits() < 8 { 4 } else { 1 };
    let border = |rank: u64| if rank == ranks { rows } else { rows * rank / ranks / multiple * multiple };
    let (start, end) = (border(u64::from(rank)), border(u64::from(rank) + 1));
    if start == end {
        return Ok(None);
    }
    let (mut offsets, mut sizes) = (vec![0; shape.len()], shape.to_vec());
    offsets[0] = start;
    sizes[0] = end - start;
    TensorBox::new(offsets, sizes).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gigastore_formats::tensor::cover::check_cover;

    #[test]
    fn every_element_has_one_rank() {
        for shape in [vec![], vec![1], vec![1000, 33], vec![7, 100_000], vec![0, 5], vec![65_536], vec![101, 3, 4096]] {
            for dtype in [Dtype::F32, Dtype::BF16, Dtype::U8] {
                for ranks in [1, 2, 3, 4, 7, 64] {
                    let boxes: Vec<TensorBox> =
                        (0..ranks).filter_map(|rank| shard("w", dtype, &shape, rank, ranks).unwrap()).collect();
                    check_cover(&shape, &boxes.iter().collect::<Vec<_>>()).unwrap();
                }
            }
        }
    }

    #[test]
    fn sub_byte_elements_are_not_cut() {
        for rank in 0..3 {
            let area = shard("w", Dtype::F4, &[1001 * 4, 333], rank, 3).unwrap().unwrap();
            assert!(area.bytes(Dtype::F4).is_ok(), "{area}");
        }
    }
}
