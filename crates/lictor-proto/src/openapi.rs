//! Schemas of the types that write themselves as text: ids, digests, times, codes.

use std::borrow::Cow;

use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{KnownFormat, RefOr, SchemaFormat};
use utoipa::{PartialSchema, ToSchema};

use crate::code::Code;
use crate::envelope::Envelope;
use crate::ids::{Digest, JobId, Name, NodeId, OrgId};
use crate::time::Timestamp;

macro_rules! text_schemas {
    ($($ty:ident: $sentence:literal;)*) => { $(
        impl PartialSchema for $ty {
            fn schema() -> RefOr<Schema> {
                let object = ObjectBuilder::new().schema_type(Type::String);
                object.description(Some($sentence)).into()
            }
        }

        impl ToSchema for $ty {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed(stringify!($ty))
            }
        }
    )* };
}

text_schemas! {
    Digest: "A SHA-256, as `sha256:` and 64 hex digits.";
    JobId: "The id of a job, made from its digest.";
    Name: "A short name: lower case letters, digits and inner hyphens.";
    NodeId: "The id of a node, made from its identity key.";
    OrgId: "The id of an org, made from its first root.";
}

impl PartialSchema for Timestamp {
    fn schema() -> RefOr<Schema> {
        let object = ObjectBuilder::new().schema_type(Type::String);
        object
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
            .description(Some("UTC, RFC 3339."))
            .into()
    }
}

impl ToSchema for Timestamp {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Timestamp")
    }
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let object = ObjectBuilder::new().schema_type(Type::String);
        object
            .enum_values(Some(Self::ALL.iter().map(|c| c.as_str())))
            .description(Some("A stable code."))
            .into()
    }
}

impl ToSchema for Code {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Code")
    }
}

/// The wire form of DSSE v1, base64 inside.
impl PartialSchema for Envelope {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let signature = ObjectBuilder::new()
            .property("keyid", text())
            .property("sig", text())
            .required("sig");
        let object = ObjectBuilder::new()
            .property("payloadType", text())
            .property("payload", text())
            .property("signatures", ArrayBuilder::new().items(signature))
            .required("payloadType")
            .required("payload")
            .required("signatures");
        object.description(Some("A signed document (DSSE v1).")).into()
    }
}

impl ToSchema for Envelope {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Envelope")
    }
}
