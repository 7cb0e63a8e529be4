//! Replays the corpora of the fuzz targets (`fuzz/corpus`), so that what fuzzing found stays found. For tests only.

use std::{fs, path::Path};

/// Runs `target` on each file of its corpus.
pub fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("every fuzz target has a corpus") {
        let path = entry.expect("the folder can be read").path();
        let bytes = fs::read(&path).expect("a file of the corpus can be read");
        let survived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&bytes)));
        assert!(survived.is_ok(), "{} makes `{target}` panic", path.display());
        count += 1;
    }
    assert!(count >= 10, "the corpus of `{target}` is gone: {count} files");
}
