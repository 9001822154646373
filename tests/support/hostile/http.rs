//! Any bytes as what a client sends to a service in this process.
//!
//! Must never wait for a service that says nothing: what was sent may be the beginning of a request.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Once, OnceLock};
use std::time::Duration;

use gigastore_client::checkpoint::SaveSpec;
use gigastore_engine::store::OpenMode;
use gigastore_server::Limits;
use object_store::memory::InMemory;

use crate::model::{Size, transformer};
use crate::opened::{engine, open, save, serve};

/// How long an answer is waited for: some hundred times what one takes.
const PATIENCE: Duration = Duration::from_millis(60);

/// Panics of this process that nobody is ready for.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Sends bytes on a connection of their own; tells whether they were a request that was granted.
///
/// # Panics
/// Where anything in this process panicked meanwhile, or an answer is none of HTTP, or one of an error of the service.
pub fn answers(data: &[u8]) -> bool {
    let address = service();
    let before = PANICS.load(Ordering::SeqCst);
    let said = say(address, data).expect("the service is there");
    assert_eq!(PANICS.load(Ordering::SeqCst), before, "the service panicked");
    // A client of version 1.0 is answered in that.
    if let Some(rest) = said.strip_prefix(b"HTTP/1.1 ").or_else(|| said.strip_prefix(b"HTTP/1.0 ")) {
        assert!(!rest.starts_with(b"500"), "{}", String::from_utf8_lossy(&said));
        return rest.starts_with(b"20");
    }
    assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
    false
}

fn say(address: SocketAddr, data: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // It may be closed while this is sent.
    let _ = stream.write_all(data);
    let (mut said, mut piece) = (Vec::new(), [0; 16 << 10]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Ok(said),
            Ok(more) => said.extend_from_slice(&piece[..more]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Ok(said),
        }
    }
}

/// Returns the address of the service of this process, with a project in it.
fn service() -> SocketAddr {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    static COUNTED: Once = Once::new();
    COUNTED.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // That library panics at damaged files, which its callers make errors of.
            if panic.location().is_none_or(|place| !place.file().contains("/parquet-")) {
                PANICS.fetch_add(1, Ordering::SeqCst);
                print(panic);
            }
        }));
    });
    *ADDRESS.get_or_init(|| {
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("threads can be had").block_on(async {
                let below = Arc::new(InMemory::new());
                let store = open(Arc::<InMemory>::clone(&below), OpenMode::Create).await.expect("memory takes all");
                let project = "p".parse().expect("a name");
                let spec = SaveSpec::new(project, "run".parse().expect("a name"), 1, 1);
                save(&store, spec, &transformer(1, Size::TINY)).await.expect("memory takes all");
                let engine = engine(below, OpenMode::Existing).await.expect("it was just made");
                let limits = Limits { head: Duration::from_millis(200), ..Limits::default() };
                let url = serve(engine, None, limits).await.expect("a port can be had");
                let address = url.trim_start_matches("http://").parse().expect("an address");
                tell.send(address).expect("somebody waits");
                std::future::pending::<()>().await;
            });
        });
        told.recv().expect("the service starts")
    })
}
