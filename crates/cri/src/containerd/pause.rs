//! The pause image: the process that keeps a pod's namespaces while its containers come and go.
//!
//! It is assembled here, byte by byte, so that nothing needs a registry to start and no second program has to be built
//! and shipped. As process 1 of a pod whose containers share their process namespace it must reap orphans. It blocks
//! all signals and takes them one by one (a blocked signal reaches even process 1, for which unhandled ones are
//! otherwise dropped): SIGTERM and SIGINT end it, anything else makes it reap whoever is dead.

use sha2::{Digest, Sha256};

/// What sandboxes are told to run.
pub(crate) const IMAGE: &str = "skiff.local/pause:1";

/// Where the one segment is mapped; the code follows the two headers.
const BASE: u64 = 0x40_0000;
const FILE_HEADER: usize = 64;
const SEGMENT_HEADER: usize = 56;

#[cfg(target_arch = "x86_64")]
mod code {
    pub(super) const ELF_MACHINE: u16 = 62;
    pub(super) const OCI_ARCHITECTURE: &str = "amd64";
    #[rustfmt::skip]
    pub(super) const CODE: &[u8] = &[
        0x6a, 0xff,                               //       push -1              a set of all signals
        0x49, 0x89, 0xe4,                         //       mov r12, rsp
        0xbf, 2, 0, 0, 0,                         //       mov edi, SIG_SETMASK
        0x4c, 0x89, 0xe6,                         //       mov rsi, r12
        0x31, 0xd2,                               //       xor edx, edx
        0x6a, 8, 0x41, 0x5a,                      //       push 8; pop r10      the set's size
        0xb8, 14, 0, 0, 0, 0x0f, 0x05,            //       rt_sigprocmask
        0x4c, 0x89, 0xe7,                         // wait: mov rdi, r12
        0x31, 0xf6,                               //       xor esi, esi         no details
        0x31, 0xd2,                               //       xor edx, edx         no limit
        0x6a, 8, 0x41, 0x5a,                      //       push 8; pop r10
        0xb8, 128, 0, 0, 0, 0x0f, 0x05,           //       rt_sigtimedwait
        0x83, 0xf8, 15, 0x74, 0x23,               //       cmp eax, SIGTERM; je leave
        0x83, 0xf8, 2, 0x74, 0x1e,                //       cmp eax, SIGINT; je leave
        0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff, // reap: mov rdi, -1          any child
        0x31, 0xf6,                               //       xor esi, esi
        0xba, 1, 0, 0, 0,                         //       mov edx, WNOHANG
        0x45, 0x31, 0xd2,                         //       xor r10d, r10d
        0xb8, 61, 0, 0, 0, 0x0f, 0x05,            //       wait4
        0x85, 0xc0, 0x7f, 0xe4,                   //       test eax, eax; jg reap
        0xeb, 0xc6,                               //       jmp wait
        0x31, 0xff,                               // leave: xor edi, edi
        0xb8, 231, 0, 0, 0, 0x0f, 0x05,           //       exit_group
    ];
}

#[cfg(target_arch = "aarch64")]
mod code {
    pub(super) const ELF_MACHINE: u16 = 183;
    pub(super) const OCI_ARCHITECTURE: &str = "arm64";
    #[rustfmt::skip]
    const WORDS: [u32; 31] = [
        0x9280_0000, 0xf81f_0fe0, 0x9100_03f3,              //       mov x0, -1; push it; mov x19, sp: all signals
        0xd280_0040, 0xaa13_03e1, 0xd280_0002, 0xd280_0103, //       SIG_SETMASK, the set, nothing, its size
        0xd280_10e8, 0xd400_0001,                           //       rt_sigprocmask
        0xaa13_03e0, 0xd280_0001, 0xd280_0002, 0xd280_0103, // wait: the set, no details, no limit, its size
        0xd280_1128, 0xd400_0001,                           //       rt_sigtimedwait
        0x7100_3c1f, 0x5400_0180,                           //       cmp w0, SIGTERM; b.eq leave
        0x7100_081f, 0x5400_0140,                           //       cmp w0, SIGINT; b.eq leave
        0x9280_0000, 0xd280_0001, 0xd280_0022, 0xd280_0003, // reap: any child, no status, WNOHANG, no usage
        0xd280_2088, 0xd400_0001,                           //       wait4
        0x7100_001f, 0x54ff_ff2c,                           //       cmp w0, 0; b.gt reap
        0x17ff_ffee,                                        //       b wait
        0xd280_0000, 0xd280_0bc8, 0xd400_0001,              // leave: exit_group(0)
    ];
    const BYTES: [u8; 124] = {
        let mut bytes = [0; 124];
        let mut i = 0;
        while i < 124 {
            bytes[i] = WORDS[i / 4].to_le_bytes()[i % 4];
            i += 1;
        }
        bytes
    };
    pub(super) const CODE: &[u8] = &BYTES;
}

