//! `POST /v1/load_lora_adapter` and `POST /v1/unload_lora_adapter`, as vLLM has them. For operators only, because whoever may
//! call them has the server read folders: they are there only if `server.runtime_adapters` is set.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use serde::Deserialize;
use utoipa::ToSchema;

use super::error::{ApiError, TokenRefusals};
use super::{App, JsonBody};
use crate::model::{ModelError, ModelSource};
use crate::service::AdapterError;

/// An adapter to be served.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct LoadAdapterRequest {
    /// What requests will call it: no `:` in it, and no name of the model. Must be given.
    #[schema(required = true, nullable = false, min_length = 1, pattern = "^[^:]+$")]
    pub lora_name: Option<String>,
    /// Its PEFT LoRA folder on the server's machine. Must be given.
    #[schema(required = true, nullable = false, min_length = 1)]
    pub lora_path: Option<String>,
}

/// An adapter that is no longer to be served.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct UnloadAdapterRequest {
    /// What requests call it. Must be given.
    #[schema(required = true, nullable = false, min_length = 1)]
    pub lora_name: Option<String>,
}

/// Shows that adapters may be changed while the server runs. Asked for before the body is read.
#[derive(Debug)]
pub struct Allowed;

impl FromRequestParts<Arc<App>> for Allowed {
    type Rejection = ApiError;

    async fn from_request_parts(_parts: &mut Parts, app: &Arc<App>) -> Result<Self, ApiError> {
        if app.settings.runtime_adapters {
            return Ok(Self);
        }
        let reason = "adapters are those of the start, because server.runtime_adapters is false";
        Err(ApiError::UnknownPath(Some(reason)))
    }
}

/// Load a LoRA adapter and serve it. Requests may ask for it when the reply is there; what runs does not wait for it. Only if
/// the setting `server.runtime_adapters` is true, else a 404.
#[utoipa::path(post, path = "/v1/load_lora_adapter", tag = "Adapters", operation_id = "loadLoraAdapter",
    security((), ("bearer" = [])), request_body = LoadAdapterRequest, responses(
    (status = 200, description = "It is loaded.", body = String, content_type = "text/plain"), TokenRefusals))]
pub async fn load(
    _: Allowed,
    State(app): State<Arc<App>>,
    JsonBody(request): JsonBody<LoadAdapterRequest>,
) -> Result<String, ApiError> {
    let service = Arc::clone(app.ready()?);
    let (name, path) = (given("lora_name", request.lora_name)?, given("lora_path", request.lora_path)?);
    let done = tokio::task::spawn_blocking(move || {
        service
            .load_adapter(&name, &ModelSource::folder(path))
            .map(|()| format!("The adapter {name:?} is loaded."))
    });
    let loaded = done.await.map_err(|error| {
        tracing::error!(%error, "an adapter could not be loaded");
        ApiError::Internal
    })?;
    Ok(loaded?)
}

/// Serve a LoRA adapter no longer. Requests for it are a 404 from now on; answers that it has begun are finished, then its
/// memory is given back. Only if the setting `server.runtime_adapters` is true, else a 404.
#[utoipa::path(post, path = "/v1/unload_lora_adapter", tag = "Adapters", operation_id = "unloadLoraAdapter",
    security((), ("bearer" = [])), request_body = UnloadAdapterRequest, responses(
    (status = 200, description = "It is no longer served.", body = String, content_type = "text/plain"), TokenRefusals))]
pub async fn unload(
    _: Allowed,
    State(app): State<Arc<App>>,
    JsonBody(request): JsonBody<UnloadAdapterRequest>,
) -> Result<String, ApiError> {
    let name = given("lora_name", request.lora_name)?;
    app.ready()?.unload_adapter(&name)?;
    Ok(format!("The adapter {name:?} is unloaded."))
}

fn given(param: &str, value: Option<String>) -> Result<String, ApiError> {
    value.filter(|value| !value.is_empty()).ok_or_else(|| ApiError::invalid(param, "must be given"))
}

impl From<AdapterError> for ApiError {
    fn from(error: AdapterError) -> Self {
        let message = error.to_string();
        match error {
            AdapterError::Name { .. } | AdapterError::Loaded(_) => Self::invalid("lora_name", message),
            AdapterError::Unknown(_) => Self::UnknownAdapter { param: "lora_name", message },
            AdapterError::Unusable { error: ModelError::Missing { .. }, .. } => {
                Self::UnknownAdapter { param: "lora_path", message }
            }
            AdapterError::Unusable { .. } => Self::invalid("lora_path", message),
        }
    }
}
