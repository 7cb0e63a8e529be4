#!/bin/sh
# Builds my-step.wasm with the active Rust toolchain if it has the target, otherwise with Debian's.
set -eu
cd "$(dirname "$0")"
target=wasm32-unknown-unknown
libraries=$(rustc --print target-libdir --target "$target" 2>/dev/null || true)

if ls "$libraries"/libstd-* >/dev/null 2>&1; then
    cargo build --release --target "$target" --target-dir target
elif [ -e /usr/lib/rustlib/src/rust/library/Cargo.lock ]; then
    # Debian ships the standard library as source only. The first build compiles it, which takes half a minute.
    linker=$(ls /usr/bin/wasm-ld* | sort -V | tail -n 1)
    RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$linker \
        /usr/bin/cargo build --release --target "$target" --target-dir target -Zbuild-std=std,panic_abort
else
    echo "no Rust toolchain for $target is installed. With rustup: rustup target add $target" >&2
    echo "With Debian: apt-get install rustc-web cargo-web rust-web-src rust-web-llvm lld-22" >&2
    exit 1
fi
cp "target/$target/release/step.wasm" my-step.wasm
echo my-step.wasm
