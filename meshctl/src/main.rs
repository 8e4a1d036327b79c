//! `meshctl`: see the library.

fn main() -> std::process::ExitCode {
    meshctl::main()
}
