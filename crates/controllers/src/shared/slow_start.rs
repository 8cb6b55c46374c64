//! Slow start: 1, 2, 4, ... calls at a time, and no further batch after a failure, so that a whole burst does not run
//! into the same wall (a quota, a webhook).

use std::future::Future;

/// Makes one of each item in growing batches; answers with what succeeded, and the first failure.
pub(crate) async fn slow_start<'a, I, T, E, F: Future<Output = Result<T, E>>>(
    items: &'a [I],
    make: impl Fn(&'a I) -> F,
) -> (Vec<T>, Option<E>) {
    let mut made = Vec::with_capacity(items.len());
    let (mut rest, mut size) = (items, 1);
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(size.min(rest.len()));
        let mut failure = None;
        for outcome in futures::future::join_all(batch.iter().map(&make)).await {
            match outcome {
                Ok(value) => made.push(value),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if failure.is_some() {
            return (made, failure);
        }
        (rest, size) = (later, size * 2);
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
        let make = |n: &usize| {
            called.borrow_mut().push(*n);
            let n = *n;
            async move { if n == 4 { Err("no") } else { Ok(n) } }
        };
        let items: Vec<usize> = (0..20).collect();
        let (made, failure) = slow_start(&items, make).now_or_never().unwrap();
        assert_eq!((made, failure), (vec![0, 1, 2, 3, 5, 6], Some("no")));
        assert_eq!(*called.borrow(), (0..7).collect::<Vec<_>>());
        let all = slow_start(&items[..3], |n| async move { Ok::<_, ()>(*n) }).now_or_never().unwrap();
        assert_eq!(all, (vec![0, 1, 2], None));
    }
}
