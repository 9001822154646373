//! A service in this process over a folder of its own, and the content that the tests ask it for.
//!
//! Must never be reached but through a socket.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gigastore_client::ambient::SystemAmbient;
use gigastore_client::checkpoint::{SaveSpec, Slice};
use gigastore_client::dataset::PushSpec;
use gigastore_client::store::{DEFAULT_BUDGET_BYTES, Store};
use gigastore_client::transfer::progress::Progress;
use gigastore_client::transfer::source::SliceData;
use gigastore_client::transport::http::Http;
use gigastore_engine::Engine;
use gigastore_engine::store::{OpenMode, StoreUrl};
use gigastore_formats::object::Stored;
use gigastore_formats::pack::{Coding, PackHeader, PackSlice};
use gigastore_formats::tensor::boxes::TensorBox;
use gigastore_formats::tensor::dtype::Dtype;
use gigastore_formats::tensor::slice::SliceId;
use gigastore_formats::verified::GroupTree;
use gigastore_server::tokens::{Scope, Token, TokenFile};
use gigastore_server::{Access, Config, Limits, Server};
use gigastore_tests::model::{Size, Tensor, XorShift, transformer};
use gigastore_tests::opened::slices;
use gigastore_tests::raw::{Answer, ask};

/// A dataset file: three groups and a bit.
pub(crate) const TABLE: &[u8] = include_bytes!("../../formats/fixtures/packs-1.parquet");

/// A service and the folder around its store.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) engine: Engine,
    pub(crate) folder: tempfile::TempDir,
}

/// How a service is started.
#[derive(Default)]
pub(crate) struct Setup {
    pub(crate) limits: Limits,
    pub(crate) tokens: Vec<Token>,
    /// Whether the disk is looked at.
    pub(crate) disk: bool,
}

impl Served {
    pub(crate) async fn new() -> Self {
        Self::with(Setup::default()).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        std::fs::create_dir(&store).unwrap();
        std::fs::write(folder.path().join("secret"), "nobody's business").unwrap();
        let tokens = (!setup.tokens.is_empty()).then(|| folder.path().join("tokens.json"));
        if let Some(path) = &tokens {
            TokenFile { tokens: setup.tokens }.write(path).unwrap();
        }
        let (address, engine) = Self::another(&store, tokens, setup.limits, setup.disk).await;
        Self { address, engine, folder }
    }

    /// Starts another service on a store.
    pub(crate) async fn another(
        store: &Path,
        tokens: Option<PathBuf>,
        limits: Limits,
        disk: bool,
    ) -> (SocketAddr, Engine) {
        let url = StoreUrl::of_folder(store).unwrap();
        let engine = Engine::open(&url, OpenMode::Create, [], SystemAmbient::shared()).await.unwrap();
        let config = Config {
            engine: engine.clone(),
            ambient: SystemAmbient::shared(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tokens,
            tls: None,
            behind_proxy: false,
            disk: disk.then(|| store.to_owned()),
            limits,
        };
        let server = Server::bind(config).await.unwrap();
        let address = server.address();
        tokio::spawn(server.run(std::future::pending()));
        (address, engine)
    }

    pub(crate) fn store_folder(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub(crate) async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        ask(self.address, method, target, headers, body).await.unwrap()
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[], b"").await
    }

    pub(crate) fn http(&self, token: Option<&str>) -> Http {
        let url = format!("http://{}", self.address);
        Http::new(&url, token.map(str::to_owned), SystemAmbient::shared()).unwrap()
    }

    pub(crate) fn store(&self, token: Option<&str>) -> Store {
        Store::over(Arc::new(self.http(token)), SystemAmbient::shared(), DEFAULT_BUDGET_BYTES)
    }

    /// Checks that the service is still there, and quick.
    pub(crate) async fn check_alive(&self) {
        let asked = tokio::time::timeout(Duration::from_secs(5), self.get("/healthz"));
        let answer = asked.await.expect("the service hangs");
        assert_eq!((answer.status, &answer.body[..]), (200, &b"ok\n"[..]));
    }

    /// Returns a number of `/metrics`.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Every file around the store, and in it, with its length.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, u64> {
        let (mut folders, mut found) = (vec![self.folder.path().to_owned()], BTreeMap::new());
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false => drop(found.insert(entry.path(), entry.metadata().unwrap().len())),
                }
            }
        }
        found
    }

    /// Saves step 1 of p/run with a file, and pushes version 1 of p/data; returns the tensors.
    pub(crate) async fn fill(&self, token: Option<&str>) -> Vec<Tensor> {
        let store = self.store(token);
        let tensors = transformer(1, Size::TINY);
        let spec = SaveSpec { tag: Some("best".parse().unwrap()), ..spec("p", "run", 1, 2) };
        let save = store.begin_save(spec, Progress::default()).await.unwrap();
        for rank in 0..2 {
            let mut all = slices(&tensors, rank, 2);
            if rank == 0 {
                all.push(file("sub/config.json", config_file()));
            }
            save.rank(rank, all).await.unwrap();
        }
        save.finish().await.unwrap();
        let path = self.folder.path().join("table.parquet");
        std::fs::write(&path, TABLE).unwrap();
        let (project, name) = ("p".parse().unwrap(), "data".parse().unwrap());
        let push = PushSpec::new(project, name);
        store.push(&push, &[path], &Progress::default()).await.unwrap();
        tensors
    }
}

/// A file of the checkpoint: more than two groups, the last one short.
pub(crate) fn config_file() -> Bytes {
    XorShift::new(9).bytes((2 << 20) + 12_345)
}

pub(crate) fn file(path: &str, content: Bytes) -> Slice {
    let id = SliceId::file(path, content.len() as u64).unwrap();
    Slice { id, data: SliceData::Memory(content), replicas: Vec::new() }
}

pub(crate) fn spec(project: &str, run: &str, step: u64, ranks: u32) -> SaveSpec {
    let spec = SaveSpec::new(project.parse().unwrap(), run.parse().unwrap(), step, ranks);
    SaveSpec { attempt: Some("job".to_owned()), ..spec }
}

/// Makes a token; `project` is one, or `*`.
pub(crate) fn token(id: u32, project: &str, access: Access, expires_ms: Option<u64>) -> (Token, String) {
    let project = (project != "*").then(|| project.parse().unwrap());
    let mut secret = [0x5a; 32];
    secret[..4].copy_from_slice(&id.to_le_bytes());
    Token::new(format!("token {id}"), vec![Scope { project, access }], expires_ms, secret, id)
}

pub(crate) fn bearer(text: &str) -> String {
    format!("Bearer {text}")
}

/// A pack of one raw tensor of these bytes, and its name.
pub(crate) fn pack_of(name: &str, data: &[u8]) -> (Stored, Vec<u8>) {
    let area = TensorBox::whole(&[data.len() as u64]).unwrap();
    let slice = SliceId::tensor(name, Dtype::U8, &[data.len() as u64], area).unwrap();
    let tree = GroupTree::of(data);
    let (header, bytes) = PackHeader::build(vec![PackSlice { slice, tree, coding: Coding::Raw }]).unwrap();
    (Stored { digest: header.name(), epoch: 0 }, [&bytes[..], data].concat())
}
