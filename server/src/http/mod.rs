//! Routes over the engine: each handler parses, calls one function, converts.
//!
//! | file | routes below `/v1/projects/{project}` |
//! |---|---|
//! | `router.rs` | all of them, in one table with the access each needs; who may pass |
//! | `objects.rs` | `packs`, `blobs`, `manifests`, `exists` |
//! | `saves.rs` | `saves` |
//! | `checkpoints.rs` | `checkpoints`, `plan`, files of checkpoints |
//! | `datasets.rs` | `datasets` and their files |
//! | `projects.rs` | the project itself, `names`, `tags`, `log`, `verify`, `scrub`, `damaged` |
//! | `lines.rs` | answers that come line by line while work goes on |
//! | `upkeep.rs` | `pins`, `policies`, `retain`, `usage`, `collect`, `DELETE names` |
//! | `hub.rs` | beside them: `/api/models`, `/api/datasets`, `/{project}/{name}/resolve`: a Hugging Face Hub |
//! | `meta.rs` | `/healthz`, `/readyz`, `/metrics`, `/v1/probe` |
//! | `body.rs` | bodies in and out, at a pace and within memory |
//! | `range.rs` | `Range`, `Content-Range`, `ETag` |
//! | `error.rs` | what a refusal looks like |

mod body;
mod checkpoints;
mod datasets;
mod error;
mod hub;
mod lines;
mod meta;
mod objects;
mod projects;
mod range;
mod router;
mod saves;
mod upkeep;

pub use router::ROUTES;
pub(crate) use router::{Service, Shared, router};
