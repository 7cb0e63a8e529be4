//! Every version of the contract × every function that it imports × no grants: denied.
//!
//! For each function a module is generated that calls just it, and fails as it does. A function that the tables here do not
//! know fails the test, so that a new import can't be forgotten. The same for the interfaces of WASI.

use std::{collections::BTreeMap, fs, path::PathBuf};

use contract::hash::Blake3Hash;
use serde_json::json;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{
    Function, FunctionKind, Resolve, SizeAlign, Type, TypeDefKind, TypeId, WorldId, WorldItem, WorldKey,
    abi::{AbiVariant, FlatTypes, WasmSignature, WasmType},
};

use crate::support::GuestFixture;

/// What a text that is passed must be to get as far as the grants: function and parameter, or field of a record.
const ARGUMENT_TEXTS: &[(&str, &str, &str)] = &[
    ("blobs.resolve", "source", "http://127.0.0.1:1/a.tar"),
    ("blobs.fetch", "source", "file:app/a.tar"),
    ("blobs.fetch", "digest", "sha256:0000000000000000000000000000000000000000000000000000000000000000"),
    ("blobs.compare", "dir", "app"),
    ("blobs.compare", "path", "release"),
    ("blobs.remove", "dir", "app"),
    ("blobs.remove", "path", "release"),
    ("database.connection.open", "name", "main"),
    ("migrations.status", "database", "main"),
    ("migrations.status", "dir", "app"),
    ("migrations.status", "options", "{}"),
    ("migrations.apply", "database", "main"),
    ("migrations.apply", "dir", "app"),
    ("migrations.apply", "options", "{}"),
    ("process.run", "program", "/bin/true"),
    ("process.run", "options", "{}"),
    ("process.run-with", "program", "/bin/true"),
    ("process.run-with", "options", "{}"),
    ("http.send", "method", "GET"),
    ("http.send", "url", "http://127.0.0.1:1/"),
    ("http.send", "options", "{}"),
    ("http.send-with", "method", "GET"),
    ("http.send-with", "url", "unix://app/"),
    ("http.send-with", "options", "{}"),
    ("tcp.connect", "address", "127.0.0.1:1"),
    ("secrets.secret.open", "name", "TOKEN"),
    ("files.path", "place", "app/file"),
    ("files.status", "place", "app/file"),
    ("files.set", "place", "app/file"),
    ("files.set", "options", "{}"),
    ("files.room", "dir", "app"),
    ("files.render", "template", "app/template"),
    ("files.render", "to", "conf/file"),
    ("files.render", "values", "{}"),
    ("files.render", "options", "{}"),
    ("files.same", "template", "app/template"),
    ("files.same", "to", "conf/file"),
    ("files.same", "values", "{}"),
    ("files.equal", "one", "conf/one"),
    ("files.equal", "other", "conf/other"),
    ("files.names", "place", "conf"),
    ("files.move", "place", "conf/one"),
    ("files.move", "to", "conf/other"),
    ("files.move", "options", "{}"),
    ("files.remove", "place", "conf/file"),
    ("socket.exchange", "name", "engine"),
    ("socket.exchange", "options", "{}"),
];

/// What is never denied, and why.
const NEVER_DENIED: &[(&str, &str)] = &[
    ("log.write", "it says something; what it says is bounded and redacted"),
    ("log.progress", "it says something; what it says is bounded and redacted"),
];

/// What needs a handle that can't be had without one of the functions above: with a made-up one it traps.
const NEEDS_HANDLE: &[&str] = &[
    "blobs.blob.digest",
    "blobs.unpack",
    "database.connection.engine",
    "database.connection.query",
    "database.connection.execute",
    "database.connection.begin",
    "database.transaction.query",
    "database.transaction.execute",
    "database.transaction.script",
    "database.transaction.commit",
    "secrets.secret.reveal",
];

