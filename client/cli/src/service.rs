//! A service in this process: over a store, at an address.
//!
//! Must never choose who may reach it: `gigastore-server` refuses what would be unsafe.

use std::net::SocketAddr;
use std::sync::Arc;

use gigastore_client::ambient::SystemAmbient;
use gigastore_engine::Engine;
use gigastore_engine::store::{OpenMode, StoreUrl};
use gigastore_formats::wire::{Fault, FaultCode};
use gigastore_server::{Config, Limits, Server, StartError};

use crate::failure::Failure;

/// Bytes of objects that a service keeps in memory where the store is on another machine.
const REMOTE_CACHE_BYTES: u64 = 512 << 20;

/// Opens the store at `url`, which is made where it is not there, for a service at `listen` with default limits.
pub(crate) async fn config(url: &str, listen: SocketAddr) -> Result<Config, Failure> {
    let url: StoreUrl = url.parse().map_err(|error| Fault::from(&error))?;
    let ambient = SystemAmbient::shared();
    let variables =
        std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    let engine = Engine::open(&url, OpenMode::Create, variables, Arc::clone(&ambient)).await;
    let engine = engine.map_err(|error| Fault::from(&error))?;
    let disk = url.folder();
    let cache = if disk.is_some() { 0 } else { REMOTE_CACHE_BYTES };
    let limits = Limits { cache, ..Limits::default() };
    Ok(Config { engine, ambient, listen, tokens: None, tls: None, behind_proxy: false, disk, limits })
}

/// Starts to listen.
pub(crate) async fn bind(config: Config) -> Result<Server, Failure> {
    Server::bind(config).await.map_err(|error| match error {
        StartError::Open { .. } | StartError::Clear { .. } => Failure::usage(error.to_string()),
        StartError::Tokens(_) | StartError::Tls { .. } | StartError::Listen { .. } => {
            Failure::from(Fault::new(FaultCode::Invalid, &error))
        }
    })
}
