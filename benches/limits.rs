//! What this machine can do: the least work that moves the same bytes, as the measure of what Gigastore makes of it.
//!
//! A bench runs a limit and the product in turn and reports their ratio; absolute figures of shared machines are noise.
//! Must never be tuned to the product: a limit does only what its first line says, and stays as it is.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::fs::{Advice, OFlags, fadvise};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Bytes of one system call: 8 MiB, above which neither reads nor writes get faster on common disks.
pub const PIECE_BYTES: usize = 8 << 20;

/// Connections of the network limits: four keep two cores busy on both sides.
pub const CONNECTIONS: usize = 4;

/// Threads of [`direct_reads`]: which number is best depends on the disk, so each is tried and the best one counts.
pub const DIRECT_THREADS: [usize; 3] = [2, 4, 8];

/// Alignment of direct reads: the largest sector of common disks.
const SECTOR_BYTES: usize = 4096;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Writes each part to a file of its own in pieces of 8 MiB and makes it durable (fsync), two files at a time.
pub fn durable_writes(folder: &Path, parts: &[&[u8]]) -> io::Result<Vec<PathBuf>> {
    let paths: Vec<PathBuf> = (0..parts.len()).map(|i| folder.join(format!("limit-{i}"))).collect();
    let work: Vec<(&PathBuf, &[u8])> = paths.iter().zip(parts.iter().copied()).collect();
    on_threads(2, &work, |_, (path, part)| {
        let file = File::create(path)?;
        for (i, piece) in part.chunks(PIECE_BYTES).enumerate() {
            file.write_all_at(piece, (i * PIECE_BYTES) as u64)?;
        }
        file.sync_all()
    })?;
    Ok(paths)
}

/// Lets each thread write so many files of 4 KiB one after another, each made durable (fdatasync) before it is linked
/// to its name, the name durable after that (fsync of the folder, one of 256). Returns how long each file took.
pub fn durable_files(folder: &Path, threads: usize, files: usize) -> io::Result<Vec<Duration>> {
    for bucket in 0..256 {
        std::fs::create_dir_all(folder.join(bucket.to_string()))?;
    }
    thread::scope(|scope| {
        let one = |thread: usize| {
            let file = move |n: usize| {
                let inner = folder.join(((thread * 37 + n * 11) % 256).to_string());
                let staged = inner.join(format!("{thread}-{n}#"));
                let started = Instant::now();
                let file = File::create_new(&staged)?;
                file.write_all_at(&[7; 4096], 0)?;
                file.sync_data()?;
                std::fs::hard_link(&staged, inner.join(format!("{thread}-{n}")))?;
                std::fs::remove_file(&staged)?;
                File::open(&inner)?.sync_all()?;
                Ok(started.elapsed())
            };
            scope.spawn(move || (0..files).map(file).collect::<io::Result<Vec<_>>>())
        };
        let running: Vec<_> = (0..threads).map(one).collect();
        let times = running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the limit panicked"))));
        Ok(times.collect::<io::Result<Vec<_>>>()?.concat())
    })
}

/// Reads files in pieces of 8 MiB into one buffer a thread, and hashes each piece with BLAKE3, on two threads.
pub fn hashed_reads(paths: &[PathBuf]) -> io::Result<()> {
    on_threads(2, &pieces(paths, OFlags::empty())?, |buffer, (file, at, len)| {
        let piece = &mut buffer[..*len];
        file.read_exact_at(piece, *at)?;
        std::hint::black_box(blake3::hash(piece));
        Ok(())
    })
}

/// Reads files past the page cache (O_DIRECT) in pieces of 8 MiB into one buffer a thread.
pub fn direct_reads(paths: &[PathBuf], threads: usize) -> io::Result<()> {
    on_threads(threads, &pieces(paths, OFlags::DIRECT)?, |buffer, (file, at, len)| {
        // Whole sectors are asked for; the last piece of a file ends where the file does.
        match file.read_at(buffer, *at)? {
            read if read < *len => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    })
}

/// A piece of a file: where it begins, and its bytes.
type Piece = (Arc<File>, u64, usize);

fn pieces(paths: &[PathBuf], flags: OFlags) -> io::Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    for path in paths {
        let file = Arc::new(OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)?);
        let len = file.metadata()?.len();
        let starts = (0..len).step_by(PIECE_BYTES);
        pieces.extend(starts.map(|at| (Arc::clone(&file), at, PIECE_BYTES.min((len - at) as usize))));
    }
    Ok(pieces)
}

