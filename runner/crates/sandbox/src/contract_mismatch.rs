//! Explains by its types why a component can't be linked or is not a step, after linking has failed.
//!
//! The contract's own text tells what this runner offers. Deliberately absent: the decision whether a module is
//! accepted. The linker makes it, so a valid module costs nothing here.

use wasmtime::{
    Engine,
    component::{
        Component, Type,
        types::{ComponentFunc, ComponentItem},
    },
};
use wit_parser::{PackageId, Resolve, WorldItem};

const CONTRACT_WIT: &str = include_str!("../../../../wit/step.wit");

/// The WASI 0.2 packages that are linked, if empty.
const WASI_PACKAGES: [&str; 6] = ["cli", "clocks", "filesystem", "io", "random", "sockets"];

/// The exports of a step.
const STEP_EXPORTS: [&str; 5] = ["describe", "preview", "apply", "probe", "revert"];

/// The mismatch and its hint.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContractMismatch {
    pub(super) reason: String,
    pub(super) hint: String,
}

/// The first mismatch. `link_error` is wasmtime's, for anything else.
pub(super) fn explain_link_error(
    engine: &Engine,
    component: &Component,
    link_error: &wasmtime::Error,
) -> ContractMismatch {
    let kind = component.component_type();
    let contract = ContractDefinition::new();
    let exports: Vec<_> = kind.exports(engine).map(|(name, export)| (name, export.ty)).collect();
    if let Some(mismatch) = export_mismatch(engine, &contract, &exports) {
        return mismatch;
    }
    for (name, import) in kind.imports(engine) {
        if let Some(mismatch) = import_mismatch(engine, &contract, name, &import.ty) {
            return mismatch;
        }
    }
    ContractMismatch {
        reason: format!("it does not match pawl:step {}: {:#}", contract.version, link_error),
        hint: "rebuild it with the contract of this runner: `runner new-step` writes it".to_owned(),
    }
}

/// The version of the contract that a component was built for, by the name of what it exports.
pub(super) fn contract_version(engine: &Engine, component: &Component) -> Option<String> {
    let kind = component.component_type();
    kind.exports(engine).find_map(|(name, _)| Some(name.strip_prefix("pawl:step/step@")?.to_owned()))
}

/// A mismatch that wasmtime finds only at a call, not at linking: a function of another type.
pub(super) fn signature_mismatch(engine: &Engine, component: &Component) -> Option<ContractMismatch> {
    let kind = component.component_type();
    let (_, step) = kind.exports(engine).find(|(name, _)| name.starts_with("pawl:step/step@"))?;
    let ComponentItem::ComponentInstance(step) = step.ty else { return None };
    let (name, found, expected) = step.exports(engine).find_map(|(name, export)| {
        let ComponentItem::ComponentFunc(function) = export.ty else { return None };
        let (name, expected) = EXPORT_SIGNATURES.iter().find(|(known, _)| *known == name)?;
        let found = function_signature(&function);
        (found != *expected).then_some((*name, found, *expected))
    })?;
    Some(ContractMismatch {
        reason: format!("its `{name}` has the type `{found}`; the contract requires `{expected}`"),
        hint: "rebuild it with the contract of this runner: `runner new-step` writes it".to_owned(),
    })
}

macro_rules! failure {
    () => {
        "record { kind: string, message: string, hint: option<string>, retryable: bool, details: string }"
    };
}

macro_rules! receipt {
    () => {
        "record { outputs: string, notes: string }"
    };
}

/// The types of the exports. They are frozen: another type would be another contract.
const EXPORT_SIGNATURES: [(&str, &str); 5] = [
    ("describe", "func() -> string"),
    (
        "preview",
        concat!(
            "func(string) -> result<list<record { action: string, subject: string, detail: string }>, ",
            failure!(),
            ">"
        ),
    ),
    ("apply", concat!("func(string) -> result<", receipt!(), ", ", failure!(), ">")),
    (
        "probe",
        concat!(
            "func(string) -> result<variant { held(",
            receipt!(),
            "), absent, drifted(string), unknown(string) }, ",
            failure!(),
            ">"
        ),
    ),
    ("revert", concat!("func(string, ", receipt!(), ") -> result<_, ", failure!(), ">")),
];

fn function_signature(function: &ComponentFunc) -> String {
    let parameters: Vec<_> = function.params().map(|(_, kind)| wit_type(&kind)).collect();
    let results: Vec<_> = function.results().map(|kind| wit_type(&kind)).collect();
    let arrow = if results.is_empty() { "" } else { " -> " };
    format!("func({}){arrow}{}", parameters.join(", "), results.join(", "))
}

