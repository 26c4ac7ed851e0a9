//! `GET /v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::{ApiError, ModelRefusals, ReadRefusals};
use super::schema::asked_speaker;
use crate::service::{Service, Speaker};

/// What is served: one model, by all its names, and its adapters.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    pub object: &'static str,
    /// One entry per name of the model, of which answers carry the first; then the adapters, by name.
    pub data: Vec<Model>,
}

/// A name of the model that is served, or an adapter.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    /// What requests call it; may contain `/`.
    pub id: String,
    /// Always `model`.
    pub object: &'static str,
    /// When it was loaded, in Unix seconds.
    #[schema(minimum = 0)]
    pub created: u64,
    /// Always `evotoken`.
    pub owned_by: &'static str,
    /// What the model calls itself: its folder's name. Of an adapter its folder.
    pub root: String,
    /// Of an adapter the model's first name; null for the model.
    #[schema(required = true)]
    pub parent: Option<String>,
    /// Most tokens of a prompt and its answer together.
    #[schema(minimum = 1)]
    pub max_model_len: usize,
}

impl Model {
    fn named(name: &str, speaker: &Speaker, service: &Service) -> Self {
        Self {
            id: name.to_owned(),
            object: "model",
            created: speaker.created,
            owned_by: "evotoken",
            root: speaker.root.clone(),
            parent: speaker.parent.clone(),
            max_model_len: service.max_tokens(),
        }
    }
}

/// List the model and its adapters.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", operation_id = "listModels", security((), ("bearer" = [])),
    responses((status = 200, description = "The models that are served.", body = ModelList), ReadRefusals))]
pub async fn list(State(app): State<Arc<App>>) -> Result<Json<ModelList>, ApiError> {
    let service = app.service()?;
    let base = service.base();
    let names = service.names().iter().map(|name| Model::named(name, &base, service));
    let adapters = service.adapters();
    let adapters = adapters.iter().map(|adapter| Model::named(&adapter.name, adapter, service));
    Ok(Json(ModelList { object: "list", data: names.chain(adapters).collect() }))
}

/// Describe the model or an adapter.
#[utoipa::path(get, path = "/v1/models/{model}", tag = "OpenAI", operation_id = "retrieveModel",
    security((), ("bearer" = [])),
    params(("model" = String, Path, description = "The model's id; a `/` in it may be written as it is.")),
    responses((status = 200, description = "The model.", body = Model), ModelRefusals))]
pub async fn describe(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Model>, ApiError> {
    find(&app, id)
}

/// As [`describe`], for an id with slashes.
pub async fn describe_path(
    State(app): State<Arc<App>>,
    Path((first, rest)): Path<(String, String)>,
) -> Result<Json<Model>, ApiError> {
    find(&app, format!("{first}/{rest}"))
}

fn find(app: &App, id: String) -> Result<Json<Model>, ApiError> {
    let service = app.service()?;
    let speaker = asked_speaker(Some(&id), service)?;
    Ok(Json(Model::named(&id, &speaker, service)))
}
