//! Slow start: 1, 2, 4, ... calls at a time, and no further batch after a failure, so that a whole burst does not run
//! into the same wall (a quota, a webhook).

use std::future::Future;

/// Calls `make(0..count)` in growing batches; answers with what succeeded, and the first failure.
pub(crate) async fn slow_start<T, E, F: Future<Output = Result<T, E>>>(
    count: usize,
    make: impl Fn(usize) -> F,
) -> (Vec<T>, Option<E>) {
    let mut made = Vec::with_capacity(count);
    let (mut next, mut size) = (0, 1);
    while next < count {
        let end = (next + size).min(count);
        let mut failure = None;
        for outcome in futures::future::join_all((next..end).map(&make)).await {
            match outcome {
                Ok(value) => made.push(value),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if failure.is_some() {
            return (made, failure);
        }
        (next, size) = (end, size * 2);
    }
    (made, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::cell::RefCell;

    #[test]
    fn stops_after_the_batch_with_a_failure() {
        let called = RefCell::new(Vec::new());
        let make = |n: usize| {
            called.borrow_mut().push(n);
            async move { if n == 4 { Err("no") } else { Ok(n) } }
        };
        let (made, failure) = slow_start(20, make).now_or_never().unwrap();
        assert_eq!((made, failure), (vec![0, 1, 2, 3, 5, 6], Some("no")));
        assert_eq!(*called.borrow(), (0..7).collect::<Vec<_>>());
        assert_eq!(slow_start(3, |n| async move { Ok::<_, ()>(n) }).now_or_never().unwrap(), (vec![0, 1, 2], None));
    }
}
