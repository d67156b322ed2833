//! The OpenAPI document as people's tools see it: a change of the API shows here, in review.

#[test]
fn the_document_is_the_one_in_the_snapshot() {
    let document = serde_json::to_string_pretty(&lictor_hub::api::document()).unwrap();
    // The version changes with every release.
    let document = document.replace(env!("CARGO_PKG_VERSION"), "VERSION");
    insta::assert_snapshot!("openapi", document);
}

#[test]
fn every_schema_that_is_named_is_there() {
    let document = serde_json::to_value(lictor_hub::api::document()).unwrap();
    let text = document.to_string();
    let named = text.split("#/components/schemas/").skip(1);
    let names: Vec<&str> = named.filter_map(|rest| rest.split('"').next()).collect();
    assert!(names.len() > 100, "{}", names.len());
    for name in names {
        let schema = &document["components"]["schemas"][name];
        assert!(schema.is_object(), "{name}");
    }
}

#[test]
fn every_operation_has_a_name_of_its_own() {
    let document = serde_json::to_value(lictor_hub::api::document()).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.values().flat_map(|path| path.as_object().unwrap().values());
    let mut names: Vec<&str> = operations.map(|o| o["operationId"].as_str().unwrap()).collect();
    let all = names.len();
    assert!(all > 20, "{all}");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}
