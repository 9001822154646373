//! Byte planes: all first bytes of a group's elements, then all second bytes, and so on.
//!
//! Must never touch a byte more than once a plane: the loops are those that compilers turn into shuffles of vectors.

/// Appends bytes `plane` of the elements of `group`, `width` bytes each.
pub(super) fn append_plane(planes: &mut Vec<u8>, group: &[u8], width: usize, plane: usize) {
    match width {
        // Compilers narrow an integer with one shuffle, but pick every second byte one by one.
        2 => planes.extend(group.as_chunks::<2>().0.iter().map(|e| (u16::from_le_bytes(*e) >> (8 * plane)) as u8)),
        4 => planes.extend(group.as_chunks::<4>().0.iter().map(|e| (u32::from_le_bytes(*e) >> (8 * plane)) as u8)),
        8 => planes.extend(group.as_chunks::<8>().0.iter().map(|e| (u64::from_le_bytes(*e) >> (8 * plane)) as u8)),
        _ => planes.extend_from_slice(group),
    }
}

/// Returns the elements of `width` bytes whose planes are given, and after them the bytes that make no whole element.
pub(super) fn join_planes(width: usize, planes: &[u8]) -> Vec<u8> {
    match width {
        2 => join(planes, |[a, b]| zip2(a, b).collect()),
        4 => join(planes, |[a, b, c, d]| zip2(a, b).zip(zip2(c, d)).map(|([a, b], [c, d])| [a, b, c, d]).collect()),
        8 => join(planes, |[a, b, c, d, e, f, g, h]| {
            let (low, high) = (zip2(a, b).zip(zip2(c, d)), zip2(e, f).zip(zip2(g, h)));
            let all = low.zip(high);
            all.map(|(([a, b], [c, d]), ([e, f], [g, h]))| [a, b, c, d, e, f, g, h]).collect()
        }),
        _ => planes.to_vec(),
    }
}

fn zip2<'p>(a: &'p [u8], b: &'p [u8]) -> impl Iterator<Item = [u8; 2]> + 'p {
    a.iter().zip(b).map(|(a, b)| [*a, *b])
}

fn join<const W: usize>(planes: &[u8], elements: impl FnOnce([&[u8]; W]) -> Vec<[u8; W]>) -> Vec<u8> {
    let count = planes.len() / W;
    let mut group = elements(std::array::from_fn(|plane| &planes[plane * count..(plane + 1) * count])).into_flattened();
    group.extend_from_slice(&planes[count * W..]);
    group
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_are_the_bytes_of_equal_place() {
        let planes = |width, group: &[u8]| {
            let mut planes = Vec::new();
            (0..width).for_each(|plane| append_plane(&mut planes, group, width, plane));
            planes
        };
        assert_eq!(planes(1, &[1, 2, 3]), [1, 2, 3]);
        assert_eq!(planes(2, &[1, 2, 3, 4, 5]), [1, 3, 2, 4]);
        assert_eq!(planes(4, &[1, 2, 3, 4, 5, 6, 7, 8, 9]), [1, 5, 2, 6, 3, 7, 4, 8]);
        assert!(planes(8, &[1, 2, 3]).is_empty());
        let group: Vec<u8> = (0..1003).map(|i| (i * 7 % 251) as u8).collect();
        for width in [1, 2, 4, 8] {
            let whole = group.len() / width * width;
            let mut split = planes(width, &group);
            split.extend_from_slice(&group[if width == 1 { group.len() } else { whole }..]);
            assert_eq!(join_planes(width, &split), group, "width {width}");
        }
    }
}
