// The official client at the command line: `node official.mjs MODULE upload NAME FOLDER FILE…`, `list`, `download ID FOLDER DIGEST`.
// The last line that it prints is its answer as JSON.
const [module, what, ...more] = process.argv.slice(2);
const { DefaultArtifactClient } = await import(module);
const client = new DefaultArtifactClient();
const actions = {
  upload: (name, folder, ...files) => client.uploadArtifact(name, files, folder, { compressionLevel: 0 }),
  list: () => client.listArtifacts(),
  download: (id, path, expectedHash) => client.downloadArtifact(Number(id), { path, expectedHash }),
};
console.log("\n" + JSON.stringify(await actions[what](...more)));
