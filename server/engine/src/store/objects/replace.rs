//! The one way to put an object over another: true bytes over damaged ones, under the name that both have.
//!
//! Must never be called with bytes that are not checked against the object's name before all of them have passed.

use super::{Body, Objects};
use crate::store::StoreError;
use crate::store::folder::Naming;

impl Objects {
    /// Puts an object over what lies there under its name, or where nothing does. Readers see the old bytes or the new
    /// ones, never some of both; where the bytes do not come as promised, what was there stays.
    pub(crate) async fn replace(&self, key: &str, body: Body) -> Result<(), StoreError> {
        let stored = match &self.folder {
            Some(folder) => self.write_file(folder, key, body, Naming::Over).await,
            None => self.upload(key, body, Naming::Over).await,
        };
        stored.map(drop)
    }
}
