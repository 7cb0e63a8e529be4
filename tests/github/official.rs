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

use super::artifacts::{ArtifactApis, block_on, client, pseudo_random_bytes};
use crate::artifact_service::FakeArtifactService;

/// Runs the official client; its answer.
fn run_official_client(service: &FakeArtifactService, words: &[&str]) -> Value {
    let target = Path::new(env!("CARGO_BIN_EXE_runner")).parent().and_then(Path::parent).unwrap();
    let module = target.join("tools/official/node_modules/@actions/artifact/lib/artifact.js");
    assert!(module.is_file(), "@actions/artifact is missing: run `cargo xtask setup`");
    #[expect(clippy::disallowed_methods, reason = "all that the client gets of this process")]
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut node = Command::new("node");
    node.env_clear().env("PATH", path).envs(service.variables());
    node.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/github/official.mjs")).arg(module).args(words);
    let output = node.output().unwrap_or_else(|error| panic!("node: {error}; run `cargo xtask setup`"));
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(stdout.lines().last().unwrap()).unwrap_or_else(|error| panic!("{error}: {stdout}"))
}

fn zip_file(name: &str, content: &[u8]) -> Bytes {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file(name, SimpleFileOptions::default().compression_method(CompressionMethod::Stored)).unwrap();
    zip.write_all(content).unwrap();
    zip.finish().unwrap().into_inner().into()
}

#[test]
fn official_client_reads_our_artifacts() {
    let service = FakeArtifactService::start();
    let client = client(&service, ArtifactApis::ServiceOnly);
    let contents = [pseudo_random_bytes(1000), pseudo_random_bytes(25 << 20)];
    for (content, blocks) in contents.iter().zip([1, 4]) {
        let stored = block_on(client.upload("pawl-shop-prod-a01-s0001", zip_file("a.journal", content))).unwrap();
        assert_eq!(service.block_count(&stored.name), blocks);
        let digest = stored.digest.as_ref().unwrap().to_string();
        let listed = run_official_client(&service, &["list"]);
        let listed =
            listed["artifacts"].as_array().unwrap().iter().find(|listed| listed["name"] == stored.name).unwrap();
        assert_eq!((&listed["id"], &listed["digest"]), (&stored.id.into(), &digest.clone().into()));
        let folder = tempfile::tempdir().unwrap();
        let read = run_official_client(
            &service,
            &["download", &stored.id.to_string(), folder.path().to_str().unwrap(), &digest],
        );
        assert_eq!(read["digestMismatch"], false);
        assert!(fs::read(folder.path().join("a.journal")).unwrap() == content[..]);
    }
}

#[test]
fn our_client_reads_official_artifacts() {
    let service = FakeArtifactService::start();
    let client = client(&service, ArtifactApis::ServiceOnly);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.journal");
    for (name, content, blocks) in
        [("small", pseudo_random_bytes(1000), 1), ("large", pseudo_random_bytes(25 << 20), 4)]
    {
        fs::write(&file, &content).unwrap();
        let [folder, file] = [folder.path(), &file].map(|path| path.to_str().unwrap());
        let stored = run_official_client(&service, &["upload", name, folder, file]);
        assert_eq!(service.block_count(name), blocks);
        let listed = block_on(client.list(name)).unwrap().remove(0);
        let digest = listed.digest.as_ref().unwrap().hex();
        assert_eq!((&stored["id"], &stored["digest"]), (&listed.id.into(), &digest.into()));
        assert_eq!(stored["size"], listed.size);
        let zip = block_on(client.download(&listed)).unwrap();
        let mut read = Vec::new();
        ZipArchive::new(Cursor::new(zip)).unwrap().by_name("a.journal").unwrap().read_to_end(&mut read).unwrap();
        assert!(read == content);
    }
}
