//! The program's own code, of which the start needs far more than what comes after it.
//!
//! The kernel keeps every page of code in memory that was ever run, and counts it to the process. Most of Skiff's was run
//! once, to parse flags, make certificates or fill tables. When the process has become quiet, after the start and after
//! each time that it had much to do, all of its code is given back; what is needed again is read again, a few milliseconds
//! once.
//!
//! This is the one module with `unsafe`: no library offers this advice to the kernel as a safe call.

use std::ffi::c_void;
use std::time::Duration;

use skiff_meta::WorldRef;

/// How long the process is watched at a time: after its start, and later.
const WINDOW: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(10));
/// The processor time in a second up to which the process is quiet, and beyond which it had much to do.
const QUIET: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(100));

/// Whether the process has had much to do since its code was given back.
struct Busy(bool);

impl Busy {
    /// It has used this much in a window. Whether it is quiet now, and was busy before.
    fn settles(&mut self, used: Duration, window: Duration) -> bool {
        let share = used.div_duration_f64(window);
        self.0 |= share > QUIET.1.as_secs_f64();
        let settles = self.0 && share <= QUIET.0.as_secs_f64();
        self.0 &= !settles;
        settles
    }
}

/// Gives the code back whenever the process has become quiet, for ever.
pub async fn give_back_when_quiet(world: WorldRef) {
    let (mut busy, mut window, mut before) = (Busy(true), WINDOW.0, processor_time());
    loop {
        world.sleep(window).await;
        let now = processor_time();
        if busy.settles(now.saturating_sub(before), window) {
            window = WINDOW.1;
            match give_back() {
                Ok(bytes) => tracing::debug!(bytes, "code that is not needed now is given back"),
                // It would not be another time.
                Err(error) => return tracing::debug!("code cannot be given back: {error}"),
            }
        }
        before = now;
    }
}

/// Gives back all code and constants of this program, and tells how many bytes those are.
///
/// # Errors
/// On kernels older than 5.4, which do not know this advice.
fn give_back() -> std::io::Result<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let program = std::fs::read_link("/proc/self/exe")?;
    let parts = program.to_str().map(|program| unwritable(&maps, program)).unwrap_or_default();
    for (from, to) in &parts {
        give_back_range(*from as *mut c_void, to - from)?;
    }
    Ok(parts.iter().map(|(from, to)| to - from).sum())
}

/// Asks the kernel to take the pages of a range back.
#[allow(unsafe_code)]
fn give_back_range(from: *mut c_void, length: usize) -> std::io::Result<()> {
    // SAFETY: this advice never changes what is read from a page, only where it lies until then; a range that is not
    // mapped (any more) is an error and nothing else.
    unsafe { rustix::mm::madvise(from, length, rustix::mm::Advice::LinuxPageOut) }.map_err(Into::into)
}

/// The address ranges of `program` in the text of /proc/PID/maps that cannot be written to.
fn unwritable(maps: &str, program: &str) -> Vec<(usize, usize)> {
    let range = |line: &str| {
        let mut words = line.splitn(6, ' ');
        let (range, permissions) = (words.next()?, words.next()?);
        let file = words.nth(3)?.trim_start();
        let (from, to) = range.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        (file == program && !permissions.contains('w')).then_some((address(from)?, address(to)?))
    };
    maps.lines().filter_map(range).collect()
}

/// What this process has used so far.
fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.unsigned_abs(), u32::try_from(used.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_programs_own_code_and_constants_are_given_back() {
        let maps = "\
            555500000000-555500010000 r--p 00000000 fe:00 42                         /usr/bin/a skiff\n\
            555500010000-555500030000 r-xp 00010000 fe:00 42                         /usr/bin/a skiff\n\
            555500030000-555500031000 rw-p 00030000 fe:00 42                         /usr/bin/a skiff\n\
            555500031000-555500032000 rw-p 00000000 00:00 0                          [heap]\n\
            7f0000000000-7f0000001000 r-xp 00000000 fe:00 43                         /lib/libc.so.6\n\
            7f0000001000-7f0000002000 r--p 00000000 00:00 0 \n\
            nonsense\n";
        let expected = [(0x5555_0000_0000, 0x5555_0001_0000), (0x5555_0001_0000, 0x5555_0003_0000)];
        assert_eq!(unwritable(maps, "/usr/bin/a skiff"), expected);
        assert_eq!(unwritable(maps, "/usr/bin/other"), []);
    }

    #[test]
    fn it_is_given_back_once_after_each_time_of_work() {
        let mut busy = Busy(true);
        let used = [500, 30, 30, 150, 10, 9000, 300, 200, 0];
        let settled = used.map(|millis| busy.settles(Duration::from_millis(millis), Duration::from_secs(10)));
        assert_eq!(settled, [false, true, false, false, false, false, false, true, false]);
    }

    #[test]
    fn code_that_was_given_back_runs_on() {
        assert!(give_back().unwrap() > 100_000, "a program has code");
        assert!(processor_time() > Duration::ZERO);
    }
}
