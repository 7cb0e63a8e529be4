//! What the README shows is what there is.

use std::fs;

#[test]
fn readme_shows_the_example_plan() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let read = |path: &str| fs::read_to_string(format!("{root}/{path}")).unwrap();
    let block = format!("```yaml\n{}```", read("examples/shop/deploy.yml"));
    assert!(read("README.md").contains(&block), "copy examples/shop/deploy.yml into the README");
}