/// The interfaces of WASI that are linked, and what of the machine can be reached by each without a grant.
const WASI_INTERFACES: &[(&str, &str)] = &[
    ("wasi:cli/environment", "nothing: no variables, no arguments"),
    ("wasi:cli/exit", "nothing: it ends the module, as a failure"),
    ("wasi:cli/stdin", "nothing: it is at its end"),
    ("wasi:cli/stdout", "the step's own log"),
    ("wasi:cli/stderr", "the step's own log"),
    ("wasi:cli/terminal-input", "nothing: there is none"),
    ("wasi:cli/terminal-output", "nothing: there is none"),
    ("wasi:cli/terminal-stdin", "nothing: there is none"),
    ("wasi:cli/terminal-stdout", "nothing: there is none"),
    ("wasi:cli/terminal-stderr", "nothing: there is none"),
    ("wasi:clocks/monotonic-clock", "the time"),
    ("wasi:clocks/wall-clock", "the time"),
    ("wasi:filesystem/preopens", "nothing: a list without a directory"),
    ("wasi:filesystem/types", "nothing: all is done with a handle out of a directory"),
    ("wasi:io/error", "nothing: it is about a handle"),
    ("wasi:io/poll", "nothing: it is about handles"),
    ("wasi:io/streams", "nothing: it is about a handle"),
    ("wasi:random/random", "random bytes"),
    ("wasi:random/insecure", "random bytes"),
    ("wasi:random/insecure-seed", "random bytes"),
    ("wasi:sockets/network", "nothing: it is about a handle"),
    ("wasi:sockets/instance-network", "nothing: a handle that nothing can be done with"),
    ("wasi:sockets/ip-name-lookup", "nothing: denied, as tests/cases/escapes.rs shows"),
    ("wasi:sockets/tcp", "nothing: denied, as tests/cases/escapes.rs shows"),
    ("wasi:sockets/tcp-create-socket", "nothing: denied, as tests/cases/escapes.rs shows"),
    ("wasi:sockets/udp", "nothing: denied, as tests/cases/escapes.rs shows"),
    ("wasi:sockets/udp-create-socket", "nothing: denied, as tests/cases/escapes.rs shows"),
];

fn repository_path(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Each version of the contract: its number and its text.
fn contract_texts() -> BTreeMap<String, String> {
    let mut files = vec![repository_path("wit/step.wit")];
    for entry in fs::read_dir(repository_path("wit/frozen")).unwrap() {
        files.push(entry.unwrap().path().join("step.wit"));
    }
    let versioned = files.into_iter().map(|file| {
        let text = fs::read_to_string(&file).unwrap();
        let package =
            text.lines().find_map(|line| line.strip_prefix("package pawl:step@")).expect("a versioned package");
        (package.trim_end_matches(';').to_owned(), text)
    });
    versioned.collect()
}

/// One version, read.
struct WitContract {
    version: String,
    resolve: Resolve,
    sizes: SizeAlign,
    world: WorldId,
}

/// A function that a version imports.
struct ContractImport<'c> {
    contract: &'c WitContract,
    /// `database`.
    interface: String,
    /// `database.connection.open`.
    name: String,
    function: &'c Function,
}

impl WitContract {
    fn read(version: &str, text: &str) -> Self {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("step.wit", text).unwrap();
        let world = resolve.packages[package].worlds["module"];
        let mut sizes = SizeAlign::default();
        sizes.fill(&resolve);
        Self { version: version.to_owned(), resolve, sizes, world }
    }

