//! Compiles the interface files with a compiler written in Rust, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = ["registration", "csi", "device", "dra", "podresources"].map(|name| format!("proto/{name}.proto"));
    tonic_prost_build::configure().btree_map(".").compile_fds(protox::compile(files, ["proto"])?)?;
    Ok(())
}
