//! What a container said last: the file it may leave, or the end of its log.

use std::path::Path;

use super::state::{ContainerRecord, Life};
use crate::os::Files;

/// The longest message, in bytes.
const LONGEST: usize = 4096;
/// The longest message taken from a log, in bytes and lines.
const LONGEST_FROM_LOG: usize = 2048;
const LINES_FROM_LOG: usize = 80;

/// The last words of a container that has ended; empty when it left none.
pub(crate) fn read(files: &dyn Files, record: &ContainerRecord) -> String {
    if record.life != Life::Exited {
        return String::new();
    }
    let file = record.message_file.as_deref().map(|path| files.tail(Path::new(path), LONGEST));
    let left = file.and_then(Result::ok).unwrap_or_default();
    if left.is_empty() && record.message_from_log && record.exit_code != 0 {
        // Each line carries its time and stream, so more has to be read than will be kept.
        let end = files.tail(Path::new(&record.log_path), LONGEST_FROM_LOG * 8).unwrap_or_default();
        return from_log(&String::from_utf8_lossy(&end));
    }
    String::from_utf8_lossy(&left).into_owned()
}

/// The text of a log's last lines (`TIME STREAM TAG TEXT` each; tag `P`: the line goes on in the next one).
fn from_log(end: &str) -> String {
    let lines: Vec<&str> = end.lines().collect();
    let mut kept = String::new();
    for line in lines.get(lines.len().saturating_sub(LINES_FROM_LOG)..).unwrap_or_default() {
        let mut words = line.splitn(4, ' ').skip(2);
        let (tag, text) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        kept.push_str(text);
        if !tag.starts_with('P') {
            kept.push('\n');
        }
    }
    let start = (kept.len().saturating_sub(LONGEST_FROM_LOG)..).find(|at| kept.is_char_boundary(*at));
    kept.get(start.unwrap_or(0)..).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::RealFiles;

    #[test]
    fn file_or_log() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(dir.path().join("log"), "t stdout F one\nt stderr F two words\n").expect("written");
        let mut record = ContainerRecord {
            life: Life::Exited,
            exit_code: 1,
            log_path: path("log"),
            message_file: Some(path("message")),
            message_from_log: true,
            ..ContainerRecord::default()
        };
        assert_eq!(read(&RealFiles, &record), "one\ntwo words\n");
        std::fs::write(dir.path().join("log"), "t stdout F one\nt stdout P DO\nt stdout P NE\n").expect("written");
        assert_eq!(read(&RealFiles, &record), "one\nDONE", "no end of line where the container wrote none");
        std::fs::write(dir.path().join("message"), "because").expect("written");
        assert_eq!(read(&RealFiles, &record), "because");
        record.message_file = None;
        record.exit_code = 0;
        assert_eq!(read(&RealFiles, &record), "");
    }
}