    fn imports(&self) -> Vec<ContractImport<'_>> {
        let mut imports = Vec::new();
        for (key, item) in &self.resolve.worlds[self.world].imports {
            let (WorldKey::Interface(id), WorldItem::Interface { .. }) = (key, item) else {
                panic!("{key:?}: the world imports something else than an interface")
            };
            let interface = &self.resolve.interfaces[*id];
            let short = interface.name.clone().unwrap();
            for function in interface.functions.values() {
                let name = match function.kind {
                    FunctionKind::Freestanding => format!("{short}.{}", function.name),
                    FunctionKind::Method(resource) | FunctionKind::Static(resource) => {
                        let resource = self.resolve.types[resource].name.as_deref().unwrap();
                        format!("{short}.{resource}.{}", function.item_name())
                    }
                    _ => panic!("{}: this test can't call such a function yet", function.name),
                };
                imports.push(ContractImport { contract: self, interface: short.clone(), name, function });
            }
        }
        imports
    }

    /// A type without its other names.
    fn resolved_kind(&self, id: TypeId) -> &TypeDefKind {
        match &self.resolve.types[id].kind {
            TypeDefKind::Type(Type::Id(other)) => self.resolved_kind(*other),
            kind => kind,
        }
    }
}

/// Constants for the core module: texts in memory, and the instructions that push them.
#[derive(Default)]
struct WatConstants {
    memory: String,
    code: String,
}

/// Where texts begin in memory; what a call returns lies below.
const TEXTS_OFFSET: usize = 4096;

impl WatConstants {
    fn push(&mut self, kind: WasmType, value: usize) {
        let kind = match kind {
            WasmType::I32 | WasmType::Pointer | WasmType::Length => "i32",
            WasmType::I64 | WasmType::PointerOrI64 => "i64",
            WasmType::F32 => "f32",
            WasmType::F64 => "f64",
        };
        self.code += &format!("({kind}.const {value})");
    }

    fn text(&mut self, text: &str) {
        self.push(WasmType::Pointer, TEXTS_OFFSET + self.memory.len());
        self.push(WasmType::Length, text.len());
        self.memory += text;
    }
}

