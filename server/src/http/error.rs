//! Refusals: a status, and a body of `{code, message, object, expected, actual, hint, request_id}`.
//!
//! Must never show a cause that names files or settings of the service beyond the store's own keys.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use gigastore_formats::wire::{Fault, FaultCode};

use crate::admission::RETRY_AFTER_S;
use crate::auth::AuthError;

/// A request that is refused.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) fault: Fault,
    pub(crate) status: StatusCode,
    /// For 416: the length of what was asked for.
    pub(crate) length: Option<u64>,
}

impl Refused {
    pub(crate) fn new(mut fault: Fault) -> Self {
        // Of a project that is not there the engine names those that are; they are not for every caller.
        if fault.message.starts_with("no project") {
            fault.known.clear();
        }
        Self { status: status(fault.code), fault, length: None }
    }

    /// The request makes no sense.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Fault::of(FaultCode::Invalid, message))
    }

    /// With another status than the one of its code.
    pub(crate) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self::new(fault)
    }
}

impl From<AuthError> for Refused {
    fn from(error: AuthError) -> Self {
        Self::new(Fault::new(FaultCode::Denied, &error)).with_status(StatusCode::UNAUTHORIZED)
    }
}

/// Turns an error of the engine into a refusal.
pub(crate) fn refused<E>(error: E) -> Refused
where
    for<'e> Fault: From<&'e E>,
{
    Refused::new(Fault::from(&error))
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(length) = self.length
            && let Ok(range) = HeaderValue::try_from(format!("bytes */{length}"))
        {
            headers.insert(header::CONTENT_RANGE, range);
        }
        // The body is written where the request's id is known.
        response.extensions_mut().insert(self.fault);
        response
    }
}

/// The status of each kind of fault.
fn status(code: FaultCode) -> StatusCode {
    match code {
        FaultCode::Invalid => StatusCode::BAD_REQUEST,
        FaultCode::NotFound => StatusCode::NOT_FOUND,
        FaultCode::InProgress => StatusCode::ACCEPTED,
        FaultCode::Gone => StatusCode::GONE,
        FaultCode::Conflict | FaultCode::MissingRanks => StatusCode::CONFLICT,
        FaultCode::BadUpload => StatusCode::UNPROCESSABLE_ENTITY,
        FaultCode::Unavailable | FaultCode::CommitStateUnknown => StatusCode::SERVICE_UNAVAILABLE,
        FaultCode::StoreFull | FaultCode::ReadOnly => StatusCode::INSUFFICIENT_STORAGE,
        FaultCode::Denied => StatusCode::FORBIDDEN,
        FaultCode::Integrity | FaultCode::Lost => StatusCode::INTERNAL_SERVER_ERROR,
        FaultCode::NewerFormat => StatusCode::NOT_IMPLEMENTED,
    }
}
