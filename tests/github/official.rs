//! The official client, npm `@actions/artifact`, and ours read what the other stored. It also shows that the service of these tests
//! does what a client from elsewhere expects of it.

use std::{
    fs,
    io::{Cursor, Read as _, Write as _},
    path::Path,
    process::Command,
};

use bytes::Bytes;
use serde_json::Value;
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

use super::artifacts::{Ways, client, noise, run};
use crate::artifact_service::ArtifactService;

/// Runs the official client; its answer.
fn official(service: &ArtifactService, words: &[&str]) -> Value {
    let target = Path::new(env!("CARGO_BIN_EXE_runner")).parent().and_then(Path::parent).unwrap();
    let module = target.join("tools/official/node_modules/@actions/artifact/lib/artifact.js");
    assert!(module.is_file(), "@actions/artifact is missing: run `cargo xtask setup`");
    #[expect(clippy::disallowed_methods, reason = "all that the client gets of this process")]
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut node = Command::new("node");
    node.env_clear().env("PATH", path).envs(service.variables());
    node.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/github/official.mjs")).arg(module).args(words);
    let output = node.output().unwrap_or_else(|error| panic!("node: {error}; run `cargo xtask setup`"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(said.lines().last().unwrap()).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn zipped(name: &str, content: &[u8]) -> Bytes {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file(name, SimpleFileOptions::default().compression_method(CompressionMethod::Stored)).unwrap();
    zip.write_all(content).unwrap();
    zip.finish().unwrap().into_inner().into()
}

#[test]
fn the_official_client_reads_what_ours_stored() {
    let service = ArtifactService::start();
    let client = client(&service, Ways::Service);
    let contents = [noise(1000), noise(25 << 20)];
    for (content, blocks) in contents.iter().zip([1, 4]) {
        let stored = run(client.upload("pawl-shop-prod-a01-s0001", zipped("a.journal", content))).unwrap();
        assert_eq!(service.blocks(&stored.name), blocks);
        let digest = stored.digest.as_ref().unwrap().to_string();
        let listed = official(&service, &["list"]);
        let listed =
            listed["artifacts"].as_array().unwrap().iter().find(|listed| listed["name"] == stored.name).unwrap();
        assert_eq!((&listed["id"], &listed["digest"]), (&stored.id.into(), &digest.clone().into()));
        let folder = tempfile::tempdir().unwrap();
        let read = official(&service, &["download", &stored.id.to_string(), folder.path().to_str().unwrap(), &digest]);
        assert_eq!(read["digestMismatch"], false);
        assert!(fs::read(folder.path().join("a.journal")).unwrap() == content[..]);
    }
}

#[test]
fn ours_reads_what_the_official_client_stored() {
    let service = ArtifactService::start();
    let client = client(&service, Ways::Service);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.journal");
    for (name, content, blocks) in [("small", noise(1000), 1), ("large", noise(25 << 20), 4)] {
        fs::write(&file, &content).unwrap();
        let [folder, file] = [folder.path(), &file].map(|path| path.to_str().unwrap());
        let stored = official(&service, &["upload", name, folder, file]);
        assert_eq!(service.blocks(name), blocks);
        let listed = run(client.list(name)).unwrap().remove(0);
        let digest = listed.digest.as_ref().unwrap().hex();
        assert_eq!((&stored["id"], &stored["digest"]), (&listed.id.into(), &digest.into()));
        assert_eq!(stored["size"], listed.size);
        let zip = run(client.download(&listed)).unwrap();
        let mut read = Vec::new();
        ZipArchive::new(Cursor::new(zip)).unwrap().by_name("a.journal").unwrap().read_to_end(&mut read).unwrap();
        assert!(read == content);
    }
}
