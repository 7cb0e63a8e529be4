//! Builds the official step modules for wasm, componentizes and precompiles them, and calls their `describe`, so that
//! the binary does none of that at start.
//!
//! The nested cargo has a fixed target directory (`<target>/guest`): OUT_DIR differs by profile, and would build std for
//! wasm each time. A component is precompiled again only when its bytes or the engine changed.

use std::{
    env, fs,
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow};
use sha2::{Digest as _, Sha256};
use wasmtime::component::{Component, Linker};

#[expect(clippy::disallowed_methods, reason = "a build script is told where to build by its environment")]
fn main() -> Result<()> {
    let root = Path::new("../../..").canonicalize()?;
    for watched in ["steps", "wit"] {
        guest_build::rerun_if_changed(&root.join(watched))?;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    let guest = target_dir(&out)?.join("guest");
    let components = guest_build::build(&root.join("steps"), &guest)?;

    let fault = |error: wasmtime::Error| anyhow!("{error:#}");
    let engine = wasmtime::Engine::new(&wasm_config::engine_config().map_err(fault)?).map_err(fault)?;
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    let engine_hash = hasher.finish();

    let mut table = String::from("&[\n");
    for component in components {
        let wasm = fs::read(&component.path)?;
        let digest: String = Sha256::digest(&wasm).iter().map(|byte| format!("{byte:02x}")).collect();
        let compiled =
            guest.join("compiled").join(format!("{}-{engine_hash:016x}-{}.cwasm", component.name, &digest[..32]));
        if !compiled.exists() {
            let bytes = engine
                .precompile_component(&wasm)
                .map_err(fault)
                .with_context(|| format!("compile {}", component.name))?;
            fs::create_dir_all(guest.join("compiled"))?;
            let fresh = compiled.with_extension("new");
            fs::write(&fresh, bytes)?;
            fs::rename(&fresh, &compiled)?;
        }
        let copy = out.join(format!("{}.cwasm", component.name));
        fs::copy(&compiled, &copy)?;
        let description = describe_module(&engine, &fs::read(&compiled)?).with_context(|| component.name.clone())?;
        table += &format!(
            "    OfficialModule {{ name: {:?}, digest: {:?}, description: {description:?}, compiled: &PageAligned(*include_bytes!({copy:?})) }},\n",
            component.name, digest,
        );
    }
    fs::write(out.join("official.rs"), table + "]\n")?;
    Ok(())
}

/// Calls `describe` of a module. It needs no imports: each would trap.
#[expect(unsafe_code, reason = "loads what this script has just compiled")]
fn describe_module(engine: &wasmtime::Engine, compiled: &[u8]) -> Result<String> {
    let fault = |error: wasmtime::Error| anyhow!("{error:#}");
    // SAFETY: the bytes are the output of `precompile_component` of this engine, in our own target directory.
    let component = unsafe { Component::deserialize(engine, compiled) }.map_err(fault)?;
    let mut linker = Linker::new(engine);
    linker.define_unknown_imports_as_traps(&component).map_err(fault)?;
    let mut store = wasmtime::Store::new(engine, ());
    store.set_epoch_deadline(1);
    let instance = linker.instantiate(&mut store, &component).map_err(fault)?;
    let step = component.component_type();
    let is_step = |name: &str| name.starts_with("pawl:step/step@");
    let (name, _) = step.exports(engine).find(|(name, _)| is_step(name)).context("a module exports its step")?;
    let (_, step) = instance.get_export(&mut store, None, name).context("a module exports its step")?;
    let (_, function) = instance.get_export(&mut store, Some(&step), "describe").context("a step describes itself")?;
    let function = instance.get_typed_func::<(), (String,)>(&mut store, function).map_err(fault)?;
    Ok(function.call(&mut store, ()).map_err(fault)?.0)
}

/// `<target>` of `<target>/<profile>/build/<package>/out`.
fn target_dir(out: &Path) -> Result<&Path> {
    out.ancestors().nth(4).context("OUT_DIR lies four folders below the target directory")
}