/// The program: two headers and the code in one read-only, executable segment.
fn program() -> Vec<u8> {
    let size = (FILE_HEADER + SEGMENT_HEADER + code::CODE.len()) as u64;
    let mut elf = Vec::with_capacity(size as usize);
    elf.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // 64 bits, little-endian
    elf.extend(2u16.to_le_bytes()); // an executable
    elf.extend(code::ELF_MACHINE.to_le_bytes());
    elf.extend(1u32.to_le_bytes());
    elf.extend((BASE + (FILE_HEADER + SEGMENT_HEADER) as u64).to_le_bytes()); // where to begin
    elf.extend((FILE_HEADER as u64).to_le_bytes()); // where the segment header is
    elf.extend(0u64.to_le_bytes()); // no sections
    elf.extend(0u32.to_le_bytes());
    for half in [FILE_HEADER as u16, SEGMENT_HEADER as u16, 1, 64, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1u32.to_le_bytes()); // loaded
    elf.extend(5u32.to_le_bytes()); // readable, executable
    for word in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code::CODE);
    elf
}

/// The image as an OCI archive.
pub(crate) fn archive() -> std::io::Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    add(&mut layer, "pause", &program(), 0o755)?;
    let layer = layer.into_inner()?;
    let config = serde_json::json!({
        "architecture": code::OCI_ARCHITECTURE,
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
    });
    let config = config.to_string().into_bytes();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = serde_json::json!({"io.containerd.image.name": IMAGE});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});

    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    for blob in [&layer, &config, &manifest] {
        add(&mut archive, &digest(blob).replace("sha256:", "blobs/sha256/"), blob, 0o644)?;
    }
    add(&mut archive, "index.json", index.to_string().as_bytes(), 0o644)?;
    archive.into_inner()
}

fn add(archive: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8], mode: u32) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    archive.append_data(&mut header, path, content)
}

fn digest(blob: &[u8]) -> String {
    let hex: String = Sha256::digest(blob).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn descriptor(media_type: &str, blob: &[u8]) -> serde_json::Value {
    serde_json::json!({"mediaType": media_type, "digest": digest(blob), "size": blob.len()})
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    /// Runs the program on this kernel: it must wait, ignore other signals, and leave at SIGTERM with exit code 0.
    #[test]
    fn the_program_waits_and_leaves_when_asked() {
        use nix::sys::signal::{Signal, kill};
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pause");
        std::fs::write(&path, program()).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
        let mut child = std::process::Command::new(&path).spawn().expect("starts");
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        // Asleep: it can only be in the call it is meant to wait in.
        let state = |pid| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        while !state(pid).contains("State:\tS") {
            assert!(child.try_wait().expect("a state").is_none(), "left by itself");
            std::thread::yield_now();
        }
        kill(pid, Signal::SIGHUP).expect("sent");
        kill(pid, Signal::SIGTERM).expect("sent");
        let status = child.wait().expect("ends");
        assert_eq!((status.code(), status.signal()), (Some(0), None));
    }

    #[test]
    fn the_archive_is_the_same_every_time() {
        let archive = archive().expect("built");
        assert_eq!(archive, super::archive().expect("built"));
        let mut names = Vec::new();
        for entry in tar::Archive::new(&archive[..]).entries().expect("a tar") {
            names.push(entry.expect("an entry").path().expect("a path").display().to_string());
        }
        assert_eq!((names.len(), names[0].as_str(), names[4].as_str()), (5, "oci-layout", "index.json"));
    }
}
