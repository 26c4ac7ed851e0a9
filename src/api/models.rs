//! `GET /v1/models`.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::{ApiError, ModelRefusals, ReadRefusals};
use super::schema::check_model;
use crate::service::Service;

/// The models that are served: one, by all its names.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    pub object: &'static str,
    /// One entry per name; answers carry the first.
    pub data: Vec<Model>,
}

/// A name of the model that is served.
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
    /// What the model calls itself: its folder's name.
    pub root: String,
    /// Always null: no model is part of another.
    #[schema(value_type = Option<String>)]
    pub parent: (),
    /// Most tokens of a prompt and its answer together.
    #[schema(minimum = 1)]
    pub max_model_len: usize,
}

impl Model {
    fn named(name: &str, service: &Service) -> Self {
        Self {
            id: name.to_owned(),
            object: "model",
            created: service.created(),
            owned_by: "evotoken",
            root: service.root().to_owned(),
            parent: (),
            max_model_len: service.max_tokens(),
        }
    }
}

/// List the models.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", operation_id = "listModels", security((), ("bearer" = [])),
    responses((status = 200, description = "The models that are served.", body = ModelList), ReadRefusals))]
pub async fn list(State(app): State<Arc<App>>) -> Result<Json<ModelList>, ApiError> {
    let service = app.service()?;
    let data = service.names().iter().map(|name| Model::named(name, service)).collect();
    Ok(Json(ModelList { object: "list", data }))
}

/// Describe one model.
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
    check_model(Some(&id), service)?;
    Ok(Json(Model::named(&id, service)))
}