/// Makes the page cache forget files, so that the next read of them is cold. They must be durable: dirty pages stay.
pub fn forget(paths: &[PathBuf]) -> io::Result<()> {
    paths.iter().try_for_each(|path| Ok(fadvise(&File::open(path)?, 0, None, Advice::DontNeed)?))
}

/// Copies the parts into one buffer that is used again, on one thread.
pub fn copies(parts: &[&[u8]], staging: &mut [u8]) {
    let mut rest = staging;
    for part in parts {
        let (place, after) = rest.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = after;
    }
    std::hint::black_box(rest);
}

/// Serves each body at `/0`, `/1`, … with axum, from memory, on a free port of this machine, until the process ends.
pub async fn serve_bodies(bodies: Vec<Bytes>) -> io::Result<(SocketAddr, impl Future<Output = io::Result<()>>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let routes = bodies.into_iter().enumerate().fold(Router::new(), |routes, (i, body)| {
        routes.route(&format!("/{i}"), get(move || std::future::ready(body.clone())))
    });
    Ok((address, async move { axum::serve(listener, routes).await }))
}

/// Fills each buffer, over a connection of its own, with answers to GETs of `paths` in turn: hyper, nothing verified.
/// Connection `i` of `n` asks for paths `i`, `i + n`, … until its buffer is full, then starts anew with the first.
pub async fn gets(address: SocketAddr, paths: &[String], buffers: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>, Failed> {
    let (count, mut tasks) = (buffers.len(), JoinSet::new());
    for (i, mut buffer) in buffers.into_iter().enumerate() {
        let paths: Vec<String> = paths.iter().skip(i).step_by(count).cloned().collect();
        tasks.spawn(async move {
            let mut connection = connect(address).await?;
            let mut at = 0;
            for path in paths.iter().cycle() {
                let request = Request::get(path).header("host", address.to_string());
                let mut body = sent(&mut connection, request.body(Full::default())?).await?.into_body();
                while let Some(frame) = body.frame().await {
                    let Ok(data) = frame?.into_data() else { continue };
                    let fits = data.len().min(buffer.len() - at);
                    buffer[at..at + fits].copy_from_slice(&data[..fits]);
                    at += fits;
                }
                if at == buffer.len() {
                    break;
                }
            }
            Ok::<_, Failed>((i, buffer))
        });
    }
    let mut filled = Vec::with_capacity(count);
    while let Some(done) = tasks.join_next().await {
        filled.push(done??);
    }
    filled.sort_by_key(|(i, _)| *i);
    Ok(filled.into_iter().map(|(_, buffer)| buffer).collect())
}

/// Puts each body at its path with plain unsigned PUTs, on four connections.
pub async fn puts(address: SocketAddr, bodies: &[(String, Bytes)]) -> Result<(), Failed> {
    let mut tasks = JoinSet::new();
    for i in 0..CONNECTIONS {
        let mine: Vec<(String, Bytes)> = bodies.iter().skip(i).step_by(CONNECTIONS).cloned().collect();
        tasks.spawn(async move {
            let mut connection = connect(address).await?;
            for (path, body) in mine {
                let request = Request::put(path).header("host", address.to_string()).body(Full::new(body))?;
                // The answer is read to its end, so that the connection can be used again.
                sent(&mut connection, request).await?.into_body().collect().await?;
            }
            Ok::<_, Failed>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, Failed> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Its failure is the request's too.
    tokio::spawn(connection);
    Ok(sender)
}

async fn sent(
    connection: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Failed> {
    connection.ready().await?;
    let what = format!("{} {}", request.method(), request.uri());
    let answer = connection.send_request(request).await?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    Err(format!("{what}: {status}: {}", String::from_utf8_lossy(&body)).into())
}

/// Lets threads take one piece of work after another, each with a buffer of [`PIECE_BYTES`] on a border of sectors.
fn on_threads<T: Sync>(
    threads: usize,
    work: &[T],
    each: impl Fn(&mut [u8], &T) -> io::Result<()> + Sync,
) -> io::Result<()> {
    let (each, next) = (&each, &AtomicUsize::new(0));
    thread::scope(|scope| {
        let one = || {
            let mut buffer = vec![0; PIECE_BYTES + SECTOR_BYTES];
            let start = buffer.as_ptr().align_offset(SECTOR_BYTES);
            let buffer = &mut buffer[start..start + PIECE_BYTES];
            while let Some(item) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                each(buffer, item)?;
            }
            Ok(())
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        running.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread of the limit panicked")))
        })
    })
}
