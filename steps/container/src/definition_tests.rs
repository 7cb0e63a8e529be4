//! Definitions of containers: what the engine is asked for, and what is refused.

use pawl_step::testing;

use super::*;

fn input(container: Value) -> Input<ContainerStepConfig> {
    let config = json!({ "engine": "podman", "container": container, "ready": { "tcp": ["127.0.0.1:{port}"] } });
    testing::input("start", ContainerStepConfig::deserialize(config).unwrap())
}

#[test]
fn sizes_are_read() {
    assert_eq!(bytes("512m").unwrap(), 512 << 20);
    assert_eq!(bytes("2g").unwrap(), 2 << 30);
    for text in ["", "m", "1t", "99999999999999999g"] {
        assert!(bytes(text).is_err(), "{text}");
    }
}

#[test]
fn image_comes_from_the_only_step_that_returned_one() {
    let mut input = input(json!({}));
    let image = |input: &Input<ContainerStepConfig>| {
        image_of(input, input.config.container.as_ref().unwrap()).map(str::to_owned).map_err(|failure| failure.message)
    };
    assert!(image(&input).unwrap_err().contains("no earlier step returned one"));
    for (step, outputs) in
        [("pull", json!({ "path": "x" })), ("images", json!({ "image": "shop" })), ("all", json!({ "image": null }))]
    {
        input.outputs.insert(step.to_owned(), outputs);
    }
    assert_eq!(image(&input).unwrap(), "shop");
    input.outputs.insert("more".to_owned(), json!({ "image": "other" }));
    assert!(image(&input).unwrap_err().contains("several"));
}

#[test]
fn port_of_the_slot_leads_to_that_of_the_container() {
    let config = |value: Value| ContainerConfig::deserialize(value).unwrap();
    let slot = |port| Slot { name: "b".to_owned(), port };
    let port = |value: Value, outer| published_port(&config(value), &slot(outer)).map_err(|failure| failure.message);
    assert_eq!(port(json!({ "port": 8080 }), Some(8002)).unwrap(), Some(("8080/tcp".to_owned(), "8002".to_owned())));
    assert_eq!(port(json!({ "port": 8080, "network": "host" }), Some(8002)), Ok(None));
    assert_eq!(port(json!({}), Some(8002)), Ok(None));
    assert!(port(json!({ "port": 8080 }), None).unwrap_err().contains("slot `b` has none"));
}

#[test]
fn another_definition_has_another_hash() {
    let of = |body: Value| ContainerDefinition { image: String::new(), body }.hash();
    assert_eq!(of(json!({ "Image": "a" })), of(json!({ "Image": "a" })));
    assert_ne!(of(json!({ "Image": "a" })), of(json!({ "Image": "b" })));
}
