//! The seeds of the fuzzers are the inputs of the tests: each target writes them into
//! the folder that `scripts/fuzz` names.

use std::{env, fs, path::PathBuf};

/// Writes inputs into the folder, one a file.
pub fn write(inputs: impl IntoIterator<Item = Vec<u8>>) {
    let Some(folder) = env::var_os("CLICKHOOK_FUZZ_SEEDS").map(PathBuf::from) else { return };
    fs::create_dir_all(&folder).expect("the folder can be made");
    for (index, bytes) in inputs.into_iter().enumerate() {
        fs::write(folder.join(index.to_string()), bytes).expect("the folder takes a file");
    }
}
