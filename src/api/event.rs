//! How the API's description speaks of a stream: as its events, whose data is text that holds JSON.

use std::borrow::Cow;
use std::marker::PhantomData;

use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use super::error::ErrorBody;

/// An event of a stream of `Chunk`s. Nothing is ever made of it but its schema.
#[derive(Debug)]
pub struct StreamEvent<Chunk>(PhantomData<Chunk>);

impl<Chunk: ToSchema> PartialSchema for StreamEvent<Chunk> {
    fn schema() -> RefOr<Schema> {
        let named = |name: &str| Ref::from_schema_name(name);
        let json = OneOfBuilder::new().item(named(&Chunk::name())).item(named(&ErrorBody::name()));
        let data = OneOfBuilder::new()
            .description(Some("A chunk or an error, as JSON, or the end of the stream."))
            .item(
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .content_media_type("application/json")
                    .content_schema(Some(Schema::from(json.build()))),
            )
            .item(ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["[DONE]"])));
        let event = ObjectBuilder::new()
            .description(Some("An event of a stream."))
            .property("data", data)
            .required("data");
        Schema::from(event.build()).into()
    }
}

impl<Chunk: ToSchema> ToSchema for StreamEvent<Chunk> {
    fn name() -> Cow<'static, str> {
        format!("{}Event", Chunk::name()).into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        for (name, schema) in [(Chunk::name(), Chunk::schema()), (ErrorBody::name(), ErrorBody::schema())] {
            schemas.push((name.into(), schema));
        }
        Chunk::schemas(schemas);
        ErrorBody::schemas(schemas);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::turn::ChatCompletionChunk;

    #[test]
    fn the_data_of_an_event_is_described_as_text_that_holds_a_chunk_or_an_error() {
        let schema = serde_json::to_value(StreamEvent::<ChatCompletionChunk>::schema()).expect("plain data");
        let data = &schema["properties"]["data"]["oneOf"];
        let held = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
        let held = json!({"oneOf": [held("ChatCompletionChunk"), held("ErrorBody")]});
        let text = json!({"type": "string", "contentMediaType": "application/json", "contentSchema": held});
        assert_eq!(*data, json!([text, {"type": "string", "enum": ["[DONE]"]}]));
        assert_eq!(schema["required"], json!(["data"]));
    }
}