/// A type in WIT syntax, without names of types.
fn wit_type(kind: &Type) -> String {
    let or_nothing = |kind: Option<Type>| kind.map_or_else(|| "_".to_owned(), |kind| wit_type(&kind));
    let name = match kind {
        Type::List(list) => return format!("list<{}>", wit_type(&list.ty())),
        Type::Option(option) => return format!("option<{}>", wit_type(&option.ty())),
        Type::Result(result) => return format!("result<{}, {}>", or_nothing(result.ok()), or_nothing(result.err())),
        Type::Record(record) => {
            let fields: Vec<_> =
                record.fields().map(|field| format!("{}: {}", field.name, wit_type(&field.ty))).collect();
            return format!("record {{ {} }}", fields.join(", "));
        }
        Type::Variant(variant) => {
            let case = |name: &str, kind: Option<Type>| match kind {
                Some(kind) => format!("{name}({})", wit_type(&kind)),
                None => name.to_owned(),
            };
            let cases: Vec<_> = variant.cases().map(|case_of| case(case_of.name, case_of.ty)).collect();
            return format!("variant {{ {} }}", cases.join(", "));
        }
        Type::Bool => "bool",
        Type::S8 => "s8",
        Type::U8 => "u8",
        Type::S16 => "s16",
        Type::U16 => "u16",
        Type::S32 => "s32",
        Type::U32 => "u32",
        Type::S64 => "s64",
        Type::U64 => "u64",
        Type::Float32 => "f32",
        Type::Float64 => "f64",
        Type::Char => "char",
        Type::String => "string",
        Type::ErrorContext => "error-context",
        // The contract has none of these, so that the name alone shows the difference.
        Type::Map(_) => "map",
        Type::Tuple(_) => "tuple",
        Type::Enum(_) => "enum",
        Type::Flags(_) => "flags",
        Type::Own(_) => "own",
        Type::Borrow(_) => "borrow",
        Type::Future(_) => "future",
        Type::Stream(_) => "stream",
        Type::FixedLengthList(_) => "fixed-length list",
    };
    name.to_owned()
}

fn export_mismatch(
    engine: &Engine,
    contract: &ContractDefinition,
    exports: &[(&str, ComponentItem)],
) -> Option<ContractMismatch> {
    let named = |start: &str| exports.iter().find(|(name, _)| name.starts_with(start));
    let Some((name, export)) = named("pawl:step/step@") else {
        let what = if named("wasi:cli/run@").is_some() {
            "it is a program (`wasi:cli/run`), not a step".to_owned()
        } else if named("wasi:http/").is_some() {
            "it is an HTTP server (`wasi:http`), not a step".to_owned()
        } else {
            let names: Vec<_> = exports.iter().take(5).map(|(name, _)| format!("`{name}`")).collect();
            let instead = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
            format!("it exports {instead}, not `pawl:step/step`")
        };
        let hint = "export the five functions of the contract: start with `runner new-step`; see docs/steps.md";
        return Some(ContractMismatch { reason: what, hint: hint.to_owned() });
    };
    let version = InterfaceName::parse(name).version;
    if !versions_compatible(version, &contract.version) {
        return Some(contract.version_mismatch(version));
    }
    let ComponentItem::ComponentInstance(instance) = export else { return None };
    let has: Vec<_> = instance.exports(engine).map(|(name, _)| name).collect();
    let missing: Vec<_> =
        STEP_EXPORTS.iter().filter(|name| !has.contains(name)).map(|name| format!("`{name}`")).collect();
    (!missing.is_empty()).then(|| ContractMismatch {
        reason: format!("its `pawl:step/step` is missing {}", missing.join(", ")),
        hint: "export all five functions; a `probe` that can't tell returns `unknown`; see docs/steps.md".to_owned(),
    })
}

fn import_mismatch(
    engine: &Engine,
    contract: &ContractDefinition,
    import: &str,
    kind: &ComponentItem,
) -> Option<ContractMismatch> {
    let name = InterfaceName::parse(import);
    match (name.package, name.interface) {
        ("pawl:step", interface) => {
            if !versions_compatible(name.version, &contract.version) {
                return Some(contract.version_mismatch(name.version));
            }
            let Some(functions) = contract.interface_functions(interface) else {
                return Some(contract.missing_import(name.version, interface));
            };
            let ComponentItem::ComponentInstance(instance) = kind else { return None };
            let mut imported =
                instance.exports(engine).filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentFunc(_)));
            let (missing, _) = imported.find(|(name, _)| !functions.iter().any(|function| function == name))?;
            // `[method]connection.query` is for machines.
            let shown = missing.split_once(']').map_or(missing, |(_, name)| name);
            Some(contract.missing_import(name.version, &format!("{interface}.{shown}")))
        }
        ("wasi:http", interface) => Some(ContractMismatch {
            reason: format!("it needs `wasi:http/{interface}`, which a step can't import"),
            hint: "send requests through `pawl:step/http`, which applies grants and credentials; in JavaScript, build with \
                   `disableFeatures: ['http', 'fetch-event']`"
                .to_owned(),
        }),
        (package, _) if package.strip_prefix("wasi:").is_some_and(|package| WASI_PACKAGES.contains(&package)) => {
            (!versions_compatible(name.version, "0.2.0")).then(|| ContractMismatch {
                reason: format!("it needs {package} {}; this runner offers WASI 0.2", name.version),
                hint: "build it with tools that produce WASI 0.2 components".to_owned(),
            })
        }
        (_, _) => Some(ContractMismatch {
            reason: format!("it needs `{import}`, which this runner does not offer"),
            hint: format!(
                "import only pawl:step {} ({}) and WASI 0.2; see docs/steps.md",
                contract.version,
                contract.importable_interfaces().join(", "),
            ),
        }),
    }
}

