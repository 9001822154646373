//! The one way to put an object over another: true bytes over damaged ones, under the name that both have.
//!
//! Must never be called with bytes that are not checked against the object's name before all of them have passed.

use std::sync::Arc;

use futures::stream::{StreamExt, TryStreamExt};
use gigastore_formats::ambient::Ambient;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};

use super::{Body, Objects, folder_error};
use crate::store::StoreError;
use crate::store::folder::{self, Naming, Unwritten};
use crate::store::parts::{PART_BYTES, send_parts};

impl Objects {
    /// Puts an object over what lies there under its name, or where nothing does. Readers see the old bytes or the new
    /// ones, never some of both; where the bytes do not come as promised, what was there stays.
    pub(crate) async fn replace(&self, ambient: &Arc<dyn Ambient>, key: &str, body: Body) -> Result<(), StoreError> {
        if let Some(path) = self.path(key) {
            let written = folder::write(ambient, path, body, Naming::Over).await;
            return written.map_err(|unwritten| match unwritten {
                Unwritten::Folder(error) => StoreError::sort(key, folder_error(error)),
                Unwritten::Body(source) => StoreError::Body { key: key.to_owned(), source },
                Unwritten::Exists => {
                    let error = std::io::Error::other("there is something of that name, and no object");
                    StoreError::sort(key, folder_error(error))
                }
            });
        }
        let sort = |source| StoreError::sort(key, source);
        let (len, pieces) = match body {
            Body::Whole(pieces) => {
                let len = pieces.iter().map(|piece| piece.len() as u64).sum();
                (len, futures::stream::iter(pieces).map(Ok).boxed())
            }
            Body::Stream { len, pieces } => (len, pieces),
        };
        if len <= PART_BYTES {
            let gathered: Result<Vec<_>, _> = pieces.try_collect().await;
            let pieces = gathered.map_err(|source| StoreError::Body { key: key.to_owned(), source })?;
            return self.store.put(&Path::from(key), PutPayload::from_iter(pieces)).await.map(|_| ()).map_err(sort);
        }
        let mut upload = self.store.put_multipart(&Path::from(key)).await.map_err(sort)?;
        let sent = send_parts(&**ambient, &self.pace, key, upload.as_mut(), len, pieces).await;
        let done = match sent {
            Ok(()) => upload.complete().await.map(|_| ()).map_err(sort),
            Err(error) => Err(error),
        };
        if done.is_err() {
            // What ended the upload is the thing to report.
            let _ = upload.abort().await;
        }
        done
    }
}
