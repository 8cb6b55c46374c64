//! How many seats a request takes (upstream: `k8s.io/apiserver/pkg/util/flowcontrol/request`): lists by the bytes they
//! hold in memory, writes by those who watch what is written, everything else one.

use std::time::Duration;

use super::queues::Work;

/// Bytes of a list per seat.
const BYTES: u64 = 100_000;
/// A list is made while it is sent: more than this of it is never held.
const HELD: u64 = 1_000_000;
/// Seats of a list at most.
const WIDEST_LIST: u32 = 100;
/// Seats of a write at most.
const WIDEST_WRITE: u32 = 10;
/// Watchers per seat.
const WATCHERS: u32 = 10;
/// How long so many watchers keep a seat busy. An event is encoded once for all of them, so that this is a hundredth of
/// what upstream reckons with.
const TELLING: Duration = Duration::from_micros(50);

/// A list of so many objects of this size on average.
pub(super) fn list(objects: u64, bytes: u64, widest: u32) -> Work {
    let held = objects.saturating_mul(bytes).min(HELD);
    let seats = u32::try_from(held.div_ceil(BYTES)).unwrap_or(u32::MAX);
    Work { initial: seats.clamp(1, WIDEST_LIST.min(widest)), ..Work::ONE }
}

/// A write that so many are told of.
pub(super) fn write(watchers: usize, widest: u32) -> Work {
    let watchers = u32::try_from(watchers).unwrap_or(u32::MAX);
    if watchers < WATCHERS {
        return Work::ONE;
    }
    let seats = watchers.div_ceil(WATCHERS);
    let last = seats.min(WIDEST_WRITE.min(widest));
    Work { initial: 1, last, lingers: TELLING * seats / last }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_of_lists_and_writes() {
        let cases = [(0, 0, 1), (1, 500, 1), (150, 1_000, 2), (30_000, 1_000, 10)];
        for (objects, bytes, seats) in cases {
            assert_eq!(list(objects, bytes, 50).initial, seats);
        }
        assert_eq!(list(30_000, 1_000, 4).initial, 4);
        assert_eq!(write(9, 50), Work::ONE);
        assert_eq!(write(11, 50), Work { initial: 1, last: 2, lingers: TELLING });
        assert_eq!(write(1_000, 50), Work { initial: 1, last: 10, lingers: TELLING * 10 });
    }
}