/// The contract's definition.
struct ContractDefinition {
    resolve: Resolve,
    package: PackageId,
    version: String,
}

impl ContractDefinition {
    fn new() -> Self {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("step.wit", CONTRACT_WIT).expect("the contract was parsed when this was built");
        let version = resolve.packages[package].name.version.as_ref().map(ToString::to_string).unwrap_or_default();
        Self { resolve, package, version }
    }

    /// The importable interfaces.
    fn importable_interfaces(&self) -> Vec<&str> {
        let worlds = self.resolve.packages[self.package].worlds.values();
        let imports = worlds.flat_map(|world| self.resolve.worlds[*world].imports.values());
        let interface = |item| match item {
            &WorldItem::Interface { id, .. } => self.resolve.interfaces[id].name.as_deref(),
            WorldItem::Function(_) | WorldItem::Type { .. } => None,
        };
        imports.filter_map(interface).collect()
    }

    fn interface_functions(&self, interface: &str) -> Option<Vec<&str>> {
        let id = self.resolve.packages[self.package].interfaces.get(interface)?;
        Some(self.resolve.interfaces[*id].functions.keys().map(String::as_str).collect())
    }

    fn missing_import(&self, version: &str, what: &str) -> ContractMismatch {
        ContractMismatch {
            reason: format!("it needs pawl:step {version} `{what}`; this runner offers {}", self.version),
            hint: format!("use a newer runner, or build it for pawl:step {}", self.version),
        }
    }

    fn version_mismatch(&self, version: &str) -> ContractMismatch {
        let version = if version.is_empty() { "without a version" } else { version };
        let why = format!("it was built for pawl:step {version}; this runner offers {}", self.version);
        let hint = "rebuild it with the contract of this runner (`runner new-step` writes it), or use the runner that it was built for";
        ContractMismatch { reason: why, hint: hint.to_owned() }
    }
}

/// `package/interface@version`.
struct InterfaceName<'a> {
    package: &'a str,
    interface: &'a str,
    version: &'a str,
}

impl<'a> InterfaceName<'a> {
    fn parse(name: &'a str) -> Self {
        let (path, version) = name.split_once('@').unwrap_or((name, ""));
        let (package, interface) = path.split_once('/').unwrap_or((path, ""));
        Self { package, interface, version }
    }
}

/// Whether the linker accepts one version for the other: the first nonzero number must be equal.
fn versions_compatible(required: &str, offered: &str) -> bool {
    fn compatible_prefix(version: &str) -> Vec<&str> {
        let version = version.split(['-', '+']).next().unwrap_or_default();
        let mut parts = version.split('.');
        let mut track = Vec::new();
        for part in parts.by_ref() {
            track.push(part);
            if part != "0" {
                break;
            }
        }
        track
    }
    compatible_prefix(required) == compatible_prefix(offered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_one_track_are_compatible() {
        for (wanted, offered, expected) in [
            ("0.1.0", "0.1.1", true),
            ("0.1.2", "0.1.1", true),
            ("0.2.0", "0.1.1", false),
            ("1.0.0", "1.4.2", true),
            ("2.0.0", "1.4.2", false),
            ("0.0.1", "0.0.2", false),
            ("", "0.1.1", false),
        ] {
            assert_eq!(versions_compatible(wanted, offered), expected, "{wanted} {offered}");
        }
    }

    #[test]
    fn contract_lists_its_interfaces() {
        let offer = ContractDefinition::new();
        assert!(versions_compatible(&offer.version, "0.1.0"), "{}", offer.version);
        assert!(offer.importable_interfaces().contains(&"database"));
        assert!(offer.interface_functions("database").unwrap().contains(&"[method]connection.query"));
        assert_eq!(offer.interface_functions("metrics"), None);
    }
}
