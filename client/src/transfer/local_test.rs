//! Tests of files of this machine.

use super::*;

#[test]
fn every_piece_of_a_file_is_read_wherever_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    let bytes: Vec<u8> = (0..3 * SECTORS_BYTES + 1000).map(|i| (i * 7 + i / 255) as u8).collect();
    std::fs::write(&path, &bytes).unwrap();
    let file = File::open(&path).unwrap();
    let mut memory = vec![0; bytes.len() + 2 * SECTOR_BYTES];
    let border = memory.as_ptr().align_offset(SECTOR_BYTES);
    for (at, len, off) in [
        (0, bytes.len(), 0),
        (0, bytes.len(), 16),
        (SECTOR_BYTES, 2 * SECTORS_BYTES, 0),
        (4097, 2 * SECTORS_BYTES + 5, 0),
        (bytes.len() - 1, 1, 0),
        (3 * SECTORS_BYTES, 1000, 3),
        (77, 0, 0),
    ] {
        for direct in [false, true] {
            let mut on_disk = OnDisk::new(&file, &path, direct);
            let into = &mut memory[border + off..][..len];
            into.fill(0);
            on_disk.fill_at(at as u64, into).unwrap();
            assert!(into == &bytes[at..at + len], "{len} bytes at {at} to {off}, direct {direct}");
            let range = ByteRange::with_len(at as u64, len as u64).unwrap();
            let fits = at % SECTOR_BYTES + len <= SECTORS_BYTES;
            let expected = (fits && on_disk.direct.is_some()).then_some(&*into);
            assert!(on_disk.lend(range) == expected, "{len} bytes at {at} are lent, direct {direct}");
        }
    }
    let mut on_disk = OnDisk::new(&file, &path, true);
    let past = on_disk.fill_at(bytes.len() as u64 - 10, &mut [0; 20]);
    assert!(past.unwrap_err().message.contains("fill"), "a file that ends early is no file of zeros");
}

#[cfg(target_os = "linux")]
#[test]
fn what_was_just_written_is_kept_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    std::fs::write(&path, [7; 10_000]).unwrap();
    let file = File::open(&path).unwrap();
    let mut into = [0; 5000];
    let kept = Kept(&file);
    match kept.read(5000, &mut into) {
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
        Ok(()) => assert_eq!(into, [7; 5000]),
    }
    assert!(kept.read(5001, &mut into).is_err(), "past the end");
    assert!(open(folder.path().to_owned()).is_err(), "a folder");
}

/// Wants a part of a file, and keeps what it is given.
#[derive(Debug)]
struct Wanting {
    shared: Arc<Shared>,
    range: ByteRange,
    got: Mutex<Option<Vec<u8>>>,
}

impl Taker for Wanting {
    fn rest(&self) -> ByteRange {
        let done = self.got.lock().unwrap().is_some();
        ByteRange::new(if done { self.range.end() } else { self.range.start() }, self.range.end()).unwrap()
    }

    fn take(&self, source: &mut dyn Source) -> Result<(), Fault> {
        let mut bytes = vec![0; self.range.len() as usize];
        source.fill_at(self.range.start(), &mut bytes)?;
        *self.got.lock().unwrap() = Some(bytes);
        Ok(())
    }

    fn file(&self) -> Option<&Shared> {
        Some(&self.shared)
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn reads_share_an_open_file_until_it_is_read_afresh_or_somebody_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x");
    std::fs::write(&path, vec![7; 3 << 20]).unwrap();
    let (ambient, shared) = (crate::ambient::SystemAmbient::shared(), Arc::new(Shared::default()));
    let read = async |start, end, afresh| {
        let range = ByteRange::new(start, end).unwrap();
        let wanting = Arc::new(Wanting { shared: Arc::clone(&shared), range, got: Mutex::default() });
        let taker: Arc<dyn Taker> = Arc::<Wanting>::clone(&wanting);
        pass_file(&*ambient, path.clone(), &taker, afresh).await;
        wanting.got.lock().unwrap().take()
    };
    std::fs::rename(&path, folder.path().join("y")).unwrap();
    assert_eq!(read(0, 10, false).await, None, "it is not there yet");
    std::fs::rename(folder.path().join("y"), &path).unwrap();
    assert!(read(0, 2 << 20, false).await.unwrap() == vec![7; 2 << 20]);
    let Some(opened) = shared.0.get().map(Arc::clone) else { return };
    // Another takes its name: who reads on reads the old one, who reads afresh the new one.
    std::fs::write(folder.path().join("new"), vec![8; 3 << 20]).unwrap();
    std::fs::rename(&path, folder.path().join("y")).unwrap();
    std::fs::rename(folder.path().join("new"), &path).unwrap();
    assert!(read(1 << 20, 3 << 20, false).await.unwrap() == vec![7; 2 << 20]);
    assert!(read(1 << 20, 3 << 20, true).await.unwrap() == vec![8; 2 << 20]);
    assert!(Arc::ptr_eq(&opened, shared.0.get().unwrap()));
    if opened.leased().is_none() {
        return;
    }
    // Somebody waits to write: the next read gives the lease back, and goes without.
    let write =
        || OpenOptions::new().write(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(folder.path().join("y"));
    assert_eq!(write().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert!(read(5, 1 << 20, false).await.unwrap() == vec![7; (1 << 20) - 5]);
    write().unwrap();
    assert!(opened.leased().is_none());
}