impl ContractImport<'_> {
    /// Pushes a plausible value. `name` is what it is called.
    fn push(&self, name: &str, of: &Type, constants: &mut WatConstants) {
        let contract = self.contract;
        match of {
            Type::String => {
                let known =
                    ARGUMENT_TEXTS.iter().find(|(function, parameter, _)| *function == self.name && *parameter == name);
                let (_, _, text) = known.unwrap_or_else(|| panic!("{}: which text is `{name}`?", self.name));
                constants.text(text);
            }
            Type::Id(id) => match contract.resolved_kind(*id) {
                TypeDefKind::Type(other) => self.push(name, other, constants),
                TypeDefKind::Record(record) => {
                    for field in &record.fields {
                        self.push(&field.name, &field.ty, constants);
                    }
                }
                // None at all, and nothing.
                TypeDefKind::List(_) | TypeDefKind::Option(_) => {
                    for kind in self.flat_types(of) {
                        constants.push(kind, 0);
                    }
                }
                other => panic!("{}: `{name}` is of a kind that this test can't make yet: {other:?}", self.name),
            },
            Type::Bool
            | Type::U8
            | Type::U16
            | Type::U32
            | Type::U64
            | Type::S8
            | Type::S16
            | Type::S32
            | Type::S64
            | Type::F32
            | Type::F64
            | Type::Char
            | Type::ErrorContext => constants.push(self.flat_types(of)[0], 1),
        }
    }

    fn flat_types(&self, of: &Type) -> Vec<WasmType> {
        let mut storage = [WasmType::I32; 16];
        let mut flat = FlatTypes::new(&mut storage);
        assert!(self.contract.resolve.push_flat(of, &mut flat), "{}: too large", self.name);
        flat.to_vec()
    }

    /// The result's failure, if it has one: where it is in what the call returns.
    fn failure_offset(&self) -> Option<usize> {
        let Some(Type::Id(id)) = self.function.result else { return None };
        let TypeDefKind::Result(result) = self.contract.resolved_kind(id) else { return None };
        let failure = result.err?;
        let Type::Id(error) = failure else { return None };
        let is_failure = |id: TypeId| self.contract.resolve.types[id].name.as_deref() == Some("failure");
        assert!(is_failure(error), "{}: its error is no `failure`", self.name);
        let cases = [result.ok.as_ref(), result.err.as_ref()];
        Some(self.contract.sizes.payload_offset(wit_parser::Int::U8, cases).size_wasm32())
    }

    /// A module that calls it in `apply`, and fails as it does. With `handles`, every handle is made up.
    fn module_bytes(&self, handles: bool) -> Vec<u8> {
        let WasmSignature { params, results, indirect_params, retptr } =
            self.contract.resolve.wasm_signature(AbiVariant::GuestImport, self.function);
        assert!(!indirect_params, "{}: too many parameters for this test", self.name);
        let mut constants = WatConstants::default();
        if handles {
            for kind in &params {
                constants.push(*kind, 0);
            }
        } else {
            for parameter in &self.function.params {
                self.push(&parameter.name, &parameter.ty, &mut constants);
            }
            if retptr {
                constants.push(WasmType::Pointer, 1024);
            }
        }
        let word = |kind: &WasmType| match kind {
            WasmType::I32 | WasmType::Pointer | WasmType::Length => "i32",
            WasmType::I64 | WasmType::PointerOrI64 => "i64",
            WasmType::F32 => "f32",
            WasmType::F64 => "f64",
        };
        let list = |what: &str, kinds: &[WasmType]| match kinds {
            [] => String::new(),
            kinds => format!("({what} {})", kinds.iter().map(word).collect::<Vec<_>>().join(" ")),
        };
        let version = &self.contract.version;
        let (interface, function) = (&self.interface, &self.function.name);
        let drops = "(drop)".repeat(results.len());
        // The failure in what `apply` returns is at 4; a record of four texts, an option and a bool has 40 bytes.
        let copy = self.failure_offset().map_or(String::new(), |at| {
            format!(
                "(i32.store8 (i32.const 2048) (i32.load8_u (i32.const 1024)))
                 (memory.copy (i32.const 2052) (i32.const {}) (i32.const 40))",
                1024 + at
            )
        });
        let WatConstants { memory, code } = constants;
        let describe = json!({
            "name": "generated", "version": "1", "summary": "calls one function", "config": {}, "phase": "prepare",
        });
        let describe = describe.to_string();
        let at = TEXTS_OFFSET + memory.len();
        let data: String = (memory + &describe).bytes().map(|byte| format!("\\{byte:02x}")).collect();
        let exported = format!("pawl:step/step@{version}");
        let text = format!(
            r#"(module
              (import "pawl:step/{interface}@{version}" "{function}" (func $call {} {}))
              (memory (export "memory") 4)
              (data (i32.const {TEXTS_OFFSET}) "{data}")
              (global $free (mut i32) (i32.const 131072))
              (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
                (global.set $free (i32.add (local.get $at) (local.get 3)))
                (local.get $at))
              (func (export "{exported}#describe") (result i32)
                (i32.store (i32.const 2048) (i32.const {at}))
                (i32.store (i32.const 2052) (i32.const {}))
                (i32.const 2048))
              (func (export "{exported}#apply") (param i32 i32) (result i32)
                {code}
                (call $call)
                {drops}
                {copy}
                (i32.const 2048))
              (func (export "{exported}#preview") (param i32 i32) (result i32) (i32.const 2048))
              (func (export "{exported}#probe") (param i32 i32) (result i32) unreachable)
              (func (export "{exported}#revert") (param i32 i32 i32 i32 i32 i32) (result i32) unreachable)
            )"#,
            list("param", &params),
            list("result", &results),
            describe.len(),
        );
        let mut core = wat::parse_str(&text).unwrap_or_else(|error| panic!("{}: {error}\n{text}", self.name));
        embed_component_metadata(&mut core, &self.contract.resolve, self.contract.world, StringEncoding::UTF8).unwrap();
        let encoded = ComponentEncoder::default().validate(true).module(&core).and_then(|mut encoder| encoder.encode());
        encoded.unwrap_or_else(|error| panic!("{}: {error:#}", self.name))
    }

    /// Runs it without any grant.
    fn run(&self, handles: bool) -> crate::support::GuestOutcome {
        let folder = tempfile::tempdir().unwrap();
        let module = folder.path().join("generated.wasm");
        fs::write(&module, self.module_bytes(handles)).unwrap();
        GuestFixture::with_module(&module, json!({}), json!({})).run()
    }
}

