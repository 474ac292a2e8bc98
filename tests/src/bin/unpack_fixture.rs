//! Decompresses a fixture image to a file: `unpack_fixture NAME FILE`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, file] = args.as_slice() else {
        eprintln!("usage: unpack_fixture NAME FILE");
        return ExitCode::from(2);
    };
    let image = clone_tests::fixtures::decompressed(&format!("{name}.img.zst"));
    match std::fs::write(file, image) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("unpack_fixture: {file}: {error}");
            ExitCode::FAILURE
        }
    }
}