#[test]
fn every_import_of_every_version_is_denied_without_a_grant() {
    let contracts = contract_texts();
    assert!(contracts.contains_key("0.1.0"), "{:?}", contracts.keys());
    let mut tried = 0;
    for (version, text) in &contracts {
        let contract = WitContract::read(version, text);
        for import in contract.imports() {
            let name = format!("{} of {version}", import.name);
            if NEVER_DENIED.iter().any(|(harmless, _)| *harmless == import.name) {
                continue;
            }
            if NEEDS_HANDLE.contains(&import.name.as_str()) {
                let outcome = import.run(true);
                assert!(outcome.kind == "trap" && outcome.message.contains("handle"), "{name}: {outcome:#?}");
            } else {
                assert!(import.failure_offset().is_some(), "{name}: it can't say that it is denied");
                let ended = import.run(false);
                assert_eq!((ended.result.as_str(), ended.kind.as_str()), ("failed", "denied"), "{name}: {ended:#?}");
                assert!(ended.message.contains("`call`") && ended.hint.contains("grants: {"), "{name}: {ended:#?}");
            }
            tried += 1;
        }
    }
    assert!(tried >= 2 * 18, "only {tried} imports were found");
}

/// Runners before 0.1.2 named 0.1.1 for every module. A module's step must not run again because the runner learned another version.
#[test]
fn module_for_an_older_contract_keeps_its_fingerprint() {
    let named = |version: &str| Blake3Hash::of(format!("pawl:step@{version}").as_bytes());
    for (version, text) in &contract_texts() {
        let contract = WitContract::read(version, text);
        let imports = contract.imports();
        let import = imports.iter().find(|import| import.failure_offset().is_some()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let module = folder.path().join("generated.wasm");
        fs::write(&module, import.module_bytes(true)).unwrap();
        let deployed = GuestFixture::with_module(&module, json!({}), json!({})).environment.deploy("r1", &[]);
        let events = deployed.json_lines().into_iter().map(|line| line["event"].clone());
        let intent = events.into_iter().find(|event| event["type"] == "intent").unwrap();
        let expected = named(if version == "0.1.0" { "0.1.1" } else { version });
        assert_eq!(intent["fingerprint"]["contract"], json!(expected), "{version}");
    }
}

#[test]
fn every_linked_wasi_interface_is_listed() {
    // The linker can't be asked, but it is filled from this world. Only this platform's crates are sure to be on the machine.
    let cargo = || std::process::Command::new(env!("CARGO"));
    let version = String::from_utf8(cargo().arg("-vV").output().unwrap().stdout).unwrap();
    let platform = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let metadata = cargo()
        .args(["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", platform])
        .arg("--manifest-path")
        .arg(repository_path("Cargo.toml"))
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let wasi = packages.iter().find(|package| package["name"] == "wasmtime-wasi").unwrap();
    let wit = PathBuf::from(wasi["manifest_path"].as_str().unwrap()).parent().unwrap().join("src/p2/wit");
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(&wit).unwrap();
    let world = resolve.packages[package].worlds["bindings"];
    let mut found = Vec::new();
    for key in resolve.worlds[world].imports.keys() {
        let name = resolve.name_world_key(key);
        let (name, _) = name.split_once('@').unwrap();
        assert!(WASI_INTERFACES.iter().any(|(known, _)| *known == name), "{name}: what can be reached by it?");
        found.push(name.to_owned());
    }
    for (known, _) in WASI_INTERFACES {
        assert!(found.iter().any(|name| name == known), "{known} is not linked any more");
    }
}
